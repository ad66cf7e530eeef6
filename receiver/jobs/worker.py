"""The worker: takes jobs from the queue and does them, several at a time, until it is stopped."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from ..errors import StorageUnavailable
from .event import printable_lines
from .queue import Job, Lost
from .work import Jobs

BEAT = 5.0  # seconds between a worker's words
LEASE = 30.0  # seconds without one, after which a worker is dead
POLL = 1.0  # seconds between looks into an empty queue
PAUSE = 2.0  # seconds, while the queue cannot be used

logger = logging.getLogger("receiver.jobs")


class Worker:
    """A worker of `threads` jobs at a time."""

    def __init__(self, jobs: Jobs, threads: int) -> None:
        self._jobs = jobs
        self._queue = jobs.queue
        self._threads = threads
        self._id = ""
        self._silences = Silences()
        self._running: set[int] = set()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._is_down = False
        self._next_beat = 0.0
        self._hour: threading.Thread | None = None

    def run(self) -> None:
        """Do jobs until the process is told to stop; those that run are finished first."""
        self._jobs.prepare()
        self._jobs.sweep()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        with ThreadPoolExecutor(self._threads, "job") as pool:
            while not self._is_stopping or self._is_busy():  # until then others must know
                try:
                    self._turn(pool)
                    self._is_down = False
                except Lost as lost:
                    logger.warning("%s", lost)
                    self._id = ""
                except StorageUnavailable as error:
                    if not self._is_down:
                        logger.warning("%s: it is tried again", error)
                    self._is_down = True
                    self._wait(PAUSE)
        if self._id:
            try:
                self._queue.leave(self._id)
            except StorageUnavailable as error:
                logger.warning("%s", error)

    def _tell_unknown(self) -> None:
        for kind, count in self._jobs.backlog().waiting.items():
            if count and kind not in self._jobs.kinds:
                logger.warning("%d jobs of kind %s wait: no setting asks for that", count, kind)

    def _stop(self) -> None:
        self._is_stopping = True

    def _is_busy(self) -> bool:
        return bool(self._running) or self._hour is not None and self._hour.is_alive()

    def _turn(self, pool: ThreadPoolExecutor) -> None:
        """Tell that this worker lives, and begin as many jobs as it has room for."""
        if not self._id:
            self._id, self._silences = self._queue.register(), Silences()
            self._next_beat = 0.0
            self._tell_unknown()
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + BEAT
            self._beat()
        room = 0 if self._is_stopping else self._threads - len(self._running)
        taken = self._queue.take(self._id, [*self._jobs.kinds], room) if room else []
        for job in taken:
            with self._changed:
                self._running.add(job.id)
            pool.submit(self._do, job, self._id)
        if len(taken) < room or not room:
            self._wait(POLL, until_room=not room)

    def _wait(self, seconds: float, *, until_room: bool = False) -> None:
        """Wait for a while, or until a job has ended where there was no room for another."""
        with self._changed:
            before = len(self._running)
            self._changed.wait_for(lambda: until_room and len(self._running) < before, seconds)

    def _beat(self) -> None:
        with self._changed:
            running = set(self._running)
        others = self._queue.beat(self._id, running)
        for worker in self._silences.of(others, time.monotonic()):
            if self._queue.bury(worker, others[worker]):
                logger.warning("a worker has died: what it had taken is done again")
        is_free = self._hour is None or not self._hour.is_alive()
        if is_free and self._queue.claim_hour():
            self._hour = threading.Thread(target=self._do_hourly, name="hourly")
            self._hour.start()

    def _do_hourly(self) -> None:
        work: Iterable[Callable[[], object]] = (self._queue.forget_old, *self._jobs.hourly)
        for each in work:
            try:
                each()
            except Exception as error:
                logger.warning("what is done once an hour failed: %s", _line(error))

    def _do(self, job: Job, worker: str) -> None:
        try:
            try:
                told = self._jobs.kinds[job.kind](job.event)
            except Exception as error:
                reason = _line(error)
                logger.warning("job %s of %s failed: %s", job.kind, job.event.path, reason)
                self._note(lambda: self._queue.fail(job, worker, reason))
                return
            self._note(lambda: self._queue.finish(job, worker))
            told = f": {told}" if told else ""
            logger.info("job %s of %s done%s", job.kind, job.event.path, told)
        except Exception:
            logger.exception("internal error")
        finally:
            with self._changed:
                self._running.discard(job.id)
                self._changed.notify()

    def _note(self, note: Callable[[], object]) -> None:
        """Note how a job ended, also where the queue is down for a while."""
        while True:
            try:
                note()
                return
            except Lost as lost:
                logger.warning("%s", lost)
                return
            except StorageUnavailable as error:
                if self._is_stopping:  # another worker will do the job again
                    logger.warning("%s", error)
                    return
            time.sleep(PAUSE)


class Silences:
    """For how long the other workers have been silent, by this process's own clock."""

    def __init__(self) -> None:
        self._looked: float | None = None
        self._silent: dict[str, tuple[int, float]] = {}  # the beat, and the seconds without another

    def of(self, beats: dict[str, int], at: float) -> list[str]:
        """The workers that have been silent for too long; `beats` are those seen `at` a time."""
        # The queue may have been down for long, for all workers, or this process stopped.
        passed = 0.0 if self._looked is None else min(at - self._looked, 2 * BEAT)
        self._looked, before = at, self._silent
        self._silent = {}
        for worker, beat in beats.items():
            known, silence = before.get(worker, (beat, -passed))
            self._silent[worker] = beat, silence + passed if beat == known else 0.0
        return [worker for worker, (_, silence) in self._silent.items() if silence > LEASE]


def _line(error: Exception) -> str:
    return (
        " / ".join(printable_lines(str(error).encode("utf-8", "replace"))) or type(error).__name__
    )
