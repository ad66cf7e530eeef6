"""Which of the recordings that share a name a request is for: those of one call do.

Kazoo names one by the id of its own document: in `id`, and in a channel variable. Kazoo 4.1 and 4.2
repeat the upload's query, in which 4.2 has it as `recording_id`.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from werkzeug.datastructures import MultiDict

from ..errors import NotStored
from ..parts import Name, Recording, Storage
from ..storage.base import open_named
from ..storage.paths import older, original
from ..storage.sidecars import IN_CHANNEL, VARIABLES, from_json

_ASKED = ("id", f"{VARIABLES}[{IN_CHANNEL}]", "recording_id")


def asked_id(query: MultiDict[str, str]) -> str:
    """The id that a request names, "" if it names none.

    What Kazoo adds to a stored URL comes last.
    """
    for field in _ASKED:
        for value in reversed(query.getlist(field)):
            if value:
                return _plain(value)
    return ""


def open_asked(storage: Storage, name: Name, asked: str) -> tuple[str, Recording]:
    """Open the recording of a name that an id names; with none, the newest.

    Where no recording of the name has that id, it is the newest of those of which none is known.
    Returns its stored path too; raises `NotStored` where all have other ids.
    """
    if not asked:
        return open_named(storage, name)
    for path in dict.fromkeys([str(name), older(str(name))]):
        if found := _find(storage, path, asked):
            return found
    raise NotStored(f"no recording with this id is stored as {name}")


def open_received(storage: Storage, path: str, received: int) -> tuple[str, Recording]:
    """Open the recording of the name of `path` that was received at a time, in milliseconds.

    It is the one at `path`, unless another has taken its name since the time was told; 0 is any.
    Returns its stored path too; raises `NotStored` where none of the name was received then.
    """
    for each in dict.fromkeys([path, *(storage.versions(original(path)) if received else [])]):
        with suppress(NotStored):
            recording = storage.open(each)
            if received in (0, milliseconds(recording.modified)):
                return each, recording
            recording.close()
    raise NotStored("another recording has the name by now: load the page again")


def milliseconds(modified: float) -> int:
    return round(modified * 1000)


def _find(storage: Storage, newest: str, asked: str) -> tuple[str, Recording] | None:
    paths, before = [newest], [""]  # most names have one recording
    nameless = None
    while paths != before:  # or some were superseded or deleted meanwhile
        if nameless:
            nameless[1].close()
            nameless = None
        for path in paths:
            with suppress(NotStored):
                recording, about = storage.open_described(path)
                known = None if about is None else _id_of(about)
                if known == asked:
                    if nameless:
                        nameless[1].close()
                    return path, recording
                if known == "" and not nameless:
                    nameless = path, recording
                else:
                    recording.close()
        before, paths = paths, storage.versions(newest)
    return nameless


def _id_of(about: bytes) -> str:
    """The id that the text of a `NAME.json` holds, "" if there is none."""
    told: Mapping[str, Any] = {}
    with suppress(ValueError):
        told = from_json(about or b"{}")
    variables = told.get(VARIABLES)
    in_channel = variables.get(IN_CHANNEL) if isinstance(variables, dict) else None
    found = (
        told.get("recording_id"),
        told.get("id"),
        in_channel or told.get(f"{VARIABLES}[{IN_CHANNEL}]"),
    )
    return next((_plain(str(each)) for each in found if _is_id(each)), "")


def _plain(id_: str) -> str:
    """An id as it can be compared: in some of Kazoo's queries, a plus stands for a space."""
    return id_.replace("+", " ")


def _is_id(value: object) -> bool:
    return bool(value) and isinstance(value, str | int) and not isinstance(value, bool)
