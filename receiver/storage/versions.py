"""The recordings of one name in a folder: the newest has it, older ones have numbers.

What is superseded or deleted goes through steps, so that a crash may come between any two: what it
left is finished or undone before anything else is done to the name, and never over what has come
since.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from itertools import count, takewhile
from typing import BinaryIO

from ..core.naming import sidecar
from ..core.publish import (
    FILE_MODE,
    REFUSE_LINKS,
    exists,
    is_in,
    link_file,
    open_recording,
    remove,
)
from ..formats import SIDECARS
from ..parts import etag_of
from .paths import NEW, gone, keep, number_of, numbered, older_beside, original, stems

NOTHING = b"{}\n"  # metadata that are none
SAMPLE = 128 * 1024  # bytes, at either end of a recording
NOTED_FROM = 8  # older recordings on
MOST_MISSING = 64  # numbers in a row that are looked for, where nobody noted which there are


class Versions:
    """The recordings of a name, in an open folder that nobody else changes meanwhile.

    It is made anew for each change.

    Where there are many, the hidden file `.NAME.versions` has a line for each older one: its
    number, its size and a digest of its ends. It only tells where to look, and none is missed
    where it is gone, but beyond a large gap in the numbers.
    """

    def __init__(self, filename: str, folder: int) -> None:
        self._filename = filename
        self._folder = folder
        self._notes = f".{filename}.versions"

    def settle(self) -> None:
        """Finish what a crash left of a deletion; finish or undo what it left of superseding."""
        self._adopt()
        new = numbered(self._filename, NEW)
        if exists(gone(self._filename), self._folder):
            if not exists(self._filename, self._folder):
                self._remove_beside(self._filename)
                name = Versions(original(self._filename), self._folder)
                name._forget(number_of(self._filename))
            self._remove(gone(self._filename))
        if exists(keep(self._filename), self._folder):  # the recording itself still has its name
            self._remove_beside(self._next())
            self._remove(keep(self._filename))
        if exists(new, self._folder):
            if self._kept_as():
                self._finish(new)
            else:  # it was never acknowledged, and what it was to replace is gone
                self._remove(new)
        if exists(sidecar(new, "json"), self._folder):
            self._remove(sidecar(new, "json"))

    def _adopt(self) -> None:
        """Give what an earlier release put beside the recording the name that it has today."""
        for kind in SIDECARS:
            old, beside = older_beside(self._filename, kind), sidecar(self._filename, kind)
            if old and exists(old, self._folder):
                if exists(beside, self._folder):
                    self._remove(old)
                else:
                    self._replace(old, beside)

    def holds(self, file: BinaryIO) -> str:
        """The ETag of the recording of the name, or of a number, that durably holds the bytes.

        It is "" where none does.
        """
        if etag := is_in(file, self._filename, self._folder):
            return etag
        if found := self._find(file):
            return found[1]
        return next(
            filter(None, (is_in(file, old, self._folder) for old in self.older_numbered())), ""
        )

    def etags(self, size: int) -> set[str]:
        """The ETags of the recordings of a size."""
        numbers = re.findall(rb"^([0-9]+) %d " % size, self._older, re.MULTILINE)
        found = set()
        paths = (numbered(self._filename, int(n)) for n in numbers)
        for path in (self._filename, *paths, *self.older_numbered()):
            with suppress(FileNotFoundError):
                found.add(etag_of(os.lstat(path, dir_fd=self._folder)))
        return found

    def older_numbered(self) -> list[str]:
        """The recordings that earlier releases numbered `X.WAV~1`, for not knowing the ending."""
        names = (f"{stem}~{n}" for stem in stems(self._filename)[1:] for n in count(1))
        return list(takewhile(lambda name: exists(name, self._folder), names))

    def supersede(self, file: BinaryIO, beside: BinaryIO) -> str:
        """Give the name to `file`; return the numbered name of the recording that had it.

        `beside` are its metadata, or `NOTHING`, so that those of the older one go.
        """
        kept_as = self._kept_as() or self._keep()
        new = numbered(self._filename, NEW)
        link_file(beside, sidecar(new, "json"), self._folder)
        link_file(file, new, self._folder)
        os.fsync(self._folder)
        self._finish(new)
        return kept_as

    def delete(self, filename: str) -> None:
        """Remove one of the recordings, the newest or an older one, with what lies beside it."""
        has_notes = exists(self._notes, self._folder)
        number = number_of(filename)
        older = self._older if number or has_notes else b""
        left = _without(older, number)
        # From here on it is no recording any more, and whoever comes next finishes the rest.
        self._replace(filename, gone(filename))
        os.fsync(self._folder)
        self._remove_beside(filename)
        if has_notes or left.count(b"\n") >= NOTED_FROM:
            self._note(left)
        self._remove(gone(filename))

    def tidy(self) -> None:
        """Remove the notes of a name that no recording has any more."""
        if not exists(self._filename, self._folder) and not self.numbers():
            self._remove(self._notes)

    def numbers(self) -> list[int]:
        """The numbers of the older recordings that are there, the newest first."""
        there = [int(line.split()[0]) for line in self._older.splitlines()]
        return [n for n in reversed(there) if exists(numbered(self._filename, n), self._folder)]

    def _finish(self, new: str) -> None:
        """Take the last steps of superseding, of which some may have been taken."""
        about = sidecar(self._filename, "json")
        for kind in SIDECARS:
            if kind != "json":
                self._remove(sidecar(self._filename, kind))
        with suppress(FileNotFoundError):
            self._replace(sidecar(new, "json"), about)
        with suppress(FileNotFoundError), open_recording(about, self._folder) as metadata:
            if metadata.read(len(NOTHING) + 1) == NOTHING:
                self._remove(about)
        self._replace(new, self._filename)

    def _keep(self) -> str:
        """Give the newest recording a number, too, and what lies beside it."""
        kept_as = self._next()
        self._copy(self._filename, keep(self._filename))
        self._remove_beside(kept_as)
        for kind in SIDECARS:
            with suppress(FileNotFoundError):
                self._copy(sidecar(self._filename, kind), sidecar(kept_as, kind))
        older = self._older
        self._replace(keep(self._filename), kept_as)
        with open_recording(kept_as, self._folder) as kept:
            older += b"%d %s\n" % (number_of(kept_as), _sample(kept))
        if older.count(b"\n") >= NOTED_FROM:
            self._note(older)
        return kept_as

    def _next(self) -> str:
        """The first numbered name that is free after the last that is not."""
        number = _last(self._older) + 1
        while exists(numbered(self._filename, number), self._folder):
            number += 1
        return numbered(self._filename, number)

    def _kept_as(self) -> str | None:
        """The numbered name that the newest recording was given already, by what then broke off."""
        with suppress(FileNotFoundError), open_recording(self._filename, self._folder) as newest:
            return (self._find(newest) or (None,))[0]
        return None

    def _find(self, file: BinaryIO) -> tuple[str, str] | None:
        """The numbered name under which the same bytes are stored, durably, and their ETag."""
        alike = re.compile(rb"^([0-9]+) %s$" % _sample(file), re.MULTILINE)
        for number in alike.findall(self._older):
            path = numbered(self._filename, int(number))
            with suppress(FileNotFoundError):
                if etag := is_in(file, path, self._folder):
                    return path, etag
        return None

    @cached_property
    def _older(self) -> bytes:
        """A line for each older recording that there was, of which some may be gone."""
        try:
            with open_recording(self._notes, self._folder) as notes:
                noted = notes.read()
        except FileNotFoundError:
            noted = b""
        if not noted.endswith(b"\n"):  # a crash may have cut it
            noted = b""
        last = _last(noted)
        if not noted or exists(numbered(self._filename, last + 1), self._folder):
            noted += b"".join(self._look(last + 1))
        return noted

    def _look(self, first: int) -> Iterator[bytes]:
        """The lines of the older recordings from a number on."""
        missing = 0
        for number in count(first):
            name, at = numbered(self._filename, number), self._folder
            try:
                # Most are missing, which an error would tell at several times the cost.
                if os.access(name, os.F_OK, dir_fd=at, follow_symlinks=False):
                    with open_recording(name, at) as kept:
                        yield b"%d %s\n" % (number, _sample(kept))
                    missing = 0
                else:
                    missing += 1
            except FileNotFoundError:
                missing += 1
            except OSError:  # something that is no recording has the name
                yield b"%d odd\n" % number
            if missing >= MOST_MISSING:
                return

    def _forget(self, number: int) -> None:
        """Remove what is noted of an older recording that is being deleted."""
        if exists(self._notes, self._folder):
            self._note(_without(self._older, number))

    def _note(self, lines: bytes) -> None:
        if not lines:
            self._remove(self._notes)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | REFUSE_LINKS
        with open(os.open(self._notes, flags, FILE_MODE, dir_fd=self._folder), "wb") as notes:
            notes.write(lines)

    def _remove_beside(self, path: str) -> None:
        for kind in SIDECARS:
            self._remove(f".{sidecar(path, kind)}.new")
            self._remove(sidecar(path, kind))

    def _copy(self, old: str, new: str) -> None:
        at = self._folder
        os.link(old, new, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)

    def _replace(self, old: str, new: str) -> None:
        os.replace(old, new, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _remove(self, filename: str) -> None:
        remove(filename, self._folder)


def _sample(file: BinaryIO) -> bytes:
    """What tells a recording from most others: its size, and a digest of its ends."""
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size
    ends = os.pread(descriptor, SAMPLE, 0) + os.pread(descriptor, SAMPLE, max(0, size - SAMPLE))
    return b"%d %s" % (size, sha256(ends).hexdigest()[:32].encode())


def _without(lines: bytes, number: int) -> bytes:
    return re.sub(rb"^%d .*\n" % number, b"", lines, flags=re.MULTILINE)


def _last(lines: bytes) -> int:
    """The largest number in the lines, which come in order."""
    return int(lines.rstrip(b"\n").rpartition(b"\n")[2].split(b" ")[0]) if lines else 0
