"""The default storage: a directory of ordinary files, readable without this program."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

from ..errors import NameTaken, ReceiverError, SettingError, StorageFull
from ..naming import RecordingName
from .base import FILE_MODE, FOLDER_MODE, Outcome, Storage, Stored, storage_errors

READ_SIZE = 256 * 1024  # bytes
_REFUSE_LINKS = os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryStorage(Storage):
    """Recordings as files in and below the directory `root`, which is created if it is missing.

    `min_free` is the number of bytes to leave free in its file system. With `supersede` a new
    recording takes the name of an older, different one; without, it is refused.
    """

    def __init__(self, root: str, *, min_free: int = 0, supersede: bool = True) -> None:
        self.root = Path(root).absolute()
        super().__init__(self.root)
        self._min_free = min_free
        self._supersede = supersede
        self._durable: set[str] = set()  # folders whose own entries are known to be on disk
        try:
            with storage_errors():
                self._prepare()
        except ReceiverError as error:
            raise SettingError(
                f"KZR_STORAGE={root}: {error.description}: it must be a folder that this user can "
                "write to, on a file system with hard links"
            ) from error

    def _prepare(self) -> None:
        """Create the root durably, try whether publishing works, remove what a crash left."""
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(FOLDER_MODE, exist_ok=True)
            with _opened(path.parent) as parent:
                os.fsync(parent)
        trial = f".trial-{os.urandom(8).hex()}"
        with self.incoming() as file, _opened(self.root) as root:
            _link(file.fileno(), trial, root)
            os.unlink(trial, dir_fd=root)
        self.sweep()

    def check_space(self, size: int) -> None:
        with storage_errors():
            disk = os.statvfs(self.root)
        if disk.f_bavail * disk.f_frsize < size + self._min_free:
            raise StorageFull("the disk is full: free some space or lower KZR_MIN_FREE")
        if disk.f_files and not disk.f_favail:
            raise StorageFull("the disk has no inodes left: remove some files")

    def publish(self, file: BinaryIO, name: RecordingName) -> Stored:
        with storage_errors():
            os.fchmod(file.fileno(), FILE_MODE)
            os.fsync(file.fileno())  # never retried: after a failure the pages count as clean
            with self._folder(name.folder) as folder:
                stored = self._publish(file.fileno(), name, folder)
                os.fsync(folder)  # a failure leaves the file: a parallel retry may own the name
                return stored

    def _publish(self, file: int, name: RecordingName, folder: int) -> Stored:
        while not _link(file, name.filename, folder):
            with _recording(name.filename, folder) as current:
                if _is_stored(file, current, name, folder):
                    return Stored(Outcome.IDENTICAL, str(name))
                if not self._supersede:
                    raise NameTaken(f"another recording is stored as {name}: it was kept")
                if kept_as := _replace(file, current, name, folder):
                    return Stored(Outcome.SUPERSEDED, str(name), kept_as)
        return Stored(Outcome.CREATED, str(name))

    @contextmanager
    def _folder(self, folder: str) -> Iterator[int]:
        """Open a folder below the root, created durably where it is missing."""
        durable = folder in self._durable
        parent = os.open(self.root, os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in filter(None, folder.split("/")):
                try:
                    child = os.open(part, os.O_DIRECTORY | _REFUSE_LINKS, dir_fd=parent)
                except FileNotFoundError:
                    durable = False
                    _make_folder(part, parent)
                    child = os.open(part, os.O_DIRECTORY | _REFUSE_LINKS, dir_fd=parent)
                if not durable:  # another process may have created it a moment ago
                    os.fsync(parent)
                os.close(parent)
                parent = child
            if len(self._durable) > 10_000:
                self._durable.clear()
            self._durable.add(folder)
            yield parent
        finally:
            os.close(parent)


def _make_folder(name: str, parent: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, FOLDER_MODE, dir_fd=parent)
        mode = stat.S_IMODE(os.stat(name, dir_fd=parent).st_mode)
        if mode & 0o777 != FOLDER_MODE:  # for the umask
            os.chmod(name, FOLDER_MODE | mode & stat.S_ISGID, dir_fd=parent)


def _link(file: int, filename: str, folder: int) -> bool:
    """Give an open file a name, unless the name is taken; dst_dir_fd makes this one linkat(2)."""
    try:
        os.link(f"/proc/self/fd/{file}", filename, dst_dir_fd=folder)
    except FileExistsError:
        return False
    return True


def _link_numbered(file: int, name: RecordingName, folder: int) -> str:
    return next(
        name.numbered(number) for number in count(1) if _link(file, name.numbered(number), folder)
    )


def _replace(file: int, current: int, name: RecordingName, folder: int) -> str | None:
    """Give the name to `file` and a numbered one to `current`; None if that no longer has it.

    Every step leaves only whole recordings under names of their own, so it may break off anywhere.
    """
    fcntl.flock(current, fcntl.LOCK_EX)  # every process that replaces this recording waits here
    named = os.stat(name.filename, dir_fd=folder, follow_symlinks=False)
    if not os.path.samestat(named, os.fstat(current)):
        return None
    kept_as = _link_numbered(current, name, folder)
    os.fsync(folder)
    step = _link_numbered(file, name, folder)
    os.replace(step, name.filename, src_dir_fd=folder, dst_dir_fd=folder)
    return kept_as


def _is_stored(file: int, current: int, name: RecordingName, folder: int) -> bool:
    """Whether the bytes are stored, durably, under the name or one of its numbered names."""
    if _same_bytes(file, current):
        os.fsync(current)
        return True
    with suppress(FileNotFoundError):
        for number in count(1):
            with _recording(name.numbered(number), folder) as older:
                if _same_bytes(file, older):
                    os.fsync(older)
                    return True
    return False


def _same_bytes(one: int, other: int) -> bool:
    if os.fstat(one).st_size != os.fstat(other).st_size:
        return False
    for offset in count(0, READ_SIZE):
        data = os.pread(one, READ_SIZE, offset)
        if data != os.pread(other, READ_SIZE, offset):
            return False
        if not data:
            break
    return True


@contextmanager
def _opened(path: str | Path, flags: int = 0, folder: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _recording(filename: str, folder: int) -> Iterator[int]:
    """Open a stored recording, and nothing else that somebody may have put in its place."""
    with _opened(filename, os.O_NOFOLLOW | os.O_NONBLOCK, folder) as file:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EEXIST, "Not a recording, move it away", filename)
        yield file
