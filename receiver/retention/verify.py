"""Reads the whole storage again, and tells what is not as it was."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ..core.naming import sidecar
from ..core.publish import storage_errors
from ..errors import CatalogUnavailable, NotStored, ReceiverError, StorageFailed
from ..formats import SIDECARS
from ..parts import Catalog, Described, Listed, Storage
from ..shown import shown
from ..storage import sidecars
from ..storage.parallel import THREADS, in_parallel
from ..storage.paths import recording_of
from ..storage.sidecars import open_beside
from .holds import is_stored

ATTEMPTS = 3  # to read a recording that is superseded meanwhile
INDEXING = 60  # seconds in which a recording gets into the catalog
ARRIVING = 3.0  # seconds in which a recording follows its metadata


@dataclass
class Report:
    """How many recordings were read and had no checksum, and a line for each that is wrong."""

    read: int = 0
    without: int = 0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_uncompared(self) -> bool:
        """Whether there are recordings, but none could be compared with anything."""
        return 0 < self.read == self.without

    def odd(self, line: str) -> None:
        self.wrong.append(f"unreadable: {line}")

    def tell(self, what: str, path: str, why: object) -> None:
        self.wrong.append(shown(f"{what}: {path}: {why}"))


def verify(
    storage: Storage,
    catalog: Catalog | None,
    now: float,
    *,
    threads: int = THREADS,
    progress: Callable[[Listed], object] = lambda recording: None,
) -> Report:
    """Read all recordings, `threads` at a time, and compare each with all that is known of it.

    That is its SHA-256 in its metadata or else in the catalog, the one that the storage noted, and
    its size. What lies beside is read too, and must belong to a recording. With a catalog, both
    have to have the same recordings, but for those that the storage has for less than a minute at
    `now`. Raises `CatalogUnavailable`, and what scanning the storage raises.
    """
    report = Report()
    seen: set[str] = set()

    def check(recording: Listed) -> Any:
        try:
            _check(storage, catalog, recording, now, report)
        except NotStored:  # superseded or deleted meanwhile
            pass
        except CatalogUnavailable:
            raise
        except ReceiverError as error:
            report.tell("unreadable", recording.path, error)
        except ValueError as error:
            report.tell("unreadable", recording.path, f"its metadata: {error}")
        except Exception as error:
            report.tell("unreadable", recording.path, error or type(error).__name__)

    for recording, done in in_parallel(check, storage.scan(odd=report.odd), threads):
        done.result()
        if not recording.is_gone:
            seen.add(recording.path)
        progress(recording)
    missing = {*_missing(storage, catalog, seen)} if catalog else set()
    for path in missing:
        report.tell("missing", path, "in the catalog, but not stored")
    for path in _lone(storage, seen):
        if recording_of(path) not in missing:
            report.tell("alone", path, "its recording is not stored")
    return report


def _missing(storage: Storage, catalog: Catalog, seen: set[str]) -> list[str]:
    """What only the catalog has, and still has when there was time to forget what is erased."""
    found = [each for each in catalog.paths() if each not in seen and not is_stored(storage, each)]
    if found:
        time.sleep(ARRIVING)
    return [each for each in found if catalog.get(each) and not is_stored(storage, each)]


def _lone(storage: Storage, seen: set[str]) -> Iterator[str]:
    """What lies beside no recording, and still does not when there was time to follow."""
    lone = [path for path in storage.sidecars() if recording_of(path) not in seen]
    lone = [path for path in lone if not is_stored(storage, recording_of(path))]
    if lone:
        time.sleep(ARRIVING)
    for path in lone:
        if is_stored(storage, path) and not is_stored(storage, recording_of(path)):
            yield path


def _check(
    storage: Storage, catalog: Catalog | None, listed: Listed, now: float, report: Report
) -> None:
    path = listed.path
    if listed.is_gone:  # what is left beside it is told of below
        return
    for kind in SIDECARS:
        _check_beside(storage, path, kind, report)
    is_known, changed, row = _compare(storage, catalog, path, now)
    if catalog and not row and _is_settled(listed.modified, now):
        report.tell("extra", path, "stored, but not in the catalog")
    with report.lock:
        report.read += 1
        report.without += not is_known
    for why in changed:
        report.tell("changed", path, why)


def _check_beside(storage: Storage, recording: str, kind: str, report: Report) -> None:
    """Compare what lies beside a recording with what the storage noted of it."""
    path = sidecar(recording, kind)
    try:
        with storage_errors(), closing(open_beside(storage, recording, kind)) as beside:
            digest = beside.sha256()
        if beside.noted not in ("", digest):
            with closing(open_beside(storage, recording, kind)) as again:
                if again.etag == beside.etag:
                    report.tell("changed", path, _told(digest, beside.noted, "storage"))
    except NotStored:
        pass
    except Exception as error:
        report.tell("unreadable", path, error or type(error).__name__)


def _is_settled(modified: float, now: float) -> bool:
    """Whether a recording had the time to get into the catalog."""
    return not now - INDEXING <= modified <= now + INDEXING


def _compare(
    storage: Storage, catalog: Catalog | None, path: str, now: float
) -> tuple[bool, list[str], Described | None]:
    """Whether the SHA-256 of a recording is known, what differs from what is known, and its row."""
    for _ in range(ATTEMPTS):
        with storage_errors(), closing(storage.open(path)) as recording:
            digest = recording.sha256()
            read = recording.file.tell()
        if read != recording.size:
            raise StorageFailed(f"{read} bytes of it could be read, and it has {recording.size}")
        row = catalog.get(path) if catalog else None
        source, known = "metadata", str(sidecars.told(storage, path).get("sha256") or "").lower()
        # The catalog may still tell of the one that had the name before.
        if not known and row and _is_settled(recording.modified, now):
            source, known = "catalog", row.sha256
        changed = [
            _told(digest, each, where)
            for where, each in ((source, known), ("storage", recording.noted))
            if each not in ("", digest)
        ]
        if row and row.size != recording.size and _is_settled(recording.modified, now):
            changed.append(f"its size is {recording.size}, and was {row.size} (catalog)")
        if not changed:
            break
        with closing(storage.open(path)) as again:
            if again.etag == recording.etag:
                break
    return bool(known or recording.noted), changed, row


def _told(digest: str, known: str, source: str) -> str:
    return f"its SHA-256 is {digest}, and was {known} ({source})"
