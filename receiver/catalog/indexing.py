"""Fills the catalog: after each upload, and from the storage alone."""

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..errors import CatalogUnavailable, NotStored
from ..parts import Parts, Storage
from .catalog import Catalog
from .description import Description, describe, describe_all

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
                self._catalog.add(describe_all(self._parts.storage, paths))
                break
            except CatalogUnavailable as error:
                if not is_down:
                    logger.warning("%s: it is tried again", error)
                is_down = True
                time.sleep(PAUSE)
            except Exception:
                if len(paths) == 1:
                    logger.exception("not in the catalog: %s", paths[0])
                    break
                for path in paths:
                    self._index([path])
                break


def reindex(
    catalog: Catalog, storage: Storage, *, progress: Callable[[int], object] = lambda count: None
) -> int:
    """Make the catalog what the storage says; return the number of recordings.

    `progress` is called with the number of recordings after each batch. Raises
    `CatalogUnavailable`, and what the storage raises.
    """
    seen: set[str] = set()
    batch: list[Description] = []
    for listed in storage.scan():
        seen.add(listed.path)
        with suppress(NotStored):
            batch.append(describe(storage, listed))
        if len(batch) >= BATCH:
            catalog.add(batch)
            progress(len(batch))
            batch = []
    catalog.add(batch)
    progress(len(batch))
    gone = [path for path in catalog.paths() if path not in seen]
    kept = {each.path for each in describe_all(storage, gone)}  # received meanwhile
    catalog.remove(path for path in gone if path not in kept)
    return len(seen)
