"""Reads the whole storage again, and tells what is not as it was."""

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

from ..core.publish import storage_errors
from ..errors import NotStored, ReceiverError
from ..parts import Catalog, Listed, Storage
from ..storage import sidecars
from ..storage.parallel import THREADS, in_parallel
from .holds import is_stored

ATTEMPTS = 3  # to read a recording that is superseded meanwhile
INDEXING = 60  # seconds in which a recording gets into the catalog


@dataclass
class Report:
    """How many recordings were read and had no checksum, and a line for each that is wrong."""

    read: int = 0
    without: int = 0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def verify(
    storage: Storage,
    catalog: Catalog | None,
    now: float,
    *,
    threads: int = THREADS,
    progress: Callable[[Listed], object] = lambda recording: None,
) -> Report:
    """Read all recordings, `threads` at a time, and compare each one's SHA-256 with what is known.

    That is the `sha256` in its metadata, or else in the catalog. With a catalog, both have to have
    the same recordings, but for those that the storage has for less than a minute at `now`. Raises
    `CatalogUnavailable`, and what scanning the storage raises.
    """
    report = Report()
    seen: set[str] = set()

    def check(recording: Listed) -> Any:
        with suppress(NotStored):  # superseded or deleted meanwhile
            _check(storage, catalog, recording, now, report)

    for recording, done in in_parallel(check, storage.scan(), threads):
        done.result()
        seen.add(recording.path)
        progress(recording)
    for path in catalog.paths() if catalog else ():
        if path not in seen and not is_stored(storage, path):
            report.wrong.append(f"missing: {path}: in the catalog, but not stored")
    return report


def _check(
    storage: Storage, catalog: Catalog | None, listed: Listed, now: float, report: Report
) -> None:
    path = listed.path
    if listed.is_gone:
        if listed.modified < now - INDEXING:  # no upload that is under way
            report.wrong.append(f"left: {path}: it is gone, but not all that lay beside it")
        return
    row = catalog.get(path) if catalog else None
    if catalog and not row and listed.modified < now - INDEXING:
        report.wrong.append(f"extra: {path}: stored, but not in the catalog")
    try:
        is_known, changed = _compare(storage, path, row.sha256 if row else "")
    except NotStored:
        raise
    except ReceiverError as error:
        report.wrong.append(f"unreadable: {path}: {error}")
        return
    except ValueError as error:
        report.wrong.append(f"unreadable: {path}: its metadata: {error}")
        return
    with report.lock:
        report.read += 1
        report.without += not is_known
    if changed:
        report.wrong.append(f"changed: {path}: {changed}")


def _compare(storage: Storage, path: str, listed: str) -> tuple[bool, str]:
    """Whether the SHA-256 of a recording is known, and what differs from it, or "".

    `listed` is what the catalog knows of it.
    """
    for _ in range(ATTEMPTS):
        with storage_errors(), closing(storage.open(path)) as recording:
            digest = recording.sha256()
            etag = recording.etag
        source, known = "metadata", str(sidecars.told(storage, path).get("sha256") or "").lower()
        if not known:
            source, known = "catalog", listed
        if not known or known == digest:
            return bool(known), ""
        with closing(storage.open(path)) as recording:
            if recording.etag == etag:
                break
    return True, f"its SHA-256 is {digest}, and was {known} ({source})"
