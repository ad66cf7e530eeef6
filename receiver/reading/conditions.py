"""Conditions and ranges of a GET or HEAD (RFC 9110, sections 13 and 14)."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.http import parse_date, parse_etags, unquote_etag

# One range, in a list that may have empty elements (section 5.6.1).
_RANGE = re.compile(r"bytes[ \t]*=[ \t,]*([0-9]*)-([0-9]*)[ \t,]*", re.ASCII | re.IGNORECASE)
_DIGITS = 18  # of the largest size that a recording may have


def judge(headers: Headers, etag: str, modified: datetime) -> int:
    """The status that the conditions demand: 412, 304, or 200 for going on (section 13.2.2).

    `etag` is the recording's, strong and without quotes; `modified` its Last-Modified.
    """
    if wanted := headers.get("If-Match", "").strip():
        if not parse_etags(wanted).contains(etag):
            return 412
    elif unmodified := _date(headers.get("If-Unmodified-Since")):
        if modified > unmodified:
            return 412
    if known := headers.get("If-None-Match", "").strip():
        return 304 if parse_etags(known).contains_weak(etag) else 200
    since = _date(headers.get("If-Modified-Since"))
    return 304 if since and modified <= since else 200


def asked_range(
    headers: Headers,
    size: int,
    etag: str,
    modified: datetime,
    is_date_enough: Callable[[], bool],
) -> tuple[int, int] | None:
    """Where the range of a GET begins and ends, None for the whole.

    The whole answers what is no range of bytes, more than one of them, and an If-Range that is not
    true (sections 13.1.5 and 14.2). `is_date_enough` tells whether Last-Modified tells the
    recording from every other of its name. Raises `RequestedRangeNotSatisfiable`.
    """
    match = _RANGE.fullmatch(headers.get("Range", "").strip())
    if not match or not size or not (match[1] or match[2]):
        return None
    if not _is_still(headers.get("If-Range"), etag, modified, is_date_enough):
        return None
    if match[1]:
        start, stop = _number(match[1]), size
        if match[2]:
            stop = min(_number(match[2]) + 1, size)
            if _number(match[2]) < start:
                return None
    else:
        start, stop = max(0, size - _number(match[2])), size
    if start >= size:
        raise RequestedRangeNotSatisfiable(size)
    return start, stop


def _is_still(
    condition: str | None, etag: str, modified: datetime, is_date_enough: Callable[[], bool]
) -> bool:
    if not condition:
        return True
    if condition.startswith(('"', "W/")):
        return unquote_etag(condition.strip()) == (etag, False)
    return _date(condition) == modified and is_date_enough()


def _date(text: str | None) -> datetime | None:
    try:
        return parse_date(text)
    except OverflowError:  # Werkzeug's, where a year or a zone has many digits
        return None


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _DIGITS else 10**_DIGITS


def as_date(modified: float) -> datetime:
    """A time (POSIX) as HTTP tells it: in seconds, and not in the future (section 8.8.2.1)."""
    return datetime.fromtimestamp(int(min(max(0.0, modified), time.time())), UTC)
