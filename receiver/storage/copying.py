"""Copies of every recording of one storage in another, with what lies beside it."""

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from hashlib import sha256

from ..core.body import check_written
from ..core.naming import sidecar
from ..errors import NotStored, ReceiverError, StorageFailed
from ..formats import SIDECARS
from ..parts import Listed, Outcome, Storage
from .parallel import THREADS, in_parallel

READ_SIZE = 256 * 1024  # bytes


@dataclass
class Report:
    """What became of the recordings: how many were copied, were there before, and failed."""

    copied: int = 0
    identical: int = 0
    failed: list[str] = field(default_factory=list)  # a line for each


def copy_all(
    source: Storage,
    destination: Storage,
    *,
    threads: int = THREADS,
    progress: Callable[[Listed], object] = lambda recording: None,
) -> Report:
    """Copy all recordings, `threads` at a time, and call `progress` after each.

    What is there already stays as it is, so that a call that broke off may be repeated. Every copy
    is read back and its SHA-256 compared with that of the original. One that fails is reported, and
    the others go on.
    """
    report = Report()

    def copy(recording: Listed) -> Outcome:
        return copy_recording(source, destination, recording)

    for recording, outcome in in_parallel(copy, source.scan(odd=report.failed.append), threads):
        try:
            if outcome.result() is Outcome.CREATED:
                report.copied += 1
            else:
                report.identical += 1
        except ReceiverError as error:
            report.failed.append(f"{recording.path}: {error}")
        progress(recording)
    return report


def copy_recording(source: Storage, destination: Storage, recording: Listed) -> Outcome:
    """Copy one recording; what lies beside it is durable before the recording itself is there."""
    destination.check_space(recording.size)
    for kind in SIDECARS:
        with suppress(NotStored):
            _copy_file(source, destination, sidecar(recording.path, kind))
    return _copy_file(source, destination, recording.path)


def _copy_file(source: Storage, destination: Storage, path: str) -> Outcome:
    digest = sha256()
    with closing(source.open(path)) as original, destination.incoming() as file:
        while data := original.read(READ_SIZE):
            digest.update(data)
            file.write(data)
        check_written(file, original.size)
        outcome = destination.put(path, file, original.modified)
    if outcome is Outcome.CREATED:
        with closing(destination.open(path)) as copy:
            if copy.sha256() != digest.hexdigest():
                raise StorageFailed("the copy reads back otherwise: delete it and copy again")
    return outcome
