"""A trial of a storage at the start, in a process of its own."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO, TypeVar

from ..errors import StorageFailed, StorageFull, StorageUnavailable

TIMEOUT = 60  # seconds
T = TypeVar("T")


def in_child(work: Callable[[], T]) -> T:
    """Do it in another process, because threads that it starts would not survive a fork.

    What it returns comes back as JSON has it.

    Servers load the application, which makes its trial, before they fork their workers.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as answers, open(writer, "wb") as answer:
        try:
            child = os.fork()
        except RuntimeError:  # an interpreter within another's process, which does not fork either
            return work()
        if not child:
            _answer(work, answer)
        answer.close()
        told = answers.read()
    with suppress(ChildProcessError):  # the server's own handler was faster
        os.waitpid(child, 0)
    if not told:
        raise StorageUnavailable(f"the bucket took over {TIMEOUT} s to be tried out")
    result, error = json.loads(told)
    if error:
        kinds = {kind.__name__: kind for kind in (StorageFull, StorageUnavailable)}
        raise kinds.get(result, StorageFailed)(error)
    done: T = result
    return done


def _answer(work: Callable[[], object], answer: BinaryIO) -> None:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(TIMEOUT)
        try:
            told: list[object] = [work(), ""]
        except (StorageFailed, StorageFull) as error:
            told = [type(error).__name__, str(error)]
        except BaseException as error:  # such as a panic, which is no Exception
            reason = str(error).partition("\n")[0][:200]
            told = ["StorageFailed", f"{type(error).__name__}: {reason}"]
        answer.write(json.dumps(told).encode())
        answer.flush()
    finally:
        os._exit(0)
