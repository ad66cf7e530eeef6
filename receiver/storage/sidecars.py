"""What lies beside a recording: `NAME.json`, `.txt`, `.vtt` and `.hold`, read and written here."""

import json
import re
from contextlib import closing, suppress
from typing import Any

from ..core.naming import sidecar
from ..core.publish import storage_errors
from ..errors import NotStored, ReceiverError
from ..formats import SIDECARS
from ..parts import Recording, Storage
from .paths import older_beside

HOLD = "hold"  # the kind that keeps a recording from being deleted
LONGEST = 4 * 1024 * 1024  # bytes that are read of one
LONGEST_LINE = 255  # characters
VARIABLES, IN_CHANNEL = "custom_channel_vars", "Media-Recording-ID"
# What may tell the id of a recording, by which those of one call are told apart.
IDS = ("recording_id", "id", VARIABLES, f"{VARIABLES}[{IN_CHANNEL}]")
_dumps = json.JSONEncoder(ensure_ascii=False).encode
_ACCOUNT = re.compile(r"[0-9a-f]{32}")


def open_beside(storage: Storage, path: str, kind: str) -> Recording:
    """Open what lies beside the recording at `path`, also where an earlier release put it.

    Raises `NotStored`.
    """
    try:
        return storage.open(sidecar(path, kind))
    except NotStored:
        if not (old := older_beside(path, kind)):
            raise
        return storage.open(old)


def kinds_beside(storage: Storage, path: str) -> tuple[str, ...]:
    """The kinds of what lies beside the recording at `path`, be it readable or not."""
    found = []
    for kind in SIDECARS:
        try:
            open_beside(storage, path, kind).close()
        except NotStored:
            continue
        except ReceiverError:
            pass
        found.append(kind)
    return tuple(found)


def read(storage: Storage, path: str, kind: str) -> bytes | None:
    """What lies beside the recording at `path`, at most `LONGEST` bytes; None if nothing does."""
    try:
        with storage_errors(), closing(open_beside(storage, path, kind)) as blob:
            return blob.read(LONGEST)
    except NotStored:
        return None


def told(storage: Storage, path: str) -> dict[str, Any]:
    """What the sender told of the recording at `path`; `ValueError` where that is unreadable."""
    return from_json(read(storage, path, "json") or b"{}")


def told_if_readable(storage: Storage, path: str) -> dict[str, Any]:
    """What the sender told of the recording at `path`; nothing where that is unreadable."""
    with suppress(ValueError):
        return told(storage, path)
    return {}


def told_as_json(storage: Storage, path: str) -> dict[str, Any]:
    """The same as JSON that every program can read: without NaN and Infinity."""
    with suppress(RecursionError):
        text = json.dumps(told_if_readable(storage, path))
        found: dict[str, Any] = json.loads(text, parse_constant=str)
        return found
    return {}


def from_json(data: bytes) -> dict[str, Any]:
    """The fields of a JSON object; raises `ValueError` unless it is one."""
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is no object")
    return document


def to_json(fields: dict[str, Any]) -> bytes:
    """The fields as the text of `NAME.json`, a line for each; nothing where there are none."""
    if not fields:
        return b""
    # Indented as a whole, what is nested deeply would take a thousand times its size.
    lines = (f"{_dumps(str(name))}: {_dumps(value)}" for name, value in fields.items())
    return ("{\n " + ",\n ".join(lines) + "\n}\n").encode("utf-8", "replace")


def account_of(told: dict[str, Any], folder: str) -> str:
    """Kazoo's account: from the metadata, or from the path of a storage plan; "" if unknown."""
    if told.get("account_id"):
        return as_line(told["account_id"])
    variables = told.get("custom_channel_vars")
    if isinstance(variables, dict) and variables.get("Account-ID"):
        return as_line(variables["Account-ID"])
    first = folder.partition("/")[0]
    return first if _ACCOUNT.fullmatch(first) else ""


def as_line(value: object) -> str:
    """A value as text that every database takes: of Unicode characters, and not NUL."""
    text = str(value).encode("utf-8", "replace").decode()
    return text.replace("\0", "")[:LONGEST_LINE]
