"""What every storage promises, whatever it keeps its recordings in."""

import errno
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from hashlib import file_digest
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, cast

from ..core.naming import RecordingName
from ..errors import Held, StorageFailed, StorageFull

FILE_MODE = 0o640
FOLDER_MODE = 0o750
WRITE_BUFFER = 256 * 1024  # bytes
# Where the file system has no O_TMPFILE, unfinished files lie in a folder that no recording's
# name can reach, because a leading dot is percent-encoded in those.
INCOMING = ".incoming"
HOLD = "hold"  # the kind of sidecar that keeps a recording from being deleted
ABANDONED_AFTER = 24 * 60 * 60  # seconds; longer than any upload takes
NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Outcome(StrEnum):
    """What publishing a recording did."""

    CREATED = "created"  # the name was free
    IDENTICAL = "identical"  # the same bytes were there: the sender had missed an answer
    SUPERSEDED = "superseded"  # other bytes were there: they are kept under a numbered name


@dataclass(frozen=True)
class Stored:
    """A recording that is whole and durable; `kept_as` names the file of the one it superseded.

    `etag` is the one that it is opened with, where that is known without opening it.
    """

    outcome: Outcome
    path: str
    kept_as: str | None = None
    etag: str = ""

    @property
    def kept_path(self) -> str | None:
        """The stored path of the recording that was superseded."""
        folder, slash, _ = self.path.rpartition("/")
        return folder + slash + self.kept_as if self.kept_as else None


@dataclass(frozen=True)
class Recording:
    """A stored recording, open for reading: `file` is seekable, `modified` in seconds (POSIX).

    `path` is that of its file, where it is one that a web server could send itself; `link` makes
    a URL from which anybody may fetch it for some minutes, where the storage has such.
    """

    file: BinaryIO
    size: int
    modified: float
    etag: str
    path: Path | None = None
    link: Callable[[], str] | None = None

    def close(self) -> None:
        self.file.close()


@dataclass(frozen=True)
class Listed:
    """What `scan` tells of a recording: its stored path, size in bytes and time (POSIX)."""

    path: str
    size: int
    modified: float


class Storage(ABC):
    """A place for recordings. Any number of threads and processes may use it at once.

    A recording lies at its stored path, `str(name)`, and what else is known of it beside it, at
    `naming.sidecar(path, kind)`. Every method raises `StorageFull` where there is no room,
    `StorageUnavailable` where the storage cannot be reached and `StorageFailed` where it fails
    otherwise; after each, nothing partial is visible and the same call may be repeated.

    `spool` is the local folder that recordings arrive in, and `min_free` the number of bytes to
    leave free in its file system. With `supersede` a new recording takes the name of an older,
    different one; without, it is refused.
    """

    def __init__(self, spool: Path, min_free: int, supersede: bool) -> None:
        self.spool = spool
        self._min_free = min_free
        self._supersede = supersede

    @abstractmethod
    def prepare(self) -> None:
        """Create what is missing, try whether recordings can be stored, remove what a crash left.

        Raises `SettingError` where the storage cannot be used, and `StorageUnavailable` where it
        cannot be reached.
        """

    def check_space(self, size: int) -> None:
        """Raise `StorageFull` if a recording of `size` bytes would not fit now."""
        with storage_errors():
            disk = os.statvfs(self.spool)
        if disk.f_bavail * disk.f_frsize < size + self._min_free:
            raise StorageFull("the disk is full: free some space or lower KZR_MIN_FREE")
        if disk.f_files and not disk.f_favail:
            raise StorageFull("the disk has no inodes left: remove some files")

    def check(self) -> None:
        """Raise as `publish` would where nothing can be stored now."""
        self.check_space(0)
        with self.incoming() as file:
            file.write(b"x")
            file.flush()

    @abstractmethod
    def publish(
        self, file: BinaryIO, name: RecordingName, metadata: bytes = b"", *, only_new: bool = False
    ) -> Stored:
        """Make the complete local file `file` durable under `name`, and only then return.

        The recording is visible whole or not at all, and `name` is never absent meanwhile. No
        other recording is overwritten: one that has the name is kept under a numbered name, or,
        with `KZR_ON_CONFLICT=refuse`, keeps it and `NameTaken` is raised. With `only_new` any
        recording that has the name keeps it and `NameExists` is raised.

        `metadata` is the text of `NAME.json` and is durable before the recording is; a recording
        that is superseded keeps its own.
        """

    @abstractmethod
    def open(self, path: str) -> Recording:
        """Open what is stored at `path`, or raise `NotStored`; the caller closes it."""

    @abstractmethod
    def scan(self, prefix: str = "") -> Iterator[Listed]:
        """List the recordings whose paths begin with `prefix`, superseded ones too.

        What is published or deleted meanwhile may be listed or not.
        """

    @abstractmethod
    def put(self, path: str, file: BinaryIO, modified: float) -> Outcome:
        """Make the complete local file `file` durable at exactly `path`: `created`, `identical`.

        This is for copies of another storage's recordings and sidecars. `modified` is kept where
        the storage can. Raises `NameTaken` where other bytes are at `path`, and keeps those.
        """

    @abstractmethod
    def attach(self, path: str, kind: str, data: bytes, etag: str) -> None:
        """Make `data` durable beside the recording at `path`, as the only one of its kind there.

        Raises `NotStored` unless the recording there has the `etag`: others may take its name.
        Without data, what was there is removed.
        """

    @abstractmethod
    def delete(self, path: str, etag: str = "") -> None:
        """Remove, durably, the recording at `path` and what lies beside it, or raise `NotStored`.

        With an `etag`, only a recording that has it is removed. Raises `Held` where a hold lies
        beside it. The recording goes last, so that a call that failed may be repeated.
        """

    @contextmanager
    def incoming(self) -> Iterator[BinaryIO]:
        """Open an empty local file for a recording on its way in; it vanishes with its context.

        It has no name, so that a crash leaves nothing behind. Failures to write to it raise as
        those of the storage do.
        """
        with storage_errors(), self._open_unnamed() as file:
            yield file

    def _open_unnamed(self) -> BinaryIO:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        try:
            return open(os.open(self.spool, flags, FILE_MODE), "w+b", WRITE_BUFFER)
        except OSError as error:
            if error.errno not in NO_TMPFILE:
                raise
        folder = self.spool / INCOMING
        folder.mkdir(FOLDER_MODE, exist_ok=True)
        return cast(BinaryIO, tempfile.NamedTemporaryFile("w+b", WRITE_BUFFER, dir=folder))

    def sweep(self) -> None:
        """Remove the incoming files that a crash left behind where they have names."""
        remove_abandoned(self.spool / INCOMING)


def remove_abandoned(folder: Path, names: str = "*") -> None:
    """Remove the files in a folder that a crash left behind a day ago or earlier."""
    if folder.is_symlink():  # in /var/tmp, anybody could have put it there
        return
    for path in folder.glob(names):
        with suppress(FileNotFoundError):  # another process was faster
            status = path.lstat()
            if S_ISREG(status.st_mode) and status.st_mtime < time.time() - ABANDONED_AFTER:
                path.unlink()


def sha256_of(file: BinaryIO) -> str:
    """The SHA-256 of what is left to read of a file, as hexadecimal digits."""
    # typeshed wants a `getbuffer` or `readinto` that it does not find in BinaryIO.
    return file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def spool_folder() -> Path:
    """The local folder for recordings on their way to another machine: `$TMPDIR` or /var/tmp."""
    # Nobody can guess a name there: files have none, or a random one that must be new.
    return Path(os.environ.get("TMPDIR") or "/var/tmp").absolute()  # noqa: S108 - as above


def held(path: str) -> Held:
    return Held(f"{path} is on legal hold")


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
