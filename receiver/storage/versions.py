"""One recording's files in a folder: its name, its numbered copies, their metadata."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import BinaryIO

from ..core.naming import SIDECARS, STEP, RecordingName

READ_SIZE = 256 * 1024  # bytes
REFUSE_LINKS = os.O_NOFOLLOW | os.O_CLOEXEC


class Entry:
    """A recording's name in a folder that nobody else publishes into meanwhile.

    Every step leaves only whole recordings under names of their own, each beside its metadata, so
    that a crash may come between any two.
    """

    def __init__(self, name: RecordingName, folder: int) -> None:
        self.name = name
        self._folder = folder
        self._metadata = name.sidecar("json")
        self._step, self._step_metadata = name.numbered(STEP), name.sidecar("json", STEP)

    def exists(self, filename: str | None = None) -> bool:
        try:
            os.stat(filename or self.name.filename, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def create(self, file: BinaryIO, sidecar: BinaryIO | None) -> None:
        self._remove(self._metadata)  # of an upload that broke off here
        self._link(sidecar, self._metadata)
        self._link(file, self.name.filename)

    def holds(self, file: BinaryIO) -> bool:
        """Whether the bytes are stored, durably, under the name or one of its numbered names."""
        with suppress(FileNotFoundError):
            for number in count(0):
                with opened_recording(self.name.numbered(number), self._folder) as stored:
                    if same_bytes(file.fileno(), stored):
                        os.fsync(stored)
                        return True
        return False

    def supersede(self, file: BinaryIO, sidecar: BinaryIO | None) -> str:
        """Give the name to `file`; return the numbered name of the recording that had it."""
        number = next(n for n in count(1) if not self.exists(self.name.numbered(n)))
        kept_as = self.name.numbered(number)
        for kind in SIDECARS:
            self._remove(self.name.sidecar(kind, number))
            with suppress(FileNotFoundError):
                self._copy(self.name.sidecar(kind), self.name.sidecar(kind, number))
        self._copy(self.name.filename, kept_as)
        for kind in SIDECARS:
            if kind != "json" or sidecar is None:
                self._remove(self.name.sidecar(kind))
        self._link(sidecar, self._step_metadata)
        self._link(file, self._step)
        os.fsync(self._folder)
        self.finish()
        return kept_as

    def finish(self) -> None:
        """Take the last steps of superseding, also where a crash prevented that before."""
        if not self.exists(self._step):
            self._remove(self._step_metadata)
            return
        with suppress(FileNotFoundError):
            self._replace(self._step_metadata, self._metadata)
        self._replace(self._step, self.name.filename)

    def _link(self, file: BinaryIO | None, filename: str) -> None:
        if file:
            link_file(file, filename, self._folder)

    def _copy(self, old: str, new: str) -> None:
        at = self._folder
        os.link(old, new, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)

    def _replace(self, old: str, new: str) -> None:
        os.replace(old, new, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _remove(self, filename: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(filename, dir_fd=self._folder)


def link_file(file: BinaryIO, filename: str, folder: int) -> None:
    """Give an open file a name; never one that is taken. dst_dir_fd makes this a linkat(2)."""
    os.link(f"/proc/self/fd/{file.fileno()}", filename, dst_dir_fd=folder)


def same_bytes(one: int, other: int) -> bool:
    """Whether two open files hold the same."""
    if os.fstat(one).st_size != os.fstat(other).st_size:
        return False
    for offset in count(0, READ_SIZE):
        data = os.pread(one, READ_SIZE, offset)
        if data != os.pread(other, READ_SIZE, offset):
            return False
        if not data:
            break
    return True


def open_recording(filename: str, folder: int) -> int:
    """Open a stored recording, and nothing else that somebody may have put in its place."""
    flags = os.O_RDONLY | os.O_NONBLOCK | REFUSE_LINKS
    file = os.open(filename, flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EEXIST, "Not a recording, move it away", filename)
    return file


@contextmanager
def opened_recording(filename: str, folder: int) -> Iterator[int]:
    file = open_recording(filename, folder)
    try:
        yield file
    finally:
        os.close(file)
