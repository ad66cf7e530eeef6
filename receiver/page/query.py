"""What the URLs of the page ask for, and how they are made."""

import re
from dataclasses import asdict
from datetime import date
from urllib.parse import quote, urlencode

from flask import current_app, request, url_for

from ..catalog.description import DIRECTIONS, EARLIEST, LATEST, Description
from ..catalog.search import Query
from ..catalog.tables import SORTS, TIMES
from ..core.naming import RecordingName
from ..errors import InvalidName, ReceiverError
from ..reading.choice import milliseconds
from ..storage.paths import url_of

LONGEST_SEARCH = 200  # characters
LONGEST_VALUE = 255  # characters of what is filtered by
MOST_ON_A_PAGE = 200
RECORDING_VIEWS = ("play", "download", "captions", "details")  # queries whose value is its path


class BadQuery(ReceiverError):
    """The page's query asks for something that there cannot be."""

    code = 400


def answer_format() -> str:
    """`html`, `json` or `csv`: what the query asks for, else what the client prefers."""
    if kind := request.args.get("format"):
        if kind not in ("html", "json", "csv"):
            raise BadQuery("format is html, json or csv")
        return kind
    types = {"text/html": "html", "application/json": "json", "text/csv": "csv"}
    return types[request.accept_mimetypes.best_match(types, default="text/html")]


def parse_query() -> Query:
    """What the request looks for; raises `BadQuery`."""
    asked = request.args
    text = asked.get("text", "").replace("\0", " ").strip()
    if len(text) > LONGEST_SEARCH:
        raise BadQuery(f"a search has at most {LONGEST_SEARCH} characters")
    try:
        folder = RecordingName.parse(quote(asked.get("folder", ""), safe="/%") + "/x").folder
    except InvalidName as error:
        raise BadQuery("a folder is written as the storage has it, such as ACCOUNT/USER") from error
    sort = asked.get("sort") or "newest"
    if sort not in SORTS:
        raise BadQuery(f"sort is one of {', '.join(SORTS)}")
    time = asked.get("time") or "began"
    if time not in TIMES:
        raise BadQuery(f"time is one of {', '.join(TIMES)}")
    direction = asked.get("direction", "")
    if direction not in ("", *DIRECTIONS):
        raise BadQuery(f"direction is one of {', '.join(DIRECTIONS)}")
    shortest = asked.get("shortest") or "0"
    if not re.fullmatch(r"[0-9]{1,9}", shortest):
        raise BadQuery("shortest is a number of seconds")
    limit = asked.get("limit") or "50"
    if not re.fullmatch(r"[0-9]{1,9}", limit) or not 1 <= int(limit) <= MOST_ON_A_PAGE:
        raise BadQuery(f"limit is a number from 1 to {MOST_ON_A_PAGE}")
    return Query(
        text=text,
        folder=folder,
        account=parse_line("account"),
        direction=direction,
        extension=parse_line("extension"),
        shortest=int(shortest),
        since=parse_day("since"),
        until=parse_day("until"),
        time=time,
        sort=sort,
        after=asked.get("after", ""),
        before=asked.get("before", ""),
        limit=int(limit),
    )


def parse_line(name: str) -> str:
    text = request.args.get(name, "").replace("\0", "").strip()
    if len(text) > LONGEST_VALUE:
        raise BadQuery(f"{name} has at most {LONGEST_VALUE} characters")
    return text


def parse_day(name: str) -> date | None:
    text = request.args.get(name, "").strip()
    try:
        day = date.fromisoformat(text) if text else None
    except ValueError:
        day = date.min
    if day and not 1900 <= day.year < 9999:  # others have no time of the system's
        raise BadQuery(f"{name} is a day such as 2026-11-17")
    return day


def parse_at() -> float | None:
    """The second from which a recording is to be played, if the request names one."""
    text = request.args.get("at", "")
    if text and not re.fullmatch(r"[0-9]{1,8}(\.[0-9]{1,6})?", text):
        raise BadQuery("at is a number of seconds such as 61.5")
    return float(text) if text else None


def parse_received() -> int:
    """When the recording of a link was received, in milliseconds; 0 if the request tells none."""
    text = request.args.get("received", "")
    if text and not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise BadQuery("received is a number of milliseconds")
    return int(text or 0)


def audio(recording: Description, action: str) -> dict[str, str]:
    """What a link has in its query that plays or downloads this very recording."""
    is_told = EARLIEST < recording.received < LATEST  # otherwise it is not when it was received
    received = milliseconds(recording.received) if is_told else 0
    return {action: recording.path, "received": str(received)}


def link(query: Query, **more: str) -> str:
    """The page's URL for a query, relative, because a proxy may have another host and path."""
    plain = Query()
    given = {
        name: str(value)
        for name, value in asdict(query).items()
        if name not in ("after", "before") and value != getattr(plain, name)
    } | more
    for name in RECORDING_VIEWS:
        # A value that begins with call_recording_ would name a recording whose URL this is.
        if name in given:
            given[name] = "/" + given[name].removeprefix("/")
    return "?" + urlencode({name: value for name, value in given.items() if value})


def url(**query: str) -> str:
    return str(url_for("browse.page")) + link(Query(), **query)


def own_url(recording: Description) -> str:
    """The URL that stores the recording and reads it back; "" for numbered copies."""
    url = url_of(recording.path)
    config = current_app.config
    public = config["PUBLIC_URL"].rstrip("/") + config["URL_PREFIX"]
    root = public if config["PUBLIC_URL"] else receiver_url()
    return f"{root}/{url}" if url else ""


def receiver_url() -> str:
    """The URL of the storage's root, as the client sees it."""
    forwarded = request.headers.get("X-Forwarded-Proto") == "https"
    scheme = "https" if forwarded else request.scheme
    return f"{scheme}://{request.host}{request.script_root}{current_app.config['URL_PREFIX']}"
