"""Who listened to what: lines in the log of the logger `receiver.audit`."""

import logging
import re
import threading
import time
from urllib.parse import quote

from flask import current_app, request

LISTENING = 60 * 60.0  # seconds, in which whoever seeks in a recording is one and the same listener
MOST_LISTENERS = 4096

logger = logging.getLogger("receiver.audit")
_lock = threading.Lock()
_listeners: dict[tuple[str, ...], float] = {}


def audit(action: str, path: str) -> None:
    """Log that the current request, whose reader was checked, opened the recording at `path`.

    A player that seeks asks for many ranges: those that do not begin at the start are only logged
    where this process did not log the same listener before, within an hour. So nobody can listen
    without a line, whatever range they ask for. HEAD is not logged, because it answers no audio.
    """
    if request.method == "HEAD":
        return
    # One word: a file that somebody put there may be called anything.
    word = quote(path, safe="/@+~%", errors="surrogateescape")
    who = (_user(), action, word, request.remote_addr or "-")
    if _is_first(who):
        logger.info("audit user=%s action=%s recording=%s client=%s", *who)


def audit_search(action: str, search: str) -> None:
    """Log that the current request, whose reader was checked, got all that a search finds.

    `search` is a query string, in which what is not ASCII is percent-encoded.
    """
    if request.method == "HEAD":
        return
    who = (_user(), action, search, request.remote_addr or "-")
    logger.info("audit user=%s action=%s search=%s client=%s", *who)


def _is_first(who: tuple[str, ...]) -> bool:
    is_from_start = not re.match(r"bytes=(?!0+-)", request.headers.get("Range", ""))
    now = time.monotonic()
    with _lock:
        known = now - _listeners.pop(who, -LISTENING) < LISTENING
        _listeners[who] = now
        if len(_listeners) > MOST_LISTENERS:
            del _listeners[next(iter(_listeners))]
    return is_from_start or not known


def _user() -> str:
    """The reader's name, encoded so that it cannot forge a line."""
    given = request.authorization
    user = (given.username if given else "") or ""
    readers = current_app.config["READERS"]
    if user not in readers:  # the colon is missing, and the rest is the secret
        user = max((name for name in readers if user.startswith(name)), key=len, default="")
    return quote(user, safe="@+") or "-"
