"""Work after storing: done by a worker of its own, `python -m receiver.jobs`, never by a request.

A recording's jobs are in the queue before its sender gets a 2xx, and each kind of work is done once
for the same bytes, however often they are sent.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from huey import crontab
from huey.exceptions import CancelExecution

from ..errors import ReceiverError, StorageUnavailable
from ..parts import Parts, Stored
from .event import Event, Work
from .queue import open_queue

RETRIES = 9
FIRST_PAUSE = 5  # seconds
PAUSE_FACTOR = 3  # from one pause to the next: the last is nine hours
QUEUED, DONE, FAILED = "queued", "done", "failed"
KEPT = 30 * 24 * 60 * 60  # seconds for which it is known that a job was done

logger = logging.getLogger("receiver.jobs")


@dataclass(frozen=True)
class Failure:
    """A job that was given up; `when` is a time (POSIX)."""

    key: str
    kind: str
    event: Event
    reason: str
    when: float


class Jobs:
    """The queue at `url`, and the kinds of work to do for each recording, by name.

    The worker calls each of `hourly` once an hour, too.
    """

    def __init__(
        self,
        url: str,
        parts: Parts,
        kinds: dict[str, Work],
        hourly: Sequence[Callable[[], object]] = (),
    ) -> None:
        self.queue = open_queue(url)
        self._parts = parts
        self._kinds = kinds
        module = {"__module__": "receiver.jobs"}  # by which huey finds what waits in a queue
        pauses = {"retry_delay": FIRST_PAUSE, "retry_backoff": PAUSE_FACTOR}
        options: dict[str, Any] = {"retries": RETRIES, **pauses, **module}
        self._fan_out = self.queue.task(name="stored", context=True, **options)(self._enqueue_each)
        self._run = self.queue.task(name="job", context=True, **options)(self._do)

        self._hourly = hourly
        self.queue.periodic_task(crontab(minute="17"), name="hourly", **module)(self._tidy)

    def _tidy(self) -> None:
        self.forget_old()
        for work in self._hourly:
            work()

    def add(self, stored: Stored) -> None:
        """Enqueue, durably, the jobs of a recording that was stored.

        Raises `StorageUnavailable` where the queue cannot be reached: the sender has to try again.
        """
        try:
            etag = stored.etag or self._etag_of(stored.path)
            now, outcome = round(time.time(), 3), str(stored.outcome)
            event = Event(stored.path, etag, outcome, now, stored.kept_path or "")
            self._fan_out(dict(vars(event)))
        except ReceiverError:
            raise
        except Exception as error:  # of whatever the queue is in
            raise StorageUnavailable(f"the queue of jobs cannot be reached: {error}") from error

    def _etag_of(self, path: str) -> str:
        with closing(self._parts.storage.open(path)) as recording:
            return recording.etag

    def _enqueue_each(self, fields: dict[str, Any], task: Any = None) -> None:
        event, storage = Event(**fields), self.queue.storage
        for kind in self._kinds:
            key = f"{kind}:{event.id}"
            if any(storage.has_data_for_key(f"{state}:{key}") for state in (DONE, FAILED)):
                continue
            # Of several at the same time, for one upload that was sent again, only the first gets
            # through. What is cut off before the job itself comes again under the same task's id.
            claim = json.dumps({"when": time.time(), "by": task.id}).encode()
            if (
                storage.put_if_empty(f"{QUEUED}:{key}", claim)
                or json.loads(storage.peek_data(f"{QUEUED}:{key}")).get("by") == task.id
            ):
                self._run(kind, fields)

    def _do(self, kind: str, fields: dict[str, Any], task: Any = None) -> None:
        event = Event(**fields)
        key = f"{kind}:{event.id}"
        work = self._kinds.get(kind)
        if work is None or self.queue.storage.has_data_for_key(f"{DONE}:{key}"):
            return
        try:
            told = work(event)
        except Exception as error:
            reason = str(error)
            logger.warning("job %s of %s failed: %s", kind, event.path, reason)
            if task.retries:
                raise CancelExecution(retry=True) from error
            failure = {"kind": kind, "event": fields, "reason": reason, "when": time.time()}
            self._note(f"{FAILED}:{key}", failure)
            return
        self._note(f"{DONE}:{key}", {"when": time.time(), "told": told})
        logger.info("job %s of %s done%s", kind, event.path, f": {told}" if told else "")

    def failures(self) -> Iterator[Failure]:
        """The jobs that were given up."""
        for key, noted in self._notes(FAILED):
            event = Event(**noted["event"])
            yield Failure(key, noted["kind"], event, noted["reason"], noted["when"])

    def retry(self, failure: Failure) -> None:
        """Enqueue a job again that was given up."""
        self._run(failure.kind, asdict(failure.event))
        self.queue.storage.delete_data(failure.key)

    def waiting(self) -> int:
        """The number of jobs that are in the queue, or wait to be retried."""
        storage = self.queue.storage
        return int(storage.queue_size() + storage.schedule_size())

    def forget_old(self) -> None:
        """Forget what was done long ago."""
        for name in (DONE, QUEUED):
            for key, noted in self._notes(name):
                if noted.get("when", 0) < time.time() - KEPT:
                    self.queue.storage.delete_data(key)

    def forget(self, path: str, etag: str) -> None:
        """Forget all that is noted of a recording's jobs."""
        event = Event(path, etag, "", 0.0)
        for kind in self._kinds:
            for state in (QUEUED, DONE, FAILED):
                self.queue.storage.delete_data(f"{state}:{kind}:{event.id}")

    def _note(self, key: str, value: dict[str, Any]) -> None:
        self.queue.storage.put_data(key, json.dumps({"when": time.time()} | value).encode())

    def _notes(self, state: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, value in self.queue.storage.result_items().items():
            name = key.decode() if isinstance(key, bytes) else key
            if name.startswith(f"{state}:"):
                yield name, json.loads(value)

    def work(self, threads: int) -> None:
        """Do jobs until the process is told to stop; those that run are finished first.

        Raises `SettingError` where another process works for the same queue in a file.
        """
        self.queue.storage.start()
        self.queue.storage.warn()
        self.queue.create_consumer(
            workers=threads, max_delay=1, graceful_signal="TERM", check_worker_health=True
        ).run()
