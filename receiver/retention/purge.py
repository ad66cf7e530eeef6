"""What ends a recording: its age, where one is set."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import CatalogUnavailable, Held, NotStored, ReceiverError, SettingError
from ..parts import Catalog, Listed, Storage
from ..shown import shown
from ..storage import sidecars
from ..storage.base import GONE
from ..storage.parallel import in_parallel
from ..storage.purges import Purges, note, noted
from ..storage.sidecars import account_of
from .holds import hold_of, is_stored

DAY = 24 * 60 * 60  # seconds
FOR_EVER = "recordings are kept for ever: set KZR_KEEP_DAYS"
FEW = 100  # recordings, of which a purge may remove any number
MOST_AT_ONCE = 5  # a purge removes one recording in so many, where another was a short time ago
SHORT_TIME = 2 * DAY
LONG_TIME = 31 * DAY  # since the last purge: the worker has not run, or the clock is wrong
LEAST = 10  # recordings, of which a share tells anything
SKEW = 300  # seconds that the clocks of two machines may differ by
EARLIEST = 946_684_800.0  # 2000: no Kazoo has recorded before, so that a clock was wrong
CONFIRM = "look with purge --dry-run, and if all of that is to go, run purge --confirm once"


class Unconfirmed(SettingError):
    """A purge would remove what nobody may have meant to; nothing was removed."""


@dataclass(frozen=True)
class Removal:
    """A recording that a purge removed, or would, and the days that were to keep it."""

    path: str
    size: int
    modified: float
    days: int


@dataclass
class Purged:
    """What a purge removed, or would; the paths that are held; a line for each that failed.

    `seen` is the number of all recordings, and `newest` the latest time of any.
    """

    removed: list[Removal] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    seen: int = 0
    newest: float = 0.0

    @property
    def size(self) -> int:
        return sum(each.size for each in self.removed)


def purge_carefully(
    storage: Storage,
    catalog: Catalog | None,
    keep_days: Mapping[str, int],
    now: float,
    *,
    confirmed: bool = False,
    removed: Callable[[Removal], object] = lambda removal: None,
    progress: Callable[[Listed], object] = lambda recording: None,
) -> Purged:
    """Purge, and note in the storage that it was done and what it did.

    Raises `Unconfirmed`, and removes nothing, where a wrong clock or setting may be why so much is
    to go, unless that is `confirmed`.
    """
    last = noted(storage)
    plan = purge(storage, None, keep_days, now, True)
    if not confirmed and (why := doubts(plan, last, keep_days, now)):
        raise Unconfirmed(f"nothing was removed: {why}: {CONFIRM}")
    report = purge(
        storage,
        catalog,
        keep_days,
        now,
        earliest=float("-inf") if confirmed else EARLIEST,
        removed=removed,
        progress=progress,
    )
    purges = Purges(
        last=now,
        confirmed=plan.newest if confirmed else last.confirmed,
        recordings=last.recordings + len(report.removed),
        size=last.size + report.size,
        failed=last.failed + len(report.failed),
    )
    try:
        note(storage, purges)
    except ReceiverError as error:
        report.failed.append(shown(f"the purge is not noted in the storage: {error}"))
    return report


def doubts(plan: Purged, last: Purges, keep_days: Mapping[str, int], now: float) -> str:
    """Why the clock or a setting may be wrong, by what a purge would remove; else ""."""
    if not plan.seen:
        return ""
    is_confirmed = plan.newest == last.confirmed and 0 <= now - last.last < LONG_TIME
    if not is_confirmed:
        if plan.newest > now + SKEW:
            return "the newest recording is of a time to come, so that the clock may be wrong"
        if plan.removed and plan.newest < now - min(keep_days.values()) * DAY:
            return (
                "the newest recording is older than KZR_KEEP_DAYS, so that the clock may be wrong"
            )
    # Where no purge is known of, there may have been one: its note is in no backup, and nothing is
    # less tried than new settings. To ask costs a command, and not to ask may cost the recordings.
    if plan.seen > FEW and len(plan.removed) * MOST_AT_ONCE > plan.seen:
        share = f"{len(plan.removed):,} of {plan.seen:,} recordings would go at once"
        if not last.last:
            return f"{share}, and no purge of this storage is known"
        if now - last.last < SHORT_TIME:
            return f"{share}, and the last purge was less than two days ago"
    # The worker purges each hour: so long after, the clock may have gone ahead of everything, and
    # what was received since then looks as new as it does.
    if plan.seen > LEAST and last.last and now - last.last > LONG_TIME:
        if len(plan.removed) * MOST_AT_ONCE > plan.seen:
            return (
                f"{len(plan.removed):,} of {plan.seen:,} recordings would go at once, and the last "
                "purge was over a month ago, so that the clock may be wrong"
            )
    return ""


def purge(
    storage: Storage,
    catalog: Catalog | None,
    keep_days: Mapping[str, int],
    now: float,
    dry_run: bool = False,
    *,
    earliest: float = EARLIEST,
    removed: Callable[[Removal], object] = lambda removal: None,
    progress: Callable[[Listed], object] = lambda recording: None,
) -> Purged:
    """Remove the recordings that are older than their account's `keep_days`, but none on hold.

    The account "" stands for all that have no days of their own; without it those are kept. The age
    is the storage's, of superseded recordings too; one from before `earliest` is none, and is kept.
    One that fails is reported, and the others go on. `removed` is called for each that went, in the
    thread that removed it. Raises `SettingError` where all are kept for ever, and what scanning the
    storage raises.
    """
    if not keep_days:
        raise SettingError(FOR_EVER)
    report = Purged()
    seen: set[str] = set()
    lock = threading.Lock()

    def work(recording: Listed) -> Any:
        with reported(recording.path, report.failed):
            removal = _purge_one(storage, recording, keep_days, now, earliest, dry_run, report)
            if removal:
                with lock:
                    report.removed.append(removal)
                    removed(removal)

    try:
        for recording, done in in_parallel(work, storage.scan(odd=report.failed.append)):
            done.result()
            if not recording.is_gone:
                seen.add(recording.path)
            report.seen += 1
            report.newest = max(report.newest, recording.modified)
            progress(recording)
    finally:
        if catalog and not dry_run:
            gone = [each.path for each in report.removed]
            report.failed += (down := forget(catalog, storage, gone))
    if catalog and not dry_run and not down:
        report.failed += forget_unstored(catalog, storage, seen)
    return report


def _purge_one(
    storage: Storage,
    listed: Listed,
    keep_days: Mapping[str, int],
    now: float,
    earliest: float,
    dry_run: bool,
    report: Purged,
) -> Removal | None:
    if listed.modified >= now - min(keep_days.values()) * DAY:
        return None
    # First, so that what is read after it is told of the recording that has this etag, or the
    # deletion finds another there.
    etag, modified = GONE, listed.modified
    if not listed.is_gone:
        with closing(storage.open(listed.path)) as recording:
            etag, modified = recording.etag, recording.modified
    days = _days(storage, listed.path, keep_days)
    if days is None or modified >= now - days * DAY:
        return None
    if hold_of(storage, listed.path):
        report.held.append(listed.path)
        return None
    if modified < earliest:
        raise SettingError("kept: its time is before 2000: set it (touch), or purge --confirm")
    if not dry_run:
        try:
            storage.delete(listed.path, etag)
        except Held:  # since a moment
            report.held.append(listed.path)
            return None
    return Removal(listed.path, listed.size, modified, days)


@contextmanager
def reported(path: str, failed: list[str]) -> Iterator[None]:
    """Add a line for a recording that fails, unless it was superseded or deleted meanwhile."""
    try:
        yield
    except NotStored:
        pass
    except ValueError as error:
        failed.append(shown(f"{path}: kept: cannot read its metadata: {error}"))
    except Exception as error:
        failed.append(shown(f"{path}: {error or type(error).__name__}"))


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


def forget_unstored(catalog: Catalog, storage: Storage, seen: set[str]) -> list[str]:
    """Remove from the catalog what a command removed that then was cut off; return what failed.

    `seen` are the recordings that are known to be stored, so that the storage is not asked.
    """
    try:
        unseen = [path for path in catalog.paths() if path not in seen]
    except CatalogUnavailable as error:
        return [catalog_failed(error)]
    return forget(catalog, storage, [path for path in unseen if not is_stored(storage, path)])


def catalog_failed(error: CatalogUnavailable) -> str:
    return f"{error}: run kazoo-receiver reindex when it is back"
