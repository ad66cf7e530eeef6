"""The legal hold: a file beside a recording that keeps it from being deleted."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..errors import NotStored, ReceiverError, StorageUnavailable
from ..parts import Listed, Storage
from ..storage import sidecars
from ..storage.parallel import in_parallel
from ..storage.paths import extension_of, original
from ..storage.sidecars import HOLD

ATTEMPTS = 10  # at a name that others keep publishing under meanwhile


@dataclass(frozen=True)
class Hold:
    """A recording under legal hold; `since` is a time (ISO 8601)."""

    path: str
    since: str
    reason: str


def versions(storage: Storage, path: str) -> list[str]:
    """The stored paths of all recordings that have or had the name of the one at `path`.

    Whatever numbers are missing: a listing shows more than what a storage knows of a name.
    """
    name = original(path)
    start = name.removesuffix(f".{extension_of(name)}")
    found = (each.path for each in storage.scan(start) if not each.is_gone)
    return sorted({*storage.versions(path), *(each for each in found if original(each) == name)})


def hold_of(storage: Storage, path: str) -> Hold | None:
    """The hold on the recording at `path`; a file that cannot be understood holds it too."""
    data = sidecars.read(storage, path, HOLD)
    if data is None:
        return None
    known: dict[str, Any] = {}
    with suppress(ValueError):
        known = sidecars.from_json(data)
    return Hold(path, str(known.get("since", "")), str(known.get("reason", "")))


def holds(
    storage: Storage,
    *,
    progress: Callable[[Listed], object] = lambda recording: None,
    odd: Callable[[str, Exception], object] = lambda path, error: None,
) -> Iterator[Hold]:
    """Every hold there is; `odd` is called for each recording of which that cannot be told."""

    def look(recording: Listed) -> Any:
        try:
            return hold_of(storage, recording.path)
        except Exception as error:
            odd(recording.path, error)

    scan = storage.scan(odd=lambda line: odd("", ValueError(line)))
    for recording, done in in_parallel(look, scan):
        held: Any = done.result()
        if held:
            yield held
        progress(recording)


def hold(storage: Storage, path: str, reason: str = "") -> list[str]:
    """Hold the recording at `path` and all others that have or had its name; return their paths.

    One that is held already keeps its time, and its reason too unless there is another. A recording
    that is stored under the name later is not held. Raises `NotStored` where there is none.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")

    def text(old: Hold | None) -> bytes:
        told = {"since": old.since if old else now, "reason": reason or (old.reason if old else "")}
        return json.dumps(told, ensure_ascii=False).encode() + b"\n"

    return _mark(storage, path, text)


def release(storage: Storage, path: str) -> list[str]:
    """End the holds on all recordings that have or had the name; return their paths."""
    return _mark(storage, path, lambda old: b"" if old else None)


def _mark(storage: Storage, path: str, text: Callable[[Hold | None], bytes | None]) -> list[str]:
    """Attach the text of a hold, or with b"" remove it, to all recordings of a name."""
    marked: set[str] = set()
    for _ in range(ATTEMPTS):
        paths = versions(storage, path)
        if path not in paths:
            raise NotStored(f"no recording is stored as {path}")
        with suppress(NotStored):  # one was superseded or deleted meanwhile
            for each in paths:
                with closing(storage.open(each)) as recording:
                    etag = recording.etag
                data = text(hold_of(storage, each))
                if data is not None:
                    storage.attach(each, HOLD, data, etag)
                    marked.add(each)
            if versions(storage, path) == paths:
                return sorted(marked)
    raise StorageUnavailable(f"others keep storing recordings as {path}: try again")


def is_stored(storage: Storage, path: str) -> bool:
    """Whether something is stored at `path`, be it readable or not."""
    try:
        storage.open(path).close()
    except NotStored:
        return False
    except ReceiverError:
        pass
    return True
