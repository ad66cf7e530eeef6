"""Media are looked at in a process of its own, which has little time for each.

What a stranger sent can be made so that looking at it takes minutes, or breaks a parser: neither
may happen beside uploads.
"""

import atexit
import logging
import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from struct import pack, unpack
from tempfile import TemporaryFile
from typing import BinaryIO

from . import durations

SECONDS = 5.0  # for one recording
MOST_COPIED = 32 * 1024 * 1024  # bytes of a recording that is no local file; of others less:
HEAD, TAIL = 4 * 1024 * 1024, 1024 * 1024

logger = logging.getLogger("receiver.indexing")


class Looker:
    """Looks at recordings, one at a time; any number of threads may ask."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: socket.socket | None = None
        atexit.register(self.close)

    def duration(self, file: BinaryIO, size: int) -> float:
        """The seconds of audio in a file of `size` bytes; 0 where that takes too long to tell."""
        with ExitStack() as stack:
            try:
                descriptor = file.fileno()
            except OSError:  # it is no local file
                copy = stack.enter_context(TemporaryFile())
                _copy(file, size, copy)
                descriptor = copy.fileno()
            with self._lock:
                try:
                    return self._ask(descriptor, size)
                except (OSError, EOFError) as error:
                    reason = "it took too long" if isinstance(error, TimeoutError) else error
                    logger.warning("the length of a recording cannot be told: %s", reason)
                    self.close()
                    return 0.0

    def _ask(self, descriptor: int, size: int) -> float:
        asked = self._asked or self._start()
        socket.send_fds(asked, [pack("<Q", size)], [descriptor])
        if len(answer := asked.recv(8)) < 8:
            raise EOFError("the process that looks at it has ended")
        seconds: float = unpack("<d", answer)[0]
        return seconds

    def _start(self) -> socket.socket:
        self.close()
        # Where another program has Python in it, such as Apache, that is not Python's name.
        python = Path(sys.prefix, "bin", "python3")
        program = str(python) if python.exists() else sys.executable
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(  # noqa: S603 - Python, and a file of ours
                [program, "-P", durations.__file__], stdin=its.fileno(), stdout=subprocess.DEVNULL
            )
        ours.settimeout(self._seconds)
        self._asked = ours
        return ours

    def close(self) -> None:
        """End the process; the next question starts another."""
        if self._asked:
            self._asked.close()
        if self._process:
            with suppress(OSError):
                self._process.kill()
            self._process.wait()
        self._asked = self._process = None


def _copy(file: BinaryIO, size: int, copy: BinaryIO) -> None:
    """Copy a file, of a large one its head and its tail; what is between is zeros."""
    parts = [(0, size)] if size <= MOST_COPIED else [(0, HEAD), (size - TAIL, TAIL)]
    for begin, length in parts:
        file.seek(begin)
        copy.seek(begin)
        while length > 0 and (data := file.read(min(length, 1024 * 1024))):
            copy.write(data)
            length -= len(data)
    copy.flush()
    os.truncate(copy.fileno(), size)


looker = Looker()
