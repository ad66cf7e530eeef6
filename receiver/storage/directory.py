"""The default storage: a directory of ordinary files, readable without this program."""

import errno
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from ..core.body import check_written
from ..core.naming import has_extension, sidecar
from ..core.publish import (
    FOLDER_MODE,
    Folder,
    exists,
    link_file,
    locked,
    open_recording,
    same_bytes,
    storage_errors,
    sync,
)
from ..errors import (
    NameTaken,
    NotStored,
    ReceiverError,
    SettingError,
    StorageFailed,
    StorageUnavailable,
)
from ..formats import SIDECARS
from ..parts import Listed, Name, Outcome, Recording, Stored, etag_of, round_time, warn
from ..shown import shown
from .base import GONE, BackEnd, held
from .paths import (
    NEW,
    is_recording,
    left_by,
    numbered,
    original,
    recording_of,
    was_beside,
)
from .place import (
    LOST_AND_FOUND,
    MARKER,
    NONE_THERE,
    id_in,
    is_storage,
    mark,
    mounted_below,
    not_mounted,
    unmounted,
)
from .sidecars import HOLD, LONGEST
from .versions import NOTHING, Versions

logger = logging.getLogger(__name__)

COPIED_AT_ONCE = 256 * 1024  # bytes
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EEXIST)


class DirectoryStorage(Folder, BackEnd):
    """Recordings as files in and below the directory `root`.

    It is only stored into while it is the place that it was at the start: `place.py`. Where it is
    missing, it is made, but not with `may_be_new` false, nor under a disk that is not mounted: then
    every upload is refused until it is there.
    """

    def __init__(
        self, root: str, *, min_free: int = 0, supersede: bool = True, may_be_new: bool = True
    ) -> None:
        super().__init__(root, min_free)
        self._supersede = supersede
        self._may_be_new = may_be_new
        self._id = ""  # of the storage, once it is prepared
        self._marker = (0, 0, 0)  # the device and inode that have it, and since when
        self._missing = ""  # why there was no storage at the start
        self.is_read_only = False  # then not even what a crash left is touched

    def prepare(self) -> None:
        """Create the root where it is missing, and try whether publishing works."""
        try:
            with storage_errors():
                self._prepare()
        except StorageUnavailable as error:
            logger.warning("%s", error)
        except ReceiverError as error:
            raise SettingError(
                f"KZR_STORAGE={self.root}: {error}: it must be a folder that this user "
                "can write to, on a file system with hard links"
            ) from error

    def _prepare(self) -> None:
        is_new = not is_storage(self.root)
        self._missing = self._why_missing() if is_new else ""
        if self._missing:
            raise StorageUnavailable(self._missing)
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
            self._id = mark(root)
        if is_new:
            logger.info("made a new storage in %s", shown(self.root))
        self.sweep()

    def _why_missing(self) -> str:
        if disk := unmounted(self.root):
            return f"KZR_STORAGE={self.root}: {not_mounted(disk)}"
        if not self._may_be_new:
            return f"KZR_STORAGE={self.root}: {NONE_THERE}"
        return ""

    def open_root(self) -> int:
        """Open the root, or raise `StorageUnavailable` while it is not the place that it was."""
        if self._missing:
            self._prepare()  # it may be there by now
        try:
            root = super().open_root()
        except FileNotFoundError:
            if not self._id:
                raise
            raise self._displaced() from None
        if self._id and not self._is_in(root):
            os.close(root)
            raise self._displaced()
        return root

    def _is_in(self, root: int) -> bool:
        try:
            status = os.stat(MARKER, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return False
        # Another disk may have the device's number, and its marker the same inode's.
        marker = (status.st_dev, status.st_ino, status.st_ctime_ns)
        if marker != self._marker:
            if id_in(root) != self._id:
                return False
            self._marker = marker
        return True

    def _displaced(self) -> StorageUnavailable:
        return StorageUnavailable(
            f"KZR_STORAGE={self.root}: this is not the storage that was here at the start, or its "
            f"file {MARKER} is gone: is its disk mounted? otherwise restart the receiver"
        )

    def check_space(self, size: int, folder: str = "") -> None:
        with storage_errors():
            os.close(self.open_root())
        self._require_mounted(folder)
        super().check_space(size, folder)

    @contextmanager
    def folder(self, path: str, *, create: bool = True) -> Iterator[int]:
        self._require_mounted(path)
        with super().folder(path, create=create) as folder:
            yield folder

    @cached_property
    def _disks(self) -> list[str]:
        """The folders that are to have disks of their own."""
        return mounted_below(self.root)

    def _why_unmounted(self, folder: str) -> str:
        """What is to be done where a folder's own disk is not mounted; else ""."""
        for disk in self._disks:
            if f"{folder}/".startswith(f"{disk}/") and not os.path.ismount(self.root / disk):
                return not_mounted(self.root / disk)
        return ""

    def _require_mounted(self, folder: str) -> None:
        if why := self._why_unmounted(folder):
            raise StorageUnavailable(why)

    def place_of(self, folder: str) -> Path:
        """The folder, or as much of it as there is: another file system may be mounted there."""
        if not folder:
            return self.root
        place = self.root / folder
        while place != self.root and not place.is_dir():
            place = place.parent
        return place

    def publish(
        self, file: BinaryIO, name: Name, metadata: bytes = b"", *, only_new: bool = False
    ) -> Stored:
        name = self.known_as(name)
        with storage_errors():
            round_time(file.fileno())
        try:
            return super().publish(file, name, metadata, only_new=only_new)
        except StorageFailed as error:
            if getattr(error.__cause__, "errno", 0) != errno.EXDEV:
                raise
        # nginx has handed over a file of another file system than the one mounted there.
        with self.incoming(name.folder) as copy:
            file.seek(0)
            shutil.copyfileobj(file, copy, COPIED_AT_ONCE)
            check_written(copy, file.tell())
            round_time(copy.fileno())
            return super().publish(copy, name, metadata, only_new=only_new)

    def settle(self, filename: str, folder: int) -> None:
        Versions(filename, folder).settle()

    def holds(self, file: BinaryIO, name: Name, folder: int) -> str:
        return Versions(name.filename, folder).holds(file)

    def taken(self, file: BinaryIO, beside: BinaryIO | None, name: Name, folder: int) -> Stored:
        versions = Versions(name.filename, folder)
        if etag := versions.holds(file):
            return Stored(Outcome.IDENTICAL, str(name), etag=etag)
        if not self._supersede:
            raise NameTaken(f"another recording is stored as {name}: it was kept")
        _make_distinct(file, versions)
        with nullcontext(beside) if beside else self.synced(NOTHING, name.folder) as metadata:
            assert metadata  # noqa: S101 - for mypy: there is something to sync
            kept_as = versions.supersede(file, metadata)
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
            return self._recording(file, path)

    def open_described(self, path: str) -> tuple[Recording, bytes | None]:
        with self._stored(path, "") as (parent, filename):
            try:
                with open_recording(sidecar(filename, "json"), parent) as about:
                    told = about.read(LONGEST)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                told = b""
            return self._recording(open_recording(filename, parent), path), told

    def _recording(self, file: BinaryIO, path: str) -> Recording:
        status = os.fstat(file.fileno())
        return Recording(file, status.st_size, status.st_mtime, etag_of(status), self.root / path)

    def scan(self, prefix: str = "", odd: Callable[[str], object] = warn) -> Iterator[Listed]:
        yield from self._scan(prefix.rpartition("/")[0], prefix, odd)

    def _scan(self, folder: str, prefix: str, odd: Callable[[str], object]) -> Iterator[Listed]:
        place = self.root / folder
        if why := self._why_unmounted(folder):
            odd(f"{shown(folder)}: passed over: {shown(why)}")
            return
        try:
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            if not (place.name == LOST_AND_FOUND and os.path.ismount(place.parent)):
                odd(f"{shown(folder) or place}: passed over: {error.strerror}")
            return
        left = {name for entry in entries if (name := left_by(entry.name))}
        if left and not self.is_read_only:
            entries = self._settled(folder, left, odd) or entries
        there, gone = {entry.name for entry in entries}, ""
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if not path.startswith(prefix) or entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if recording_of(entry.name) in there:
                    odd(f"{shown(path)}: it is a folder: move it away")
                yield from self._scan(path, prefix, odd)
            elif not is_recording(entry.name):
                about = recording_of(entry.name)
                if why := self._why_odd(entry, about):
                    odd(f"{shown(path)}: {why}")
                if about and about != gone and about not in there:
                    gone = about
                    with suppress(FileNotFoundError):
                        modified = entry.stat(follow_symlinks=False).st_mtime
                        yield Listed(f"{folder}/{about}".lstrip("/"), 0, modified, is_gone=True)
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = entry.stat(follow_symlinks=False)
                    yield Listed(path, status.st_size, status.st_mtime)
            else:
                kind = "a symbolic link" if entry.is_symlink() else "no ordinary file"
                odd(f"{shown(path)}: passed over: it is {kind}")

    def _why_odd(self, entry: "os.DirEntry[str]", about: str) -> str:
        """What is wrong with something that is no recording, "" for nothing."""
        if about and not entry.is_file(follow_symlinks=False):
            return "passed over: it is no ordinary file"
        if about and has_extension(about) and entry.name.startswith(f"{about}~."):
            if was_beside(entry.name):  # what was to be renamed, but may only be read
                return ""
            name = about + entry.name[len(about) + 1 :]
            return f"nothing looks for it there: rename it to {shown(name)}"
        if (of := left_by(entry.name)) and not about and not self.is_read_only:
            return f"a crash left it of {shown(of)}, or another program made it: move it away"
        return ""

    def _settled(
        self, folder: str, left: set[str], odd: Callable[[str], object]
    ) -> list["os.DirEntry[str]"]:
        """Finish or undo what crashes left in a folder, and list it again."""
        try:
            with self.folder(folder, create=False) as parent, locked(parent):
                for name in left:
                    is_ours = exists(name, parent) or not exists(numbered(name, NEW), parent)
                    if is_ours or exists(sidecar(numbered(name, NEW), "json"), parent):
                        self.settle(name, parent)
                    for kind in SIDECARS:
                        with suppress(FileNotFoundError):
                            os.unlink(f".{sidecar(name, kind)}.new", dir_fd=parent)
                    Versions(original(name), parent).tidy()
                os.fsync(parent)
            with os.scandir(self.root / folder) as found:
                return sorted(found, key=lambda entry: entry.name)
        except OSError as error:  # such as one that this user may only read
            odd(f"{shown(folder) or self.root}: left as a crash left it: {error.strerror}")
            return []

    def sidecars(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.root):
            folders[:] = (name for name in folders if not name.startswith("."))
            below = os.path.relpath(folder, self.root)
            for name in names:
                path = name if below == "." else f"{below}/{name}"
                if recording_of(path):
                    yield path

    def versions(self, path: str) -> list[str]:
        folder, slash, filename = original(path).rpartition("/")
        if not is_recording(filename):
            return []
        with storage_errors():
            try:
                with self.folder(folder, create=False) as parent, locked(parent):
                    versions = Versions(filename, parent)
                    older = [numbered(filename, n) for n in versions.numbers()]
                    older += versions.older_numbered()
                    there = [name for name in (filename, *older) if is_file(name, parent)]
                    return [folder + slash + name for name in dict.fromkeys(there)]
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                return []

    def put(self, path: str, file: BinaryIO, modified: float) -> Outcome:
        folder, _, filename = path.rpartition("/")
        outcome = Outcome.CREATED
        with storage_errors():
            os.utime(file.fileno(), ns=(round(modified * 1e6) * 1000,) * 2)
            sync(file)
            with self.folder(folder) as parent:
                with locked(parent):
                    self.settle(recording_of(filename) or filename, parent)
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
        with (
            self._stored(path, etag) as (parent, filename),
            self.synced(data, path.rpartition("/")[0]) as file,
        ):
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
        if etag == GONE:
            self._delete_left(path)
            return
        with self._stored(path, etag) as (parent, filename):
            if exists(sidecar(filename, HOLD), parent):
                raise held(path)
            Versions(original(filename), parent).delete(filename)
            os.fsync(parent)

    def _delete_left(self, path: str) -> None:
        """Remove what lies beside the place of a recording that is gone."""
        folder, _, filename = path.rpartition("/")
        with storage_errors(), self.folder(folder, create=False) as parent, locked(parent):
            self.settle(filename, parent)
            if exists(filename, parent):
                raise NotStored(f"another recording is stored as {path}")
            if exists(sidecar(filename, HOLD), parent):
                raise held(path)
            for kind in SIDECARS:
                with suppress(FileNotFoundError):
                    os.unlink(sidecar(filename, kind), dir_fd=parent)
            os.fsync(parent)

    @contextmanager
    def _stored(self, path: str, etag: str) -> Iterator[tuple[int, str]]:
        """Find the recording that has the etag, and let nobody change its folder meanwhile."""
        folder, _, filename = path.rpartition("/")
        with storage_errors():
            try:
                with self.folder(folder, create=False) as parent, locked(parent):
                    for name in {original(filename), filename}:
                        self.settle(name, parent)
                    status = os.stat(filename, dir_fd=parent, follow_symlinks=False)
                    if etag and etag_of(status) != etag:
                        raise NotStored(f"another recording is stored as {path}")
                    yield parent, filename
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                raise NotStored(f"no recording is stored as {path}") from None


def _make_distinct(file: BinaryIO, versions: Versions) -> None:
    """Give a synced file a time that no version of its size has, so that its ETag is its own.

    The clock of files stands still for some milliseconds, in some file systems for a second.
    """
    step, taken = 1000, versions.etags(os.fstat(file.fileno()).st_size)
    while etag_of(os.fstat(file.fileno())) in taken:
        round_time(file.fileno(), later=step)
        step *= 2
    if step > 1000:
        os.fsync(file.fileno())


def is_file(filename: str, folder: int) -> bool:
    with suppress(FileNotFoundError):
        return stat.S_ISREG(os.lstat(filename, dir_fd=folder).st_mode)
    return False
