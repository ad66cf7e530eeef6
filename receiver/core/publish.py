"""One complete local file becomes a recording: durable under its name, or not there at all."""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from ..errors import NameExists, NameTaken, StorageFailed, StorageFull
from ..formats import SIDECARS
from ..parts import Name, Outcome, Stored, etag_of
from .body import check_written
from .naming import sidecar

FILE_MODE = 0o640
FOLDER_MODE = 0o750
BUFFER = 256 * 1024  # bytes
# Where the file system has no O_TMPFILE, unfinished files lie in a folder that no recording's
# name can reach, because a leading dot is percent-encoded in those.
INCOMING = ".incoming"
REFUSE_LINKS = os.O_NOFOLLOW | os.O_CLOEXEC
NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Spool:
    """The local folder that recordings arrive in; `min_free` bytes are left free on its disk."""

    def __init__(self, spool: Path, min_free: int = 0) -> None:
        self.spool = spool
        self._min_free = min_free

    def place_of(self, folder: str) -> Path:
        """Where recordings for a folder arrive, in the file system that they are to stay in."""
        return self.spool

    def check_space(self, size: int, folder: str = "") -> None:
        """Raise `StorageFull` if a recording of `size` bytes would not fit now."""
        with storage_errors():
            disk = os.statvfs(self.place_of(folder))
        # Some file systems do not tell their size, which is no reason to refuse anything.
        if disk.f_blocks and disk.f_bavail * disk.f_frsize < size + self._min_free:
            raise StorageFull("the disk is full: free some space or lower KZR_MIN_FREE")
        if disk.f_files and not disk.f_favail:
            raise StorageFull("the disk has no inodes left: remove some files")

    @contextmanager
    def incoming(self, folder: str = "") -> Iterator[BinaryIO]:
        """Open a file without a name, which ends with its context, or a crash, or is published."""
        with storage_errors(), self._open_unnamed(self.place_of(folder)) as file:
            yield file

    def _open_unnamed(self, place: Path) -> BinaryIO:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        try:
            return open(os.open(place, flags, FILE_MODE), "w+b", BUFFER)
        except OSError as error:
            if error.errno not in NO_TMPFILE:
                raise
        unfinished = place / INCOMING
        unfinished.mkdir(FOLDER_MODE, exist_ok=True)
        return cast(BinaryIO, tempfile.NamedTemporaryFile("w+b", BUFFER, dir=unfinished))


class Folder(Spool):
    """Recordings as ordinary files in and below the folder `root`, none of them overwritten."""

    def __init__(self, root: str, min_free: int = 0) -> None:
        self.root = Path(root).absolute()
        super().__init__(self.root, min_free)
        self._durable: set[str] = set()  # folders whose own entries are known to be on disk

    def publish(
        self, file: BinaryIO, name: Name, metadata: bytes = b"", *, only_new: bool = False
    ) -> Stored:
        """Make a complete file of `incoming` durable under `name`, and only then return.

        `metadata` is the text of `NAME.json`, which is durable before the recording has its name.
        """
        with storage_errors(), self.synced(metadata, name.folder, file) as beside:
            with self.folder(name.folder) as folder:
                with locked(folder):
                    self.settle(name.filename, folder)
                    if not exists(name.filename, folder):
                        stored = self._create(file, beside, name, folder)
                    elif only_new:
                        raise NameExists.by(str(name), self.holds(file, name, folder))
                    else:
                        stored = self.taken(file, beside, name, folder)
                os.fsync(folder)  # a failure leaves the file: a parallel retry may own the name
                return stored

    def _create(self, file: BinaryIO, beside: BinaryIO | None, name: Name, folder: int) -> Stored:
        for kind in SIDECARS:  # of an upload that broke off here, or a copy
            remove(sidecar(name.filename, kind), folder)
        if beside:
            link_file(beside, sidecar(name.filename, "json"), folder)
        link_file(file, name.filename, folder)
        return Stored(Outcome.CREATED, str(name), etag=etag_of(os.fstat(file.fileno())))

    def settle(self, filename: str, folder: int) -> None:
        """Finish or undo what a crash left of a name; publishing by the core leaves nothing."""

    def taken(self, file: BinaryIO, beside: BinaryIO | None, name: Name, folder: int) -> Stored:
        """Answer for a name that a recording has: the same bytes are a retry, others are refused.

        Nobody else publishes into the open `folder` meanwhile. Raises `NameTaken`.
        """
        if etag := self.holds(file, name, folder):
            return Stored(Outcome.IDENTICAL, str(name), etag=etag)
        raise NameTaken(f"another recording is stored as {name}: it was kept")

    def holds(self, file: BinaryIO, name: Name, folder: int) -> str:
        """The ETag of the name's recording that holds the same bytes, "" where none does."""
        return is_in(file, name.filename, folder)

    @contextmanager
    def synced(self, data: bytes, folder: str, *others: BinaryIO) -> Iterator[BinaryIO | None]:
        """Open a file without a name with data, None where there is none; all are on disk then."""
        if not data:
            sync(*others)
            yield None
            return
        with self.incoming(folder) as file:
            file.write(data)
            check_written(file, len(data))
            sync(*others, file)
            yield file

    def open_root(self) -> int:
        return os.open(self.root, os.O_DIRECTORY | os.O_CLOEXEC)

    @contextmanager
    def folder(self, path: str, *, create: bool = True) -> Iterator[int]:
        """Open a folder below the root; where it is missing, it is created durably."""
        parent = self.open_root()
        done = ""
        try:
            for part in filter(None, path.split("/")):
                if part == "..":
                    raise OSError(errno.EINVAL, "Leads out of the storage", path)
                done += f"/{part}"
                try:
                    child = os.open(part, os.O_DIRECTORY | REFUSE_LINKS, dir_fd=parent)
                except NotADirectoryError as error:  # earlier releases stored recordings so
                    is_link = stat.S_ISLNK(os.lstat(part, dir_fd=parent).st_mode)
                    why = "A symbolic link" if is_link else f"No folder, rename it to {part}~"
                    raise OSError(error.errno, why, part) from None
                except FileNotFoundError:
                    if not create:
                        raise
                    self._durable.discard(done)  # it was removed
                    _make_folder(part, parent)
                    child = os.open(part, os.O_DIRECTORY | REFUSE_LINKS, dir_fd=parent)
                try:
                    if create and done not in self._durable:
                        os.fsync(parent)  # another process may have created it a moment ago
                        if len(self._durable) > 10_000:
                            self._durable.clear()
                        self._durable.add(done)
                finally:
                    os.close(parent)
                    parent = child
            yield parent
        finally:
            os.close(parent)


def sync(*files: BinaryIO) -> None:
    for file in files:
        os.fchmod(file.fileno(), FILE_MODE)
        # It begins to write: the file system knows where, and one commit is for all of them.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for file in files:
        os.fsync(file.fileno())  # never retried: after a failure the pages count as clean


@contextmanager
def locked(folder: int) -> Iterator[None]:
    """Let nobody else publish into an open folder meanwhile."""
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def exists(filename: str, folder: int) -> bool:
    try:
        os.stat(filename, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove(filename: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(filename, dir_fd=folder)


def link_file(file: BinaryIO, filename: str, folder: int) -> None:
    """Give an open file a name; never one that is taken. dst_dir_fd makes this a linkat(2)."""
    os.link(f"/proc/self/fd/{file.fileno()}", filename, dst_dir_fd=folder)


def is_in(file: BinaryIO, filename: str, folder: int) -> str:
    """The ETag of a stored recording with the bytes of `file`, then durable; "" of another."""
    with open_recording(filename, folder) as stored:
        if not same_bytes(file.fileno(), stored.fileno()):
            return ""
        os.fsync(stored.fileno())
        return etag_of(os.fstat(stored.fileno()))


def same_bytes(one: int, other: int) -> bool:
    """Whether two open files hold the same."""
    size = os.fstat(one).st_size
    return size == os.fstat(other).st_size and all(
        os.pread(one, BUFFER, at) == os.pread(other, BUFFER, at) for at in range(0, size, BUFFER)
    )


def open_recording(filename: str, folder: int) -> BinaryIO:
    """Open a stored recording, and nothing else that somebody may have put in its place."""
    flags = os.O_RDONLY | os.O_NONBLOCK | REFUSE_LINKS
    file = os.open(filename, flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EEXIST, "Not a recording, move it away", filename)
    return open(file, "rb")


def _make_folder(name: str, parent: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, FOLDER_MODE, dir_fd=parent)
        mode = stat.S_IMODE(os.stat(name, dir_fd=parent).st_mode)
        if mode & 0o777 != FOLDER_MODE:  # for the umask
            os.chmod(name, FOLDER_MODE | mode & stat.S_ISGID, dir_fd=parent)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn the operating system's errors into `StorageFull` and `StorageFailed`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"could not store the recording: {error.strerror}") from error
        culprit = f": {error.filename}" if isinstance(error.filename, str) else ""
        raise StorageFailed(f"could not store: {error.strerror}{culprit}") from error
