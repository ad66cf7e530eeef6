"""What is known of a stored recording: from its name, its metadata, and the audio itself."""

import math
import re
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ..parts import Listed, Recording, Storage
from ..storage import sidecars
from ..storage.paths import call_id_of, extension_of, folder_of, original
from ..storage.sidecars import account_of, as_line
from .durations import can_hold
from .media import looker

# Seconds from the year 0, in which Kazoo counts, to 1970 (calendar:datetime_to_gregorian_seconds).
GREGORIAN = 62_167_219_200
EARLIEST, LATEST = -62_135_000_000.0, 253_402_000_000.0  # of the years 1 and 9999
LONGEST_CALL = 24 * 60 * 60  # seconds between the beginning of a call and its recording, about
DIRECTIONS = ("inbound", "outbound")
_INTERACTION = re.compile(r"([0-9]{11,12})-")  # the seconds at which an interaction began


@dataclass(frozen=True)
class Description:
    """A recording as people look for it; "" and 0 are unknown.

    Times are POSIX, durations in seconds, sizes in bytes. `began` is when the call began, as far as
    that is known, or else when the recording was received.
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
    began: float
    direction: str  # "inbound" or "outbound", as Kazoo tells


def describe(storage: Storage, listed: Listed, opened: Recording | None = None) -> Description:
    """Read what is known of a stored recording; raises as the storage does.

    Of a bucket, opening it is a request: `opened` is the recording where the caller has it.
    """
    told = sidecars.told_if_readable(storage, listed.path)
    path = listed.path
    folder = folder_of(path)

    def text(*names: str) -> str:
        return next((as_line(told[name]) for name in names if told.get(name)), "")

    received = _in_calendar(listed.modified)
    start = _number(told.get("start"))
    start = start - GREGORIAN if start > GREGORIAN else start
    return Description(
        path=path,
        folder=folder,
        original=original(path),
        size=listed.size,
        received=received,
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
        start=start,
        duration=_duration(storage, listed, told, opened),
        extension=extension_of(path),
        sha256=text("sha256"),
        transcript=_text(sidecars.read(storage, path, "txt") or b""),
        began=start or _interaction_began(text("interaction_id"), received) or received,
        direction=direction if (direction := text("direction").lower()) in DIRECTIONS else "",
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


def _interaction_began(interaction_id: str, received: float) -> float:
    """When an interaction began: its id tells, where Kazoo made it; 0 where it does not."""
    match = _INTERACTION.match(interaction_id)
    began = float(match[1]) - GREGORIAN if match else 0.0
    return began if 0 <= received - began <= LONGEST_CALL else 0.0


def _duration(
    storage: Storage, listed: Listed, told: dict[str, Any], opened: Recording | None
) -> float:
    """The seconds that the metadata or else the audio tells, as far as the bytes can hold them."""
    seconds = _number(told.get("duration_ms"), 0.001) or _number(told.get("duration"))
    if seconds and can_hold(listed.size, seconds):
        return seconds
    if opened:
        return looker.duration(opened.file, listed.size)
    with closing(storage.open(listed.path)) as recording:
        return looker.duration(recording.file, recording.size)
