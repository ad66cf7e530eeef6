"""Queues of jobs without a server in between, and the worker of jobs as a process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from receiver.jobs.event import Event
from receiver.jobs.queue import Queue
from receiver.jobs.work import Jobs
from receiver.parts import Storage
from support.paths import PROJECT
from support.storages import parts_of

# The worker, with clocks that go as a test wants: it beats faster, and the time of day is shifted
# by what a file tells.
WORKER = """
import os, sys, time
from receiver.jobs import queue, worker
from receiver.shell import main

beat, lease, shift = os.environ["TEST_CLOCKS"].split(" ", 2)
worker.BEAT, worker.LEASE = float(beat), float(lease)
clock = queue.now
queue.now = lambda connection: clock(connection) + float(open(shift).read() or 0)
main(["worker", *sys.argv[1:]])
"""


class Log(list):
    """A kind of work that takes note of what it was called with, and fails when it is told to."""

    fails = False

    def __call__(self, event: Event) -> str:
        self.append(event.path)
        if self.fails:
            raise ValueError("out of order")
        return "noted"


def open_jobs(url: str, storage: Storage, **kinds: Log) -> Jobs:
    """The jobs of a receiver, with their queue at a URL."""
    return Jobs(Queue(url, "KZR_QUEUE"), parts_of(storage), kinds)


def drain(jobs: Jobs, worker: str = "") -> int:
    """Do all that is due now, as a worker does; return how much it was."""
    worker, count = worker or jobs.queue.register(), 0
    while taken := jobs.queue.take(worker, [*jobs.kinds], 4):
        for job in taken:
            count += 1
            try:
                jobs.kinds[job.kind](job.event)
            except Exception as error:
                jobs.queue.fail(job, worker, str(error))
            else:
                jobs.queue.finish(job, worker)
    return count


class Worker:
    """`kazoo-receiver worker` with settings; with a file of a `shift`, clocks are a test's own."""

    def __init__(self, folder: Path, shift: Path | None = None, **settings: object) -> None:
        self.folder = folder
        self.settings = settings
        self.shift = shift
        self.log_path = folder / "worker-log"
        self.start()

    def start(self) -> None:
        environ = {name: value for name, value in os.environ.items() if name[:4] != "KZR_"}
        environ |= {f"KZR_{name.upper()}": str(value) for name, value in self.settings.items()}
        environ |= {"TEST_CLOCKS": f"0.3 2 {self.shift}"} if self.shift else {}
        program = ["-c", WORKER] if self.shift else ["-m", "receiver.jobs"]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program],
                cwd=self.folder,
                env=environ | {"PYTHONPATH": str(PROJECT)},
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)
