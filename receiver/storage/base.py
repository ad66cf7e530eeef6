"""What all back ends have: their recordings arrive in a local folder."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from ..core.publish import INCOMING, Spool
from ..errors import Held, NotStored
from ..parts import Name, Recording, Storage
from .paths import older

ABANDONED_AFTER = 24 * 60 * 60  # seconds; longer than any upload takes


class BackEnd(Spool, Storage):
    """A storage whose recordings arrive in the folder `spool`; `Storage` says what it promises.

    `min_free` is the number of bytes to leave free in the spool's file system. With `supersede` a
    new recording takes the name of an older, different one; without, it is refused.
    """

    def __init__(self, spool: Path, min_free: int = 0, supersede: bool = True) -> None:
        super().__init__(spool, min_free)
        self._supersede = supersede

    def known_as(self, name: Name) -> Name:
        """The name that a recording has here, where an earlier release gave it another."""
        if older(str(name)) == str(name):
            return name
        try:
            path, recording = open_named(self, name)
        except NotStored:
            return name
        recording.close()
        return _Known(*path.rpartition("/")[::2])

    def check(self) -> None:
        self.check_space(0)
        with self.incoming() as file:
            file.write(b"x")
            file.flush()

    def sweep(self) -> None:
        """Remove the incoming files that a crash left behind where they have names."""
        remove_abandoned(self.spool / INCOMING)


@dataclass(frozen=True)
class _Known:
    """A name as it is stored."""

    folder: str
    filename: str

    def __str__(self) -> str:
        return f"{self.folder}/{self.filename}" if self.folder else self.filename


def open_named(storage: Storage, name: Name) -> tuple[str, Recording]:
    """Open the recording that has a name, also where an earlier release stored it.

    Returns its stored path too; raises `NotStored`.
    """
    path = str(name)
    try:
        return path, storage.open(path)
    except NotStored:
        if (path := older(path)) == str(name):
            raise
        return path, storage.open(path)


def remove_abandoned(folder: Path, names: str = "*") -> None:
    """Remove the files in a folder that a crash left behind a day ago or earlier."""
    if folder.is_symlink():  # in /var/tmp, anybody could have put it there
        return
    for path in folder.glob(names):
        with suppress(FileNotFoundError):  # another process was faster
            status = path.lstat()
            if S_ISREG(status.st_mode) and status.st_mtime < time.time() - ABANDONED_AFTER:
                path.unlink()


def spool_folder() -> Path:
    """The local folder for recordings on their way to another machine: `$TMPDIR` or /var/tmp."""
    # Nobody can guess a name there: files have none, or a random one that must be new.
    return Path(os.environ.get("TMPDIR") or "/var/tmp").absolute()  # noqa: S108 - as above


GONE = "gone"  # no recording's etag: with it, `delete` removes only what one that is gone left


def held(path: str) -> Held:
    return Held(f"{path} is on legal hold")
