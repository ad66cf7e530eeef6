"""The parts of a running receiver, typed, and the values that they exchange.

Parts find each other here, and import no more of each other than that.
"""

import logging
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from flask import Request, current_app, g, request

from .errors import Forbidden

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

SENT_PATH = "receiver.sent_path"  # in a WSGI environment: the URL's path just as it was sent


class Outcome(StrEnum):
    """What publishing a recording did."""

    CREATED = "created"  # the name was free
    IDENTICAL = "identical"  # the same bytes were there: the sender had missed an answer
    SUPERSEDED = "superseded"  # other bytes were there: they are kept under a numbered name


@dataclass(frozen=True)
class Stored:
    """A recording that is whole and durable; `kept_as` names the file of the one it superseded.

    `etag` is the one that it is opened with. What holds the very bytes and is `identical` may have
    been superseded at `path` meanwhile: the etag finds it.
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

    `etag` tells it from all other recordings that its name has had, and from the same bytes when
    they come again after it was deleted. It keeps it when it is superseded, and so does a copy.
    `path` is that of its file, where it is one that a web server could send itself; `link` makes
    a URL from which anybody may fetch it for some minutes, where the storage has such. `noted` is
    the SHA-256 that the storage noted when it was written, "" where it does none.
    """

    file: BinaryIO
    size: int
    modified: float
    etag: str
    path: Path | None = None
    link: Callable[[], str] | None = None
    noted: str = ""

    def read(self, limit: int) -> bytes:
        """The next bytes, at most `limit`; none at the end."""
        return self.file.read(limit)

    def sha256(self) -> str:
        """The SHA-256 of what is left to read, as hexadecimal digits."""
        return sha256_of(self.file)

    def close(self) -> None:
        self.file.close()


@dataclass(frozen=True)
class Listed:
    """What `scan` tells of a recording: its stored path, size in bytes and time (POSIX).

    One that `is_gone` has only left something beside its place: a deletion or an upload broke off.
    """

    path: str
    size: int
    modified: float
    is_gone: bool = False


class Name(Protocol):
    """A recording's name: `str(name)` is the stored path, below `folder`, of its `filename`."""

    @property
    def folder(self) -> str: ...
    @property
    def filename(self) -> str: ...


def warn(line: str) -> None:
    """Log what a scan passes over."""
    logging.getLogger("receiver.storage").warning("%s", line)


class Storage(Protocol):
    """A place for recordings. Any number of threads and processes may use it at once.

    A recording lies at its stored path, `str(name)`, and what else is known of it beside it, at
    `sidecar(path, kind)`. Every method raises `StorageFull` where there is no room,
    `StorageUnavailable` where the storage cannot be reached and `StorageFailed` where it fails
    otherwise; after each, nothing partial is visible and the same call may be repeated.

    Recordings arrive in the local folder `spool`. A first upload needs no more than `check_space`,
    `incoming` and `publish`.
    """

    spool: Path

    @abstractmethod
    def check_space(self, size: int, folder: str = "") -> None:
        """Raise `StorageFull` if a recording of `size` bytes would not fit into `folder` now."""

    @abstractmethod
    def incoming(self, folder: str = "") -> AbstractContextManager[BinaryIO]:
        """Open an empty local file for a recording on its way into `folder`.

        It vanishes with its context, unless it is published.

        Failures to write to it raise as those of the storage do.
        """

    @abstractmethod
    def publish(
        self, file: BinaryIO, name: Name, metadata: bytes = b"", *, only_new: bool = False
    ) -> Stored:
        """Make the complete local file `file` durable under `name`, and only then return.

        The recording is visible whole or not at all, and `name` is never absent meanwhile. No
        other recording is overwritten: one that has the name is kept under a numbered name, or,
        with `KZR_ON_CONFLICT=refuse`, keeps it and `NameTaken` is raised. With `only_new` any
        recording that has the name keeps it and `NameExists` is raised.

        `metadata` is the text of `NAME.json` and is durable before the recording is; a recording
        that is superseded keeps its own. The time of receipt is that of the file itself. A new
        recording begins with nothing else beside it, whatever lay at its place before.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Create what is missing, try whether recordings can be stored, remove what a crash left.

        Raises `SettingError` where the storage cannot be used, and `StorageUnavailable` where it
        cannot be reached.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise as `publish` would where nothing can be stored now."""

    @abstractmethod
    def open(self, path: str) -> Recording:
        """Open what is stored at `path`, or raise `NotStored`; the caller closes it."""

    @abstractmethod
    def open_described(self, path: str) -> tuple[Recording, bytes | None]:
        """Open the recording at `path`, or raise `NotStored`, and read its `NAME.json`.

        Both are of the same moment. There is b"" for no metadata, and None where another recording
        is about to take the name, so that what lies beside this one may be that one's.
        """

    @abstractmethod
    def scan(self, prefix: str = "", odd: Callable[[str], object] = warn) -> Iterator[Listed]:
        """List the recordings whose paths begin with `prefix`, superseded ones too.

        What is published or deleted meanwhile may be listed or not. What a deletion or an upload
        that broke off left beside the place of a recording is listed as one that `is_gone`. What
        cannot be read, and what is no recording but in the place of one or of a folder, is passed
        over: `odd` is called with a line that tells of it.
        """

    @abstractmethod
    def versions(self, path: str) -> list[str]:
        """The stored paths of all recordings that have or had the name of the one at `path`.

        The newest comes first, whatever numbers are missing.
        """

    @abstractmethod
    def sidecars(self) -> Iterator[str]:
        """List the stored paths of what lies beside recordings, or beside places for them."""

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
        beside it. `NAME.json`, by which it is found, is the last to go, so that a call that failed
        may be repeated: what is left of a recording that is gone is removed in the same way.
        """


class Body(Protocol):
    """The body of one request; `received` is the number of its bytes that were read."""

    received: int

    @property
    def length(self) -> int | None:
        """The number of bytes that the sender announced, if it did."""

    @property
    def metadata(self) -> bytes:
        """What the sender told of the recording, as the text of `NAME.json`."""

    def require(self, max_bytes: int) -> None: ...

    def as_file(
        self, incoming: Callable[[], AbstractContextManager[BinaryIO]], chunk_size: int
    ) -> AbstractContextManager[BinaryIO]: ...

    def drain(self) -> None: ...


class Access(Protocol):
    """Who may write, and who may read: each method raises `Forbidden` or `Unauthorized`."""

    @property
    def is_open(self) -> bool:
        """Whether anybody who reaches the port may write."""

    def check_writer(self, request: Request) -> None: ...

    def check_reader(self, request: Request) -> None: ...


class Anybody:
    """As with the PHP script: whoever reaches the receiver may write, and nobody may read."""

    is_open = True

    def check_writer(self, request: Request) -> None:
        pass

    def check_reader(self, request: Request) -> None:
        raise Forbidden("nothing is readable here: see KZR_READERS")


class Described(Protocol):
    """What the catalog knows of a recording, as far as other parts ask; "" is unknown."""

    @property
    def caller_number(self) -> str: ...
    @property
    def callee_number(self) -> str: ...
    @property
    def from_(self) -> str: ...
    @property
    def to(self) -> str: ...
    @property
    def call_id(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def size(self) -> int: ...


class Catalog(Protocol):
    """What was received, for people to find; each method may raise `CatalogUnavailable`."""

    def check(self) -> None: ...

    def paths(self) -> Iterator[str]: ...

    def get(self, path: str) -> Described | None: ...

    def refresh(self, storage: Storage, path: str) -> None:
        """Add what is known now of the recording that is stored at `path`."""

    def forget(self, storage: Storage, paths: Iterable[str]) -> None:
        """Remove recordings, but those that are stored again."""


class Indexer(Protocol):
    """What adds recordings to the catalog, after the answer."""

    @property
    def lag(self) -> float:
        """For how many seconds the oldest recording has been waiting."""


@dataclass(frozen=True)
class Backlog:
    """What is left to do after storing: how many jobs wait or run, and were given up, by kind.

    `oldest` is for how many seconds the first of those that wait has done so, and `lived` when a
    worker last did (POSIX), 0 for never.
    """

    waiting: Mapping[str, int]
    given_up: Mapping[str, int]
    oldest: float
    lived: float


class Jobs(Protocol):
    """What is done for each recording after the answer.

    Each method raises `StorageUnavailable` where the queue cannot be used.
    """

    def add(self, stored: Stored) -> None:
        """Enqueue its jobs durably, each once for the same bytes."""

    def check(self) -> None:
        """Raise as `add` would where nothing can be enqueued now."""

    def backlog(self) -> Backlog: ...

    def forget(self, path: str, etag: str) -> None:
        """Forget all that is noted of a recording's jobs."""


@dataclass
class Parts:
    """The parts of one receiver; those that are not configured are None.

    The storage is opened when it is first used, so that a command opens only what it uses.
    `open_body` makes a request's body of what the server hands over.
    """

    open_storage: Callable[[], Storage]
    open_body: Callable[["WSGIEnvironment"], Body]
    access: Access = field(default_factory=Anybody)
    catalog: Catalog | None = None
    indexer: Indexer | None = None
    jobs: Jobs | None = None

    @cached_property
    def storage(self) -> Storage:
        return self.open_storage()


def parts() -> Parts:
    """Those of the receiver that the current request or command is for."""
    found: Parts = current_app.extensions["receiver"]
    return found


@dataclass
class Exchange:
    """One request: its body, and what became of it; `started` is a time of the monotonic clock."""

    body: Body
    started: float
    stored: Stored | None = None
    reason: str = ""  # for an error


def exchange() -> Exchange:
    """The current request's, which begins when it is first asked for."""
    try:
        found: Exchange = g.exchange
    except AttributeError:
        found = g.exchange = Exchange(parts().open_body(request.environ), time.monotonic())
    return found


def etag_of(status: os.stat_result) -> str:
    """A file's ETag: what tells it from all others that its name has had, and copies keep."""
    return f"{status.st_size:x}-{microseconds(status.st_mtime_ns):x}"


def round_time(file: int, later: int = 0) -> None:
    """Give an open file a time in whole microseconds, some nanoseconds `later` than it has.

    Whatever copies it keeps those, though it may count in seconds with a fraction.
    """
    time = microseconds(os.fstat(file).st_mtime_ns + later) * 1000
    os.utime(file, ns=(time, time))


def microseconds(nanoseconds: int) -> int:
    return (nanoseconds + 500) // 1000


def sha256_of(file: BinaryIO) -> str:
    """The SHA-256 of what is left to read of a file, as hexadecimal digits."""
    # typeshed wants a `getbuffer` or `readinto` that it does not find in BinaryIO.
    return file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
