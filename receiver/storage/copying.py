"""Copies of every recording of one storage in another, with what lies beside it."""

import os
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import BinaryIO, NamedTuple

from ..core.body import check_written
from ..core.naming import sidecar
from ..errors import NameTaken, NotStored, ReceiverError, StorageFailed, StorageUnavailable
from ..formats import SIDECARS
from ..parts import Listed, Outcome, Storage
from ..shown import shown
from .parallel import THREADS, in_parallel
from .paths import number_of, numbered, original
from .sidecars import HOLD, from_json, open_beside

READ_SIZE = 256 * 1024  # bytes
ATTEMPTS = 10  # at a recording that is superseded meanwhile, here or there
# A copy may be purged as soon as it is there.
KINDS = (HOLD, *(kind for kind in SIDECARS if kind != HOLD))


@dataclass
class Report:
    """What became of the recordings: how many were copied, were there before, and failed."""

    copied: int = 0
    identical: int = 0
    failed: list[str] = field(default_factory=list)  # a line for each


@dataclass(frozen=True)
class _Path:
    """A stored path as a name to publish under."""

    folder: str
    filename: str
    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True)
class _Original:
    """A recording of the source in a local file, with what lies beside it."""

    path: str
    file: BinaryIO
    size: int
    digest: str
    modified: float
    beside: dict[str, "_Beside"]


class _Beside(NamedTuple):
    """What lies beside a recording, and since when (POSIX)."""

    data: bytes
    modified: float


def copy_all(
    source: Storage,
    destination: Storage,
    *,
    threads: int = THREADS,
    progress: Callable[[Listed], object] = lambda recording: None,
) -> Report:
    """Copy all recordings, `threads` at a time, and call `progress` after each.

    What is there already stays, so that a call that broke off may be repeated; what lies beside it
    becomes as it is at the source, but for a hold, which never goes. Every copy is read back and
    its SHA-256 compared with that of the original. One that fails is reported, and the others go
    on.
    """
    report = Report()
    locks = [threading.Lock() for _ in range(16 * threads)]

    def copy(recording: Listed) -> Outcome | None:
        # One at a time of those that have or had the same name.
        with locks[hash(original(recording.path)) % len(locks)], suppress(NotStored):
            return copy_recording(source, destination, recording)
        return None  # deleted or superseded meanwhile

    for recording, outcome in in_parallel(copy, source.scan(odd=report.failed.append), threads):
        try:
            done = outcome.result()
            report.copied += done is Outcome.CREATED
            report.identical += done is Outcome.IDENTICAL
        except Exception as error:  # whatever it is, it ends no more than this one
            why = error if isinstance(error, ReceiverError) else f"{type(error).__name__}: {error}"
            report.failed.append(shown(f"{recording.path}: {why}"))
        progress(recording)
    return report


def copy_recording(source: Storage, destination: Storage, recording: Listed) -> Outcome:
    """Copy one recording, or bring what has changed beside its copy.

    It is known by its bytes: the copy may have another number. Raises `NotStored` where it is gone.
    """
    destination.check_space(recording.size)
    with destination.incoming() as file:
        read = _read(source, recording.path, file)
        outcome = Outcome.IDENTICAL
        for _ in range(ATTEMPTS):
            with suppress(NotStored):  # another recording has taken its name
                found = _find(destination, read)
                if found is None:
                    found, outcome = _store(source, destination, read), Outcome.CREATED
                _bring_beside(destination, *found, read)
                return outcome
        raise StorageUnavailable("others keep superseding the copy: copy again")


def _read(source: Storage, path: str, file: BinaryIO) -> _Original:
    """Read a recording, and what lies beside this one and no other that took its name."""
    for _ in range(ATTEMPTS):
        file.seek(0)
        file.truncate()
        digest = sha256()
        with closing(source.open(path)) as opened:
            while data := opened.read(READ_SIZE):
                digest.update(data)
                file.write(data)
            check_written(file, opened.size)
            beside = {kind: _beside(source, path, kind) for kind in KINDS}
            with closing(source.open(path)) as now:
                if now.etag == opened.etag:
                    told = {kind: each for kind, each in beside.items() if each}
                    found = (opened.size, digest.hexdigest(), opened.modified)
                    return _Original(path, file, *found, told)
    raise StorageUnavailable("others keep superseding it")


def _beside(storage: Storage, path: str, kind: str) -> _Beside | None:
    with suppress(NotStored), closing(open_beside(storage, path, kind)) as opened:
        return _Beside(b"".join(iter(lambda: opened.read(READ_SIZE), b"")), opened.modified)
    return None


def _find(destination: Storage, read: _Original) -> tuple[str, str] | None:
    """The path that the bytes have at the destination, and the etag."""
    if etag := _same(destination, read.path, read):
        return read.path, etag
    if read.path == original(read.path) and not _is_stored(destination, read.path):
        return None  # the usual case, for which nothing is listed
    for path in destination.versions(read.path):
        if etag := _same(destination, path, read):
            return path, etag
    return None


def _same(destination: Storage, path: str, read: _Original) -> str:
    """The etag of the recording at a path of the destination, if it has the same bytes; or ""."""
    with suppress(NotStored, NameTaken):
        with closing(destination.open(path)) as opened:
            etag, is_same = opened.etag, opened.size == read.size
        if is_same and destination.put(path, read.file, read.modified) is Outcome.IDENTICAL:
            return etag
    return ""


def _is_stored(storage: Storage, path: str) -> bool:
    with suppress(NotStored), closing(storage.open(path)):
        return True
    return False


def _store(source: Storage, destination: Storage, read: _Original) -> tuple[str, str]:
    """Store a recording that is not there yet, what lies beside it first.

    Returns its path, and its etag.
    """
    path, name = read.path, original(read.path)
    is_taken = _is_stored(destination, path)
    if is_taken and path != name:
        path = numbered(name, max(map(number_of, destination.versions(name))) + 1)
        is_taken = False
    if is_taken:
        if not _was_superseded(source, destination, path):
            raise NameTaken(f"another recording is stored as {path}")
        os.utime(read.file.fileno(), (read.modified, read.modified))
        folder, _, filename = path.rpartition("/")
        told = read.beside.get("json")
        destination.publish(read.file, _Path(folder, filename, path), told.data if told else b"")
    else:
        for kind in KINDS:
            with suppress(NameTaken):  # of a call that broke off: it is replaced afterwards
                _put_beside(destination, path, kind, read)
        destination.put(path, read.file, read.modified)
    with closing(destination.open(path)) as copy:
        if is_taken and HOLD in read.beside:  # before it is read back, which takes a while
            destination.attach(path, HOLD, read.beside[HOLD].data, copy.etag)
        if copy.sha256() != read.digest:
            raise StorageFailed("the copy reads back otherwise: delete it and copy again")
        return path, copy.etag


def _put_beside(destination: Storage, path: str, kind: str, read: _Original) -> None:
    if told := read.beside.get(kind):
        with destination.incoming() as file:
            file.write(told.data)
            check_written(file, len(told.data))
            destination.put(sidecar(path, kind), file, told.modified)


def _was_superseded(source: Storage, destination: Storage, path: str) -> bool:
    """Whether what has a name at the destination is an older recording of the source's."""
    with closing(destination.open(path)) as there:
        size, digest = there.size, there.sha256()
    for older in source.versions(path):
        with suppress(NotStored), closing(source.open(older)) as opened:
            if older != path and opened.size == size and opened.sha256() == digest:
                return True
    return False


def _bring_beside(destination: Storage, path: str, etag: str, read: _Original) -> None:
    """Let what lies beside the copy be as it is at the source, a hold first.

    What only the copy has stays: its own hold, its own transcript.
    """
    for kind, (data, _) in read.beside.items():
        there = _beside(destination, path, kind)
        if data and not (there and (there.data == data or kind == "json" and _adds(there, data))):
            destination.attach(path, kind, data, etag)


def _adds(there: _Beside, data: bytes) -> bool:
    """Whether metadata tell all that others do, and maybe more, as a checksum."""
    with suppress(ValueError):
        return from_json(data).items() <= from_json(there.data).items()
    return False
