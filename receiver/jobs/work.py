"""What is done after storing: which kinds of jobs each recording gets, in which queue."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import SettingError, StorageUnavailable
from ..parts import Backlog, Parts, Stored
from ..sql import is_refused
from .earlier import make_room
from .event import Work
from .files import sweep
from .kinds import KINDS
from .queue import Job, Queue

logger = logging.getLogger("receiver.jobs")


class Jobs:
    """The jobs of a receiver: `kinds` of work for each recording, by name, and their queue.

    With `by_storage`, the storage itself enqueues them, in the transaction that stores a
    recording. The worker calls each of `hourly` once an hour, too. `earlier` is where earlier
    releases had their queue.
    """

    def __init__(
        self,
        queue: Queue,
        parts: Parts,
        kinds: Mapping[str, Work],
        hourly: Sequence[Callable[[], object]] = (),
        *,
        by_storage: bool = False,
        earlier: Path | None = None,
    ) -> None:
        self._parts = parts
        self._earlier = earlier
        self._is_swept = False
        self.queue = queue
        self.kinds = kinds
        self.hourly = hourly
        self._by_storage = by_storage

    def prepare(self) -> None:
        """Make the queue where there is none; one that cannot be reached is waited for.

        Raises `SettingError` where it cannot be used, or an earlier release's holds jobs.
        """
        if self._earlier:
            make_room(self._earlier)
        try:
            self.queue.prepare()
        except StorageUnavailable as error:
            if self.queue.file or is_refused(error.__cause__):
                raise SettingError(f"{self.queue.setting}: {error}") from error
            logger.warning("%s", error)
        finally:
            self.queue.close()  # a process that is forked later must not share a connection

    def add(self, stored: Stored) -> None:
        if self.kinds and not self._by_storage:
            self.queue.add(stored, [*self.kinds])

    def add_missing(self, stored: Stored) -> bool:
        """Enqueue its jobs durably, and return whether there was one that was not known yet."""
        return bool(self.kinds) and self.queue.add_missing(stored, [*self.kinds])

    def check(self) -> None:
        if self.kinds:
            self.queue.check()

    def backlog(self) -> Backlog:
        found = self.queue.backlog()
        none = dict.fromkeys(self.kinds, 0)
        return replace(
            found, waiting={**none, **found.waiting}, given_up={**none, **found.given_up}
        )

    def given_up(self) -> Iterator[Job]:
        """The jobs that were given up, each with its reason."""
        return self.queue.given_up()

    def retry(self) -> int:
        """Enqueue again what was given up; return how much it was."""
        return self.queue.retry()

    def sweep(self) -> None:
        """Remove what the jobs of killed workers have left in the storage."""
        self._is_swept = True
        sweep(self._parts.storage)

    def forget(self, path: str, etag: str) -> None:
        if not self._is_swept:
            self.sweep()
        if self.queue.exists():
            self.queue.forget(path, etag, KINDS)

    def require(self) -> None:
        """Raise `SettingError` where there is no queue yet, as a receiver or a worker makes it."""
        if not self.queue.exists():
            raise SettingError(
                f"there is no queue of jobs in {self.queue.file or self.queue.name}: has the "
                "receiver been started with these settings?"
            )
