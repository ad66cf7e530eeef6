"""The default storage: a directory of ordinary files, readable without this program."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import NameExists, NameTaken, NotStored, ReceiverError, SettingError, StorageFull
from ..naming import RecordingName
from .base import FILE_MODE, FOLDER_MODE, Outcome, Recording, Storage, Stored, storage_errors
from .entry import REFUSE_LINKS, Entry, open_recording

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EEXIST)


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
            parent = os.open(path.parent, os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        with self.incoming() as file, self._folder("") as root, _locked(root):
            trial = f".trial-{os.urandom(8).hex()}"
            os.link(f"/proc/self/fd/{file.fileno()}", trial, dst_dir_fd=root)
            os.unlink(trial, dir_fd=root)
        self.sweep()

    def check_space(self, size: int) -> None:
        with storage_errors():
            disk = os.statvfs(self.root)
        if disk.f_bavail * disk.f_frsize < size + self._min_free:
            raise StorageFull("the disk is full: free some space or lower KZR_MIN_FREE")
        if disk.f_files and not disk.f_favail:
            raise StorageFull("the disk has no inodes left: remove some files")

    def publish(
        self, file: BinaryIO, name: RecordingName, metadata: bytes = b"", *, only_new: bool = False
    ) -> Stored:
        with storage_errors(), self._sidecar(metadata) as sidecar:
            _sync(file)
            with self._folder(name.folder) as folder:
                with _locked(folder):
                    stored = self._publish(Entry(name, folder), file, sidecar, only_new)
                os.fsync(folder)  # a failure leaves the file: a parallel retry may own the name
                return stored

    def _publish(
        self, entry: Entry, file: BinaryIO, sidecar: BinaryIO | None, only_new: bool
    ) -> Stored:
        path = str(entry.name)
        if not entry.exists():
            entry.create(file, sidecar)
            return Stored(Outcome.CREATED, path)
        if only_new:
            raise NameExists(f"a recording is stored as {path}")
        entry.finish()
        if entry.holds(file):
            return Stored(Outcome.IDENTICAL, path)
        if not self._supersede:
            raise NameTaken(f"another recording is stored as {path}: it was kept")
        return Stored(Outcome.SUPERSEDED, path, entry.supersede(file, sidecar))

    def open(self, name: RecordingName) -> Recording:
        with storage_errors():
            try:
                with self._folder(name.folder, create=False) as folder:
                    file = open(open_recording(name.filename, folder), "rb")
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                raise NotStored(f"no recording is stored as {name}") from None
            status = os.fstat(file.fileno())
        etag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
        return Recording(file, status.st_size, status.st_mtime, etag, self.root / str(name))

    @contextmanager
    def _sidecar(self, metadata: bytes) -> Iterator[BinaryIO | None]:
        """Open a file with the metadata, which is on disk before its recording has a name."""
        if not metadata:
            yield None
            return
        with self.incoming() as file:
            file.write(metadata)
            file.flush()
            if os.fstat(file.fileno()).st_size != len(metadata):
                raise OSError(errno.EIO, "The disk did not take all that was written to it")
            _sync(file)
            yield file

    @contextmanager
    def _folder(self, folder: str, *, create: bool = True) -> Iterator[int]:
        """Open a folder below the root; where it is missing, it is created durably."""
        durable = folder in self._durable or not create
        parent = os.open(self.root, os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in filter(None, folder.split("/")):
                try:
                    child = os.open(part, os.O_DIRECTORY | REFUSE_LINKS, dir_fd=parent)
                except FileNotFoundError:
                    if not create:
                        raise
                    durable = False
                    _make_folder(part, parent)
                    child = os.open(part, os.O_DIRECTORY | REFUSE_LINKS, dir_fd=parent)
                if not durable:  # another process may have created it a moment ago
                    os.fsync(parent)
                os.close(parent)
                parent = child
            if create:
                if len(self._durable) > 10_000:
                    self._durable.clear()
                self._durable.add(folder)
            yield parent
        finally:
            os.close(parent)


def _sync(file: BinaryIO) -> None:
    os.fchmod(file.fileno(), FILE_MODE)
    os.fsync(file.fileno())  # never retried: after a failure the pages count as clean


@contextmanager
def _locked(folder: int) -> Iterator[None]:
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def _make_folder(name: str, parent: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, FOLDER_MODE, dir_fd=parent)
        mode = stat.S_IMODE(os.stat(name, dir_fd=parent).st_mode)
        if mode & 0o777 != FOLDER_MODE:  # for the umask
            os.chmod(name, FOLDER_MODE | mode & stat.S_ISGID, dir_fd=parent)
