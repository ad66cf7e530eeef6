"""The default storage: a directory of ordinary files, readable without this program."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from ..core.naming import sidecar
from ..core.publish import (
    FOLDER_MODE,
    Folder,
    etag_of,
    link_file,
    locked,
    open_recording,
    same_bytes,
    storage_errors,
    sync,
)
from ..errors import NameTaken, NotStored, ReceiverError, SettingError
from ..formats import SIDECARS
from ..parts import Listed, Name, Outcome, Recording, Stored
from .base import BackEnd, held
from .paths import extension_of, is_recording, newest_first, original
from .sidecars import HOLD
from .versions import Versions

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EEXIST)


class DirectoryStorage(Folder, BackEnd):
    """Recordings as files in and below the directory `root`."""

    def __init__(self, root: str, *, min_free: int = 0, supersede: bool = True) -> None:
        super().__init__(root, min_free)
        self._supersede = supersede

    def prepare(self) -> None:
        """Create the root where it is missing, and try whether publishing works."""
        try:
            with storage_errors():
                self._prepare()
        except ReceiverError as error:
            raise SettingError(
                f"KZR_STORAGE={self.root}: {error}: it must be a folder that this user "
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
        with self.incoming() as file, self.folder("") as root, locked(root):
            trial = ".trial"
            with suppress(FileNotFoundError):  # what a crash left behind
                os.unlink(trial, dir_fd=root)
            os.link(f"/proc/self/fd/{file.fileno()}", trial, dst_dir_fd=root)
            os.unlink(trial, dir_fd=root)
        self.sweep()

    def taken(self, file: BinaryIO, beside: BinaryIO | None, name: Name, folder: int) -> Stored:
        versions = Versions(name.filename, folder)
        versions.finish()
        if versions.holds(file):
            return Stored(Outcome.IDENTICAL, str(name))
        if not self._supersede:
            raise NameTaken(f"another recording is stored as {name}: it was kept")
        kept_as = versions.supersede(file, beside)
        etag = etag_of(os.fstat(file.fileno()))
        return Stored(Outcome.SUPERSEDED, str(name), kept_as, etag)

    def open(self, path: str) -> Recording:
        folder, _, filename = path.rpartition("/")
        with storage_errors():
            try:
                with self.folder(folder, create=False) as parent:
                    file = open_recording(filename, parent)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                raise NotStored(f"no recording is stored as {path}") from None
            status = os.fstat(file.fileno())
        return Recording(file, status.st_size, status.st_mtime, etag_of(status), self.root / path)

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

    def versions(self, path: str) -> list[str]:
        name = original(path)
        found = self.scan(name.removesuffix(f".{extension_of(name)}"))
        return newest_first(each.path for each in found if original(each.path) == name)

    def put(self, path: str, file: BinaryIO, modified: float) -> Outcome:
        folder, _, filename = path.rpartition("/")
        outcome = Outcome.CREATED
        with storage_errors():
            os.utime(file.fileno(), (modified, modified))
            sync(file)
            with self.folder(folder) as parent:
                with locked(parent):
                    try:
                        link_file(file, filename, parent)
                    except FileExistsError:
                        outcome = Outcome.IDENTICAL
                        with open_recording(filename, parent) as stored:
                            if not same_bytes(file.fileno(), stored.fileno()):
                                raise NameTaken(f"another recording is stored as {path}") from None
                os.fsync(parent)
        return outcome

    def attach(self, path: str, kind: str, data: bytes, etag: str) -> None:
        with self._stored(path, etag) as (parent, filename), self.synced(data) as file:
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
                with self.folder(folder, create=False) as parent, locked(parent):
                    status = os.stat(filename, dir_fd=parent, follow_symlinks=False)
                    if etag and etag_of(status) != etag:
                        raise NotStored(f"another recording is stored as {path}")
                    yield parent, filename
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                raise NotStored(f"no recording is stored as {path}") from None
