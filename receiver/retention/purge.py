"""What ends a recording: its age, where one is set."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import CatalogUnavailable, NotStored, ReceiverError, SettingError
from ..parts import Catalog, Listed, Storage
from ..storage import sidecars
from ..storage.parallel import in_parallel
from ..storage.sidecars import account_of
from .holds import hold_of

DAY = 24 * 60 * 60  # seconds
FOR_EVER = "recordings are kept for ever: set KZR_KEEP_DAYS"


@dataclass
class Purged:
    """What a purge removed, or would; the paths that are held; a line for each that failed."""

    removed: list[Listed] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(each.size for each in self.removed)


def purge(
    storage: Storage,
    catalog: Catalog | None,
    keep_days: Mapping[str, int],
    now: float,
    dry_run: bool = False,
    *,
    progress: Callable[[Listed], object] = lambda recording: None,
) -> Purged:
    """Remove the recordings that are older than their account's `keep_days`, but none on hold.

    The account "" stands for all that have no days of their own; without it those are kept. The age
    is the storage's, of superseded recordings too. One that fails is reported, and the others go
    on. Raises `SettingError` where all are kept for ever, and what scanning the storage raises.
    """
    if not keep_days:
        raise SettingError(FOR_EVER)
    report = Purged()

    def work(recording: Listed) -> Any:
        with reported(recording.path, report.failed):
            _purge_one(storage, recording, keep_days, now, dry_run, report)

    try:
        for recording, done in in_parallel(work, storage.scan()):
            done.result()
            progress(recording)
    finally:
        if catalog and not dry_run:
            gone = [each.path for each in report.removed]
            report.failed += forget(catalog, storage, gone)
    return report


def _purge_one(
    storage: Storage,
    listed: Listed,
    keep_days: Mapping[str, int],
    now: float,
    dry_run: bool,
    report: Purged,
) -> None:
    if listed.modified >= now - min(keep_days.values()) * DAY:
        return
    # First, so that what is read after it is told of the recording that has this etag, or the
    # deletion finds another there.
    with closing(storage.open(listed.path)) as recording:
        etag, modified = recording.etag, recording.modified
    days = _days(storage, listed.path, keep_days)
    if days is None or modified >= now - days * DAY:
        return
    if hold_of(storage, listed.path):
        report.held.append(listed.path)
        return
    if not dry_run:
        storage.delete(listed.path, etag)
    report.removed.append(listed)


@contextmanager
def reported(path: str, failed: list[str]) -> Iterator[None]:
    """Add a line for a recording that fails, unless it was superseded or deleted meanwhile."""
    try:
        yield
    except NotStored:
        pass
    except ReceiverError as error:
        failed.append(f"{path}: {error}")
    except ValueError as error:
        failed.append(f"{path}: kept: cannot read its metadata: {error}")


def _days(storage: Storage, path: str, keep_days: Mapping[str, int]) -> int | None:
    if set(keep_days) == {""}:
        return keep_days[""]
    told = sidecars.told(storage, path)
    return keep_days.get(account_of(told, path.rpartition("/")[0]), keep_days.get(""))


def forget(catalog: Catalog, storage: Storage, paths: Iterable[str]) -> list[str]:
    """Remove recordings from the catalog, but those that are stored again; return what failed."""
    try:
        catalog.forget(storage, paths)
    except CatalogUnavailable as error:
        return [catalog_failed(error)]
    return []


def catalog_failed(error: CatalogUnavailable) -> str:
    return f"{error}: run kazoo-receiver reindex when it is back"
