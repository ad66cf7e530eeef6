"""Conditions are awaited, not times."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 20.0, why: str = "") -> T:
    """Return the condition's first true result; fail if there is none in time."""
    deadline, pause = time.monotonic() + seconds, 0.005
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {why or condition}"
        time.sleep(pause)
        pause = min(pause * 1.2, 0.1)  # what takes long is not asked for all the time
    return result
