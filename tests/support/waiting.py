"""Conditions are awaited, not times."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 20.0, why: str = "") -> T:
    """Return the condition's first true result; fail if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {why or condition}"
        time.sleep(0.01)
    return result
