"""Fills the catalog: after each upload, and from the storage alone."""

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice

from ..errors import CatalogUnavailable, NotStored
from ..parts import Parts, Storage
from ..shown import shown
from .catalog import Catalog

MOST_WAITING = 10_000  # recordings; more are left to the next reindex
BATCH = 500  # recordings
LINGER = 0.5  # seconds in which a batch gathers: many rows at once cost a tenth of their own
FLUSH_SECONDS = 5.0
PAUSE = 5.0  # seconds, while the catalog is down

logger = logging.getLogger("receiver.indexing")


class Indexer:
    """Adds received recordings to the catalog, in a thread of its own, one for each process.

    Nothing here can fail or delay an upload. What does not get into the catalog, because it is
    down for long or the process is killed, the next reindex finds.
    """

    def __init__(self, catalog: Catalog, parts: Parts) -> None:
        self._catalog = catalog
        self._parts = parts
        self._waiting: queue.Queue[tuple[float, str]] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._oldest = 0.0

    def add(self, path: str) -> None:
        """Take note of a recording that was stored; returns at once."""
        with self._lock:
            if self._thread is None:  # not before a server has forked its workers
                self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)
                self._thread.start()
                atexit.register(self.flush)
        try:
            self._waiting.put_nowait((time.time(), path))
        except queue.Full:
            logger.warning("not in the catalog: %s: run kazoo-receiver reindex", path)

    @property
    def lag(self) -> float:
        """For how many seconds the oldest recording has been waiting."""
        return time.time() - self._oldest if self._oldest else 0.0

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until all is in the catalog, for a while."""
        deadline = time.monotonic() + seconds
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.01)

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            self._oldest = batch[0][0]
            time.sleep(LINGER)
            with suppress(queue.Empty):
                while len(batch) < BATCH:
                    batch.append(self._waiting.get_nowait())
            self._index([path for _, path in batch])
            self._oldest = 0.0
            for _ in batch:
                self._waiting.task_done()

    def _index(self, paths: list[str]) -> None:
        """Add recordings, and wait for a catalog that is down."""
        is_down = False
        while True:
            try:
                missing = self._catalog.follow(self._parts.storage, paths)
                break
            except CatalogUnavailable as down:
                if not is_down:
                    logger.warning("%s: it is tried again", down)
                is_down = True
                time.sleep(PAUSE)
            except Exception as failed:
                if len(paths) == 1:
                    missing = {paths[0]: failed}
                    break
                for path in paths:
                    self._index([path])
                return
        for path, error in missing.items():
            if not isinstance(error, NotStored):
                logger.warning("not in the catalog: %s: %s", shown(path), shown(error))


def reindex(
    catalog: Catalog,
    storage: Storage,
    *,
    progress: Callable[[int], object] = lambda count: None,
    odd: Callable[[str, Exception], object] = lambda path, error: None,
) -> int:
    """Make the catalog what the storage says; return the number of recordings.

    `progress` is called with the number of recordings after each batch, and `odd` with each that
    cannot be read or described. Raises `CatalogUnavailable`, and what scanning the storage raises.
    """
    seen: set[str] = set()

    def follow(paths: list[str]) -> None:
        for path, error in catalog.follow(storage, paths).items():
            if not isinstance(error, NotStored):
                odd(path, error)

    scan = (listed.path for listed in storage.scan() if not listed.is_gone)
    while batch := list(islice(scan, BATCH)):
        follow(batch)
        seen.update(batch)
        progress(len(batch))
    gone = (path for path in catalog.paths() if path not in seen)
    while batch := list(islice(gone, BATCH)):  # or received meanwhile
        follow(batch)
    catalog.note_whole()
    return len(seen)
