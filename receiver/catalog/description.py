"""What is known of a stored recording: from its name, its metadata, and the audio itself."""

import json
import re
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from ..core.naming import call_id_of, extension_of, original, sidecar
from ..errors import NotStored
from ..storage import Listed, Storage

# Seconds from the year 0, in which Kazoo counts, to 1970 (calendar:datetime_to_gregorian_seconds).
GREGORIAN = 62_167_219_200
LONGEST_TEXT = 255  # characters
LONGEST_SIDECAR = 4 * 1024 * 1024  # bytes
_ACCOUNT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Description:
    """A recording as people look for it; "" and 0 are unknown.

    Times are POSIX, durations in seconds, sizes in bytes.
    """

    path: str
    folder: str
    original: str  # the path that it had before another took its name, else the same
    size: int
    received: float
    account: str
    call_id: str
    caller_name: str
    caller_number: str
    callee_name: str
    callee_number: str
    from_: str
    to: str
    cdr_id: str
    interaction_id: str
    start: float
    duration: float
    extension: str
    sha256: str
    transcript: str


def describe(storage: Storage, recording: Listed) -> Description:
    """Read what is known of a stored recording; raises as the storage does."""
    told = read_metadata(storage, recording.path)
    path = recording.path
    folder = path.rpartition("/")[0]

    def text(*names: str) -> str:
        return next((_line(told[name]) for name in names if told.get(name)), "")

    duration = _number(told.get("duration_ms"), 0.001) or _number(told.get("duration"))
    start = _number(told.get("start"))
    return Description(
        path=path,
        folder=folder,
        original=original(path),
        size=recording.size,
        received=recording.modified,
        account=account_of(told, folder),
        call_id=text("call_id") or _line(call_id_of(path)),
        caller_name=text("caller_id_name"),
        caller_number=text("caller_id_number"),
        callee_name=text("callee_id_name"),
        callee_number=text("callee_id_number"),
        from_=text("from"),
        to=text("to"),
        cdr_id=text("cdr_id"),
        interaction_id=text("interaction_id"),
        start=start - GREGORIAN if start > GREGORIAN else start,
        duration=duration or _measured_duration(storage, path),
        extension=extension_of(path),
        sha256=text("sha256"),
        transcript=_read(storage, sidecar(path, "txt"))
        .decode("utf-8", "replace")
        .replace("\0", ""),
    )


def read_metadata(storage: Storage, path: str) -> dict[str, Any]:
    """What the sender told about the recording at `path`; nothing where that is unreadable."""
    with suppress(ValueError, RecursionError):
        told = json.loads(_read(storage, sidecar(path, "json")) or b"{}")
        if isinstance(told, dict):
            return told
    return {}


def _read(storage: Storage, path: str) -> bytes:
    try:
        with closing(storage.open(path)) as blob:
            return blob.file.read(LONGEST_SIDECAR)
    except NotStored:
        return b""


def _line(value: object) -> str:
    """A value as text that every database takes: of Unicode characters, and not NUL."""
    return _text(str(value).encode("utf-8", "replace"))[:LONGEST_TEXT]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\0", "")


def _number(value: object, unit: float = 1) -> float:
    try:
        number = float(str(value)) * unit
    except ValueError:
        return 0.0
    return round(number, 3) if 0 < number < 1e12 else 0.0


def account_of(told: dict[str, Any], folder: str) -> str:
    """Kazoo's account: from the metadata, or from the path of a storage plan."""
    if told.get("account_id"):
        return _line(told["account_id"])
    variables = told.get("custom_channel_vars")
    if isinstance(variables, dict) and variables.get("Account-ID"):
        return _line(variables["Account-ID"])
    first = folder.partition("/")[0]
    return first if _ACCOUNT.fullmatch(first) else ""


def _measured_duration(storage: Storage, path: str) -> float:
    """The seconds that the audio's own header tells, if it is audio; its name does not count."""
    from tinytag import TinyTag, TinyTagException  # only a catalog needs it

    with closing(storage.open(path)) as recording:
        try:
            tag = TinyTag.get(file_obj=recording.file, tags=False)
        except (TinyTagException, OSError, ValueError, ArithmeticError, LookupError):
            return 0.0
    return round(tag.duration or 0.0, 3)
