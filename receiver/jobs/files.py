"""Where commands find a recording: a name of its own for the very bytes that a job is about.

Whatever takes the recording's name meanwhile, they stay. A job's folder is locked as long as its
worker lives: what one that was killed has left, the next worker removes, or an erasure.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO

from ..core.publish import FOLDER_MODE, link_file, storage_errors
from ..parts import Recording, Storage
from ..storage.paths import extension_of

CHUNK = 256 * 1024  # bytes
_PREFIX = ".kazoo-receiver-jobs-"  # hidden, and so no recording's


@contextmanager
def private_folder(storage: Storage) -> Iterator[Path]:
    """A new folder for one job; it goes with its context, or with `sweep` after a crash."""
    with storage_errors():
        folder = Path(mkdtemp(prefix=_PREFIX, dir=storage.spool))
        folder.chmod(FOLDER_MODE)
        lock = os.open(folder, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # which ends with the process
        yield folder
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        os.close(lock)


def local_file(storage: Storage, recording: Recording, path: str, folder: Path) -> Path:
    """Link an open recording into a folder, or copy it there; it has its extension."""
    extension = extension_of(path)
    file = folder / (f"recording.{extension}" if extension else "recording")
    if recording.path is not None:
        with suppress(OSError):  # of another file system, or one without links
            _link(recording.file, file)
            return file
    storage.check_space(recording.size)
    with storage.incoming() as copy:
        while chunk := recording.read(CHUNK):
            copy.write(chunk)
        copy.flush()
        _link(copy, file)
    return file


def _link(file: BinaryIO, path: Path) -> None:
    place = os.open(path.parent, os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        link_file(file, path.name, place)
    finally:
        os.close(place)


def sweep(storage: Storage) -> None:
    """Remove what jobs of killed workers have left."""
    for folder in storage.spool.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # gone by now, or another user's
            lock = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
