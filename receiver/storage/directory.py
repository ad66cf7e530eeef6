"""The default storage: a directory of ordinary files, readable without this program."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..core.naming import SIDECARS, RecordingName, is_recording, sidecar
from ..errors import NameExists, NameTaken, NotStored, ReceiverError, SettingError
from .base import (
    FILE_MODE,
    FOLDER_MODE,
    HOLD,
    Listed,
    Outcome,
    Recording,
    Storage,
    Stored,
    held,
    storage_errors,
)
from .versions import (
    REFUSE_LINKS,
    Entry,
    link_file,
    open_recording,
    opened_recording,
    same_bytes,
)

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EEXIST)


class DirectoryStorage(Storage):
    """Recordings as files in and below the directory `root`."""

    def __init__(self, root: str, *, min_free: int = 0, supersede: bool = True) -> None:
        self.root = Path(root).absolute()
        super().__init__(self.root, min_free, supersede)
        self._durable: set[str] = set()  # folders whose own entries are known to be on disk

    def prepare(self) -> None:
        """Create the root where it is missing, and try whether publishing works."""
        try:
            with storage_errors():
                self._prepare()
        except ReceiverError as error:
            raise SettingError(
                f"KZR_STORAGE={self.root}: {error.description}: it must be a folder that this user "
                "can write to, on a file system with hard links"
            ) from error

    def _prepare(self) -> None:
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(FOLDER_MODE, exist_ok=True)
            parent = os.open(path.parent, os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        with self.incoming() as file, self._folder("") as root, _locked(root):
            trial = ".trial"
            with suppress(FileNotFoundError):  # what a crash left behind
                os.unlink(trial, dir_fd=root)
            os.link(f"/proc/self/fd/{file.fileno()}", trial, dst_dir_fd=root)
            os.unlink(trial, dir_fd=root)
        self.sweep()

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
        path, etag = str(entry.name), _etag(os.fstat(file.fileno()))
        if not entry.exists():
            entry.create(file, sidecar)
            return Stored(Outcome.CREATED, path, etag=etag)
        if only_new:
            raise NameExists(f"a recording is stored as {path}")
        entry.finish()
        if entry.holds(file):
            return Stored(Outcome.IDENTICAL, path)
        if not self._supersede:
            raise NameTaken(f"another recording is stored as {path}: it was kept")
        return Stored(Outcome.SUPERSEDED, path, entry.supersede(file, sidecar), etag)

    def open(self, path: str) -> Recording:
        folder, _, filename = path.rpartition("/")
        with storage_errors():
            try:
                with self._folder(folder, create=False) as parent:
                    file = open(open_recording(filename, parent), "rb")
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                raise NotStored(f"no recording is stored as {path}") from None
            status = os.fstat(file.fileno())
        return Recording(file, status.st_size, status.st_mtime, _etag(status), self.root / path)

    def scan(self, prefix: str = "") -> Iterator[Listed]:
        with storage_errors():
            yield from self._scan(prefix.rpartition("/")[0], prefix)

    def _scan(self, folder: str, prefix: str) -> Iterator[Listed]:
        try:
            entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if not path.startswith(prefix) or entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._scan(path, prefix)
            elif entry.is_file(follow_symlinks=False) and is_recording(entry.name):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = entry.stat(follow_symlinks=False)
                    yield Listed(path, status.st_size, status.st_mtime)

    def put(self, path: str, file: BinaryIO, modified: float) -> Outcome:
        folder, _, filename = path.rpartition("/")
        outcome = Outcome.CREATED
        with storage_errors():
            os.utime(file.fileno(), (modified, modified))
            _sync(file)
            with self._folder(folder) as parent:
                with _locked(parent):
                    try:
                        link_file(file, filename, parent)
                    except FileExistsError:
                        outcome = Outcome.IDENTICAL
                        with opened_recording(filename, parent) as stored:
                            if not same_bytes(file.fileno(), stored):
                                raise NameTaken(f"another recording is stored as {path}") from None
                os.fsync(parent)
        return outcome

    def attach(self, path: str, kind: str, data: bytes, etag: str) -> None:
        with self._stored(path, etag) as (parent, filename), self._sidecar(data) as file:
            beside = sidecar(filename, kind)
            step = f".{beside}.new"  # hidden; what a crash left of it goes with the next
            with suppress(FileNotFoundError):
                os.unlink(step, dir_fd=parent)
            if file:
                link_file(file, step, parent)
                os.replace(step, beside, src_dir_fd=parent, dst_dir_fd=parent)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(beside, dir_fd=parent)
            os.fsync(parent)

    def delete(self, path: str, etag: str = "") -> None:
        with self._stored(path, etag) as (parent, filename):
            with suppress(FileNotFoundError):
                os.stat(sidecar(filename, HOLD), dir_fd=parent, follow_symlinks=False)
                raise held(path)
            for kind in SIDECARS:
                with suppress(FileNotFoundError):
                    os.unlink(sidecar(filename, kind), dir_fd=parent)
            os.unlink(filename, dir_fd=parent)
            os.fsync(parent)

    @contextmanager
    def _stored(self, path: str, etag: str) -> Iterator[tuple[int, str]]:
        """Find the recording that has the etag, and let nobody change its folder meanwhile."""
        folder, _, filename = path.rpartition("/")
        with storage_errors():
            try:
                with self._folder(folder, create=False) as parent, _locked(parent):
                    status = os.stat(filename, dir_fd=parent, follow_symlinks=False)
                    if etag and _etag(status) != etag:
                        raise NotStored(f"another recording is stored as {path}")
                    yield parent, filename
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                raise NotStored(f"no recording is stored as {path}") from None

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
        parent = os.open(self.root, os.O_DIRECTORY | os.O_CLOEXEC)
        path = ""
        try:
            for part in filter(None, folder.split("/")):
                if part == "..":
                    raise OSError(errno.EINVAL, "Leads out of the storage", folder)
                path += f"/{part}"
                try:
                    child = os.open(part, os.O_DIRECTORY | REFUSE_LINKS, dir_fd=parent)
                except FileNotFoundError:
                    if not create:
                        raise
                    self._durable.discard(path)  # it was removed
                    _make_folder(part, parent)
                    child = os.open(part, os.O_DIRECTORY | REFUSE_LINKS, dir_fd=parent)
                try:
                    if create and path not in self._durable:
                        os.fsync(parent)  # another process may have created it a moment ago
                        self._note_durable(path)
                finally:
                    os.close(parent)
                    parent = child
            yield parent
        finally:
            os.close(parent)

    def _note_durable(self, path: str) -> None:
        if len(self._durable) > 10_000:
            self._durable.clear()
        self._durable.add(path)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


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
