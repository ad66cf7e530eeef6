"""How long recordings are: as long as their headers claim, if their bytes can hold that.

`media.py` runs this file as a program of its own, with nothing else of ours.
"""

import os
import socket
from contextlib import suppress
from io import SEEK_SET
from struct import pack, unpack
from typing import BinaryIO, cast

LEAST_BITS = 100  # of a second; silence in FLAC and Opus takes twice as many
SLACK = 60.0  # seconds that a sender may tell of a recording that holds next to nothing
LEAST_MPEG = 8  # kbit of a second (ISO/IEC 13818-3)
LEAST_RATE = 1000  # samples of a second
MOST_CHUNKS = 1000  # of a WAV before its audio
MOST_READS = 500_000  # of a file: an hour of Ogg takes that; what repeats a few bytes would not end
MOST_READ = 1024 * 1024  # bytes at a time

_PLAIN = (1, 3, 6, 7, 0xFFFE)  # WAVE formats of which a sample takes the same bytes always
_LENGTHS = (b"Xing", b"Info", b"VBRI")  # what an MP3 claims of its length begins with


def can_hold(size: int, seconds: float) -> bool:
    """Whether a recording of `size` bytes may be as long as its sender tells."""
    return seconds <= SLACK + size * 8 / LEAST_BITS


def measured_duration(file: BinaryIO, size: int) -> float:
    """The seconds of audio in a file of `size` bytes; 0 where it is none; its name does not count.

    It reads little of it, whatever the file holds.
    """
    head = file.read(12)
    file.seek(0)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE":
        seconds = _of_wave(file, size)
    else:
        seconds = _of_others(file, size)
    return round(seconds, 3) if 0 < seconds <= size * 8 / LEAST_BITS else 0.0


def _of_wave(file: BinaryIO, size: int) -> float:
    """The seconds of the audio that is there: a header written before its end claims anything."""
    rate = per_second = 0
    at = 12
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        chunk = file.read(8 + 14)
        if len(chunk) < 8:
            break
        name, length = unpack("<4sI", chunk[:8])
        if name == b"data":
            there = max(0, size - at - 8)
            held = length if 0 < length < there else there
            return held / per_second if per_second and rate >= LEAST_RATE else 0.0
        if name == b"fmt " and len(chunk) == 8 + 14:
            kind, _, rate, per_second, align = unpack("<HHIIH", chunk[8:])
            per_second = rate * align if kind in _PLAIN and align else per_second
        at += 8 + length + length % 2
    return 0.0


def _of_others(file: BinaryIO, size: int) -> float:
    seconds, kbits, is_mpeg, least = _told(file)
    if is_mpeg and not (kbits >= LEAST_MPEG and size / 2 <= seconds * kbits * 125 <= size * 1.01):
        seconds, *_ = _told(file, hide=_LENGTHS)  # an estimate from its frames
    return min(seconds, size * 8 / least) if least else seconds


def _told(file: BinaryIO, hide: tuple[bytes, ...] = ()) -> tuple[float, float, bool, int]:
    """What a file tells: seconds, kbit/s, whether it is MPEG audio, the bits that a second takes.

    The last is 0 where that is not known, as of what is compressed.
    """
    from tinytag import TinyTag, TinyTagException  # only a catalog needs it

    file.seek(0)
    is_plain_aiff = file.read(12)[8:] == b"AIFF"
    file.seek(0)
    try:
        tag = TinyTag.get(file_obj=cast(BinaryIO, _Little(file, hide)), tags=False)
    except (TinyTagException, OSError, ValueError, ArithmeticError, LookupError, _TooMuch):
        return 0.0, 0.0, False, 0
    plain = (tag.samplerate or 0) * (tag.channels or 0) * (tag.bitdepth or 0)
    is_mpeg = (tag.mime_type or "").startswith("audio/mpeg")
    return tag.duration or 0.0, tag.bitrate or 0.0, is_mpeg, plain if is_plain_aiff else 0


class _TooMuch(Exception):
    """A file takes too long to look at."""


class _Little:
    """A file of which little is read, with some bytes blanked."""

    def __init__(self, file: BinaryIO, hide: tuple[bytes, ...]) -> None:
        self._file = file
        self._hide = hide
        self._reads = 0

    def read(self, length: int = -1) -> bytes:
        self._reads += 1
        if self._reads > MOST_READS:
            raise _TooMuch
        data = self._file.read(length if 0 <= length < MOST_READ else MOST_READ)
        for each in self._hide:
            data = data.replace(each, bytes(len(each)))
        return data

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def answer(asked: socket.socket) -> None:
    """Tell the duration of each file whose size and descriptor come, until no more does."""
    with suppress(OSError):
        os.nice(10)  # uploads come first
    while (question := socket.recv_fds(asked, 8, 1))[1]:
        with open(question[1][0], "rb") as file:
            try:
                seconds = measured_duration(file, unpack("<Q", question[0])[0])
            except Exception:
                seconds = 0.0
        asked.sendall(pack("<d", seconds))


if __name__ == "__main__":
    answer(socket.socket(fileno=0))
