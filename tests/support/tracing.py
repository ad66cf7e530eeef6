"""strace on the one thread that takes uploads."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.needs import need, need_root
from support.receivers import Receiver
from support.waiting import wait_for


def uploading_thread(receiver: Receiver) -> int:
    """The one thread that takes uploads, once it waits for the next; with `--threads=1`.

    There is none before a worker's first upload.
    """

    def is_waiting() -> bool:
        return "futex" in Path(f"/proc/{thread}/wchan").read_text()

    (worker,) = receiver.workers
    (thread,) = (int(name) for name in os.listdir(f"/proc/{worker}/task") if int(name) != worker)
    wait_for(is_waiting, why="the upload's end")
    return thread


@contextmanager
def traced(receiver: Receiver, log: Path, *options: str) -> Iterator[None]:
    """Have strace look at the thread that takes uploads while this context lasts."""
    need_root()
    thread = str(uploading_thread(receiver))
    command = [need("strace"), "-o", str(log), "-p", thread, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            assert tracer.stderr and "attached" in (line := tracer.stderr.readline()), line
            yield
        finally:
            tracer.terminate()
