"""Guessing is slowed down where a secret is kept as a hash, which is slow to check by design.

Right credentials pass at once from when they were checked first, whatever else goes on. Wrong ones
are remembered: a mistyped callflow, which sends the same again and again, costs nothing and slows
nobody. What was never seen is checked one after the other, and for some of the time only: a check
takes a whole core, and tens of megabytes.
"""

import hmac
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TypeVar

from .errors import TooManyGuesses

MOST_REMEMBERED = 4096  # wrong credentials, and clients that sent some
PAUSE = 2.0  # seconds that a client has to wait for each wrong guess
FREE = 5  # wrong guesses that it may make before it has to
USERS = 16  # kinds of users at an address: who guesses for one does not slow all the others
SHARE = 4  # a part in so many of a core's time is for wrong guesses
SLACK = 0.5  # seconds for which that part may be overdrawn

_Value = TypeVar("_Value")


@dataclass
class _Queue:
    """Those who wait for a check, which runs for one of them at a time."""

    most: int
    waiting: int = 0
    rested: float = 0.0  # when wrong guesses have had no more than their part of the time
    turn: threading.Lock = field(default_factory=threading.Lock)


class Guesses:
    """What is known of the credentials that were sent; any number of threads may use it.

    Clients whose address `is_trusted` wait for nobody else.
    """

    def __init__(
        self,
        is_trusted: Callable[[str | None], bool] = lambda address: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_trusted = is_trusted
        self._clock = clock
        self._key = os.urandom(32)
        self._lock = threading.Lock()
        self._right: set[bytes] = set()  # digests; there are no more than those configured
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._running: dict[bytes, threading.Event] = {}
        self._pauses: OrderedDict[bytes, float] = OrderedDict()  # until when, by client
        # Who guessed wrong lately, and who did not, do not wait for each other.
        self._trusted, self._new, self._suspect = _Queue(10_000), _Queue(8), _Queue(2)

    def is_right(
        self, given: tuple[str, str, str], address: str | None, check: Callable[[], bool]
    ) -> bool:
        """What `check` says of what was `given` (for what, user, secret), unless that is known.

        Raises `TooManyGuesses` where there is no time for it.
        """
        digest = self._digest(*given)
        while True:
            with self._lock:
                if digest in self._right:
                    return True
                if digest in self._wrong:
                    self._wrong.move_to_end(digest)
                    return False
                if not (running := self._running.get(digest)):
                    client = self._digest(_network(address), str(self._digest(given[1])[0] % USERS))
                    queue = self._queue(client, address)
                    queue.waiting += 1
                    self._running[digest] = threading.Event()
                    break
            running.wait()  # for another request with the same, as after a restart
        try:
            return self._check(digest, client, queue, check)
        finally:
            with self._lock:
                queue.waiting -= 1
                self._running.pop(digest).set()

    def _digest(self, *texts: str) -> bytes:
        each = b"".join(hmac.digest(self._key, text.encode(), "sha256") for text in texts)
        return hmac.digest(self._key, each, "sha256")

    def _queue(self, client: bytes, address: str | None) -> _Queue:
        """Where the client has to wait; raises `TooManyGuesses` where there is no room."""
        if self._is_trusted(address):
            return self._trusted
        now = self._clock()
        pause = self._pauses.get(client, now) - now
        queue = self._suspect if pause > 0 else self._new
        wait = max(pause - PAUSE * FREE, queue.rested - now - SLACK)
        if wait > 0 or queue.waiting >= queue.most:
            raise TooManyGuesses(wait)
        return queue

    def _check(
        self, digest: bytes, client: bytes, queue: _Queue, check: Callable[[], bool]
    ) -> bool:
        with queue.turn:
            began = self._clock()
            is_right = check()
            ended = self._clock()
        with self._lock:
            if is_right:
                self._right.add(digest)
            else:
                queue.rested = max(began, queue.rested) + (ended - began) * SHARE
                _remember(self._wrong, digest, None)
                _remember(self._pauses, client, max(ended, self._pauses.get(client, 0)) + PAUSE)
        return is_right


def _remember(known: OrderedDict[bytes, _Value], key: bytes, value: _Value) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > MOST_REMEMBERED:
        known.popitem(last=False)


def _network(address: str | None) -> str:
    """What one client has for sure: an address, or of IPv6 a network of 64 bits."""
    try:
        client = ip_address(address or "")
    except ValueError:
        return address or ""
    return (
        str(ip_network((client, 64), strict=False))
        if isinstance(client, IPv6Address)
        else str(client)
    )
