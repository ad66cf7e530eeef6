"""What is known of a stored recording: from its name, its metadata, and the audio itself."""

import math
from contextlib import closing
from dataclasses import dataclass

from ..parts import Listed, Recording, Storage
from ..storage import sidecars
from ..storage.paths import call_id_of, extension_of, folder_of, original
from ..storage.sidecars import account_of, as_line

# Seconds from the year 0, in which Kazoo counts, to 1970 (calendar:datetime_to_gregorian_seconds).
GREGORIAN = 62_167_219_200
EARLIEST, LATEST = -62_135_000_000.0, 253_402_000_000.0  # of the years 1 and 9999


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


def describe(storage: Storage, listed: Listed, opened: Recording | None = None) -> Description:
    """Read what is known of a stored recording; raises as the storage does.

    Of a bucket, opening it is a request: `opened` is the recording where the caller has it.
    """
    told = sidecars.told_if_readable(storage, listed.path)
    path = listed.path
    folder = folder_of(path)

    def text(*names: str) -> str:
        return next((as_line(told[name]) for name in names if told.get(name)), "")

    duration = _number(told.get("duration_ms"), 0.001) or _number(told.get("duration"))
    start = _number(told.get("start"))
    return Description(
        path=path,
        folder=folder,
        original=original(path),
        size=listed.size,
        received=_in_calendar(listed.modified),
        account=account_of(told, folder),
        call_id=text("call_id") or as_line(call_id_of(path)),
        caller_name=text("caller_id_name"),
        caller_number=text("caller_id_number"),
        callee_name=text("callee_id_name"),
        callee_number=text("callee_id_number"),
        from_=text("from"),
        to=text("to"),
        cdr_id=text("cdr_id"),
        interaction_id=text("interaction_id"),
        start=start - GREGORIAN if start > GREGORIAN else start,
        duration=duration or _measured_duration(storage, path, opened),
        extension=extension_of(path),
        sha256=text("sha256"),
        transcript=_text(sidecars.read(storage, path, "txt") or b""),
    )


def look(storage: Storage, path: str) -> tuple[str, Description]:
    """The etag of the recording that is stored at `path`, and its description.

    Raises as the storage does. Where another takes the name meanwhile, the description may be of
    both: only what is the same when somebody looks again is that of one.
    """
    with closing(storage.open(path)) as recording:
        listed = Listed(path, recording.size, recording.modified)
        return recording.etag, describe(storage, listed, recording)


def _in_calendar(modified: float) -> float:
    """A time, or the nearest to it that a calendar has: file systems take any number."""
    return min(max(modified, EARLIEST), LATEST) if math.isfinite(modified) else 0.0


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\0", "")


def _number(value: object, unit: float = 1) -> float:
    try:
        number = float(str(value)) * unit
    except (ValueError, OverflowError):
        return 0.0
    return round(number, 3) if 0 < number < LATEST else 0.0


def _measured_duration(storage: Storage, path: str, opened: Recording | None) -> float:
    """The seconds that the audio's own header tells, if it is audio; its name does not count."""
    if opened is None:
        with closing(storage.open(path)) as recording:
            return _measured_duration(storage, path, recording)
    from tinytag import TinyTag, TinyTagException  # only a catalog needs it

    try:
        tag = TinyTag.get(file_obj=opened.file, tags=False)
    except (TinyTagException, OSError, ValueError, ArithmeticError, LookupError):
        return 0.0
    return round(tag.duration or 0.0, 3)
