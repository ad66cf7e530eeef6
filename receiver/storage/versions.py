"""A name that is taken in a folder: the recording that has it, and its numbered copies."""

import os
from contextlib import suppress
from itertools import count
from typing import BinaryIO

from ..core.naming import sidecar
from ..core.publish import exists, is_in, link_file
from ..formats import SIDECARS
from .paths import STEP, numbered


class Versions:
    """A recording's files in a folder that nobody else publishes into meanwhile.

    Every step leaves only whole recordings under names of their own, each beside its metadata, so
    that a crash may come between any two.
    """

    def __init__(self, filename: str, folder: int) -> None:
        self._filename = filename
        self._folder = folder
        self._step = numbered(filename, STEP)

    def holds(self, file: BinaryIO) -> bool:
        """Whether the bytes are stored, durably, under the name or one of its numbered names."""
        with suppress(FileNotFoundError):
            for number in count(0):
                if is_in(file, numbered(self._filename, number), self._folder):
                    return True
        return False

    def supersede(self, file: BinaryIO, beside: BinaryIO | None) -> str:
        """Give the name to `file`; return the numbered name of the recording that had it."""
        names = (numbered(self._filename, number) for number in count(1))
        kept_as = next(name for name in names if not exists(name, self._folder))
        for kind in SIDECARS:
            self._remove(sidecar(kept_as, kind))
            with suppress(FileNotFoundError):
                self._copy(sidecar(self._filename, kind), sidecar(kept_as, kind))
        self._copy(self._filename, kept_as)
        for kind in SIDECARS:
            if kind != "json" or beside is None:
                self._remove(sidecar(self._filename, kind))
        if beside:
            link_file(beside, sidecar(self._step, "json"), self._folder)
        link_file(file, self._step, self._folder)
        os.fsync(self._folder)
        self.finish()
        return kept_as

    def finish(self) -> None:
        """Take the last steps of superseding, also where a crash prevented that before."""
        about = sidecar(self._step, "json")
        if not exists(self._step, self._folder):
            self._remove(about)
            return
        with suppress(FileNotFoundError):
            self._replace(about, sidecar(self._filename, "json"))
        self._replace(self._step, self._filename)

    def _copy(self, old: str, new: str) -> None:
        at = self._folder
        os.link(old, new, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)

    def _replace(self, old: str, new: str) -> None:
        os.replace(old, new, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _remove(self, filename: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(filename, dir_fd=self._folder)
