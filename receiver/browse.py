"""The page on which people find and play recordings.

All of it is at one URL, told apart by its query, because every URL below belongs to recordings.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, current_app, g, render_template, request, url_for

from .access import Access
from .audit import audit
from .catalog import Catalog, Page, Query
from .catalog_tables import SORTS
from .description import Description, read_metadata
from .errors import CatalogUnavailable, InvalidName, NotStored, ReceiverError
from .naming import RecordingName, sidecar
from .playback import MEDIA_TYPES, answer
from .storage import Storage

DAYS = 30  # in the chart
LONGEST_SEARCH = 200  # characters
MOST_ON_A_PAGE = 200
ASSETS = {"style.css": "text/css", "icon.svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
    "Vary": "Accept",
}
# What a spreadsheet takes for a formula, unless it is a mere number: +15550100 is the number of a
# caller, has no effect as a formula, and has to reach other programs as it is.
_FORMULA = re.compile(r"(?![+-]?[0-9]+\Z)[=+@\t\r\n\uff1d\uff0b\uff20\uff0d-]")
_UNSAFE_IN_FILENAMES = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u200e\u200f\u202a-\u202e]+')

browse = Blueprint("browse", __name__, template_folder="templates")
_assets = {name: (Path(__file__).parent / "static" / name).read_bytes() for name in ASSETS}
_asset_tags = {name: sha256(data).hexdigest()[:16] for name, data in _assets.items()}


class BadQuery(ReceiverError):
    """The page's query asks for something that there cannot be."""

    code = 400


@dataclass(frozen=True)
class Day:
    """A day in the chart; heights are between 0 and 1."""

    day: date
    count: int
    size: int
    count_height: float
    size_height: float


@browse.get("/", strict_slashes=False)
def page() -> Response:
    """Answer with the list of recordings, or with the one thing that the query names."""
    access: Access = current_app.extensions["access"]
    access.check_reader(request)
    for name, view in VIEWS.items():
        if name in request.args:
            return view(request.args[name])
    kind = answer_format()
    query = parse_query()
    if kind == "csv":
        return export(query)
    found = search(query)
    days = last_days()
    if kind == "json":
        return list_as_json(query, found, days)
    is_filtered = bool(query.text or query.folder or query.since or query.until)
    return render("list.html", query=query, found=found, days=days, is_filtered=is_filtered)


def details(path: str) -> Response:
    """All that is known of a recording."""
    recording = known(path)
    storage: Storage = current_app.extensions["storage"]
    told = metadata(storage, recording.path)
    versions = catalog().versions(recording)
    captions = has_captions(storage, recording.path)
    if recording.transcript:
        audit("transcript", recording.path)
    if answer_format() == "json":
        about = as_json(recording) | {
            "url": own_url(recording),
            "captions": url(captions=recording.path) if captions else None,
            "metadata": told,
            "versions": [as_json(each) for each in versions],
        }
        return json_response(about)
    return render(
        "details.html",
        query=parse_query(),  # of the list that leads here
        recording=recording,
        told=flat(told),
        versions=versions,
        captions=captions,
        own_url=own_url(recording),
    )


def play(path: str) -> Response:
    """The recording itself, also by ranges."""
    recording = known(path)
    storage: Storage = current_app.extensions["storage"]
    # Not from another server: the page's policy only lets it play what comes from here.
    response = answer(recording.path, replace(storage.open(recording.path), link=None))
    audit("play", recording.path)
    return response


def download(path: str) -> Response:
    """The recording as a file whose name tells what it is."""
    recording = known(path)
    storage: Storage = current_app.extensions["storage"]
    response = answer(recording.path, replace(storage.open(recording.path), link=None))
    audit("download", recording.path)
    name = filename(recording)
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace("%", "_")
    response.headers["Content-Disposition"] = (  # RFC 6266
        f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    )
    return response


def captions(path: str) -> Response:
    """What is said in a recording, with the times at which it is."""
    recording = known(path)
    storage: Storage = current_app.extensions["storage"]
    with closing(storage.open(sidecar(recording.path, "vtt"))) as blob:
        response = Response(blob.file.read(), mimetype="text/vtt")
    audit("transcript", recording.path)
    return response


def asset(name: str) -> Response:
    """The stylesheet or the icon."""
    if name not in ASSETS:
        raise NotStored("there is no such asset")
    response = Response(_assets[name], mimetype=ASSETS[name])
    response.cache_control.private = True
    response.cache_control.max_age = 365 * 24 * 60 * 60  # another version has another URL
    response.cache_control.immutable = True
    return response


VIEWS = {
    "asset": asset,
    "play": play,
    "download": download,
    "captions": captions,
    "details": details,
}


@browse.after_request
def guard(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


@browse.errorhandler(ReceiverError)
def answer_error(error: ReceiverError) -> Response:
    """Answer an error in the form that was asked for."""
    g.body.drain()
    g.reason = error.description
    kind = "csv"
    if not {"play", "download", "captions", "asset"} & request.args.keys():
        with suppress(BadQuery):
            kind = answer_format()
    if kind == "json":
        response = json_response({"error": error.description})
    elif kind == "csv":
        response = Response(f"{error.description}\n", mimetype="text/plain")
    else:
        response = render(
            "error.html", error=error, query=Query(), is_down=isinstance(error, CatalogUnavailable)
        )
    response.status_code = error.code or 500
    response.headers.extend(
        [each for each in error.get_headers() if each[0].lower() != "content-type"]
    )
    return response


def catalog() -> Catalog:
    return cast(Catalog, current_app.extensions["catalog"])


def known(path: str) -> Description:
    """The recording at a path that somebody asked for: only what the catalog has is opened."""
    recording = catalog().get(path.removeprefix("/"))
    if recording is None:
        raise NotStored(f"no recording is known as {quote(path, safe='/@+~%')}")
    return recording


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
    limit = asked.get("limit") or "50"
    if not re.fullmatch(r"[0-9]{1,9}", limit) or not 1 <= int(limit) <= MOST_ON_A_PAGE:
        raise BadQuery(f"limit is a number from 1 to {MOST_ON_A_PAGE}")
    return Query(
        text=text,
        folder=folder,
        since=parse_day("since"),
        until=parse_day("until"),
        sort=sort,
        after=asked.get("after", ""),
        before=asked.get("before", ""),
        limit=int(limit),
    )


def parse_day(name: str) -> date | None:
    text = request.args.get(name, "").strip()
    try:
        day = date.fromisoformat(text) if text else None
    except ValueError:
        day = date.min
    if day and not 1900 <= day.year < 9999:  # others have no time of the system's
        raise BadQuery(f"{name} is a day such as 2026-11-17")
    return day


def search(query: Query) -> Page:
    try:
        return catalog().search(query)
    except ValueError as error:
        raise BadQuery(str(error)) from error


def last_days() -> list[Day]:
    """The last days up to today, also those without recordings."""
    first = date.today() - timedelta(days=DAYS - 1)
    known = catalog().days(first)
    days = [first + timedelta(days=n) for n in range(DAYS)]
    totals = [known.get(day, (0, 0)) for day in days]
    most = max(count for count, _ in totals) or 1
    largest = max(size for _, size in totals) or 1
    return [
        Day(day, count, size, count / most, size / largest)
        for day, (count, size) in zip(days, totals, strict=True)
    ]


def link(query: Query, **more: str) -> str:
    """The page's URL for a query, relative, because a proxy may have another host and path."""
    plain = Query()
    given = {
        name: str(value)
        for name, value in asdict(query).items()
        if name not in ("after", "before") and value != getattr(plain, name)
    } | more
    for name in VIEWS.keys() & given.keys():
        # A value that begins with call_recording_ would name a recording whose URL this is.
        given[name] = "/" + given[name].removeprefix("/")
    return "?" + urlencode({name: value for name, value in given.items() if value})


def url(**query: str) -> str:
    return str(url_for("browse.page")) + link(Query(), **query)


def own_url(recording: Description) -> str:
    """The URL that stores the recording and reads it back; "" for numbered copies."""
    with suppress(InvalidName):
        name = RecordingName.parse(recording.path)
        if str(name) == recording.path:
            return f"{receiver_url()}/{name.to_url()}"
    return ""


def receiver_url() -> str:
    """The URL of the storage's root, as the client sees it."""
    forwarded = request.headers.get("X-Forwarded-Proto") == "https"
    scheme = "https" if forwarded else request.scheme
    return f"{scheme}://{request.host}{request.script_root}{current_app.config['URL_PREFIX']}"


def metadata(storage: Storage, path: str) -> dict[str, Any]:
    """What the sender told, as JSON that every program can read."""
    told = read_metadata(storage, path)
    with suppress(RecursionError):
        return cast(dict[str, Any], json.loads(json.dumps(told), parse_constant=str))
    return {}


def flat(told: dict[str, Any]) -> dict[str, str]:
    """Metadata as names and texts; what is in objects gets names with dots."""
    found: dict[str, str] = {}
    for name, value in told.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": as_text(value[inner]) for inner in value}
        else:
            found[name] = as_text(value)
    return found


def as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def has_captions(storage: Storage, path: str) -> bool:
    try:
        storage.open(sidecar(path, "vtt")).close()
    except NotStored:
        return False
    return True


# How recordings are shown


def render(template: str, **values: Any) -> Response:
    html = render_template(
        template,
        asked=request.args,
        link=link,
        sorts=SORTS,
        tag=_asset_tags,
        receiver_url=receiver_url(),
        media_types=MEDIA_TYPES,
        longest_search=LONGEST_SEARCH,
        **values,
    )
    # A sender's JSON may hold halves of characters, which UTF-8 has no bytes for.
    return Response(html.encode("utf-8", "replace"), mimetype="text/html")


@browse.app_template_filter()
def moment(timestamp: float) -> datetime | None:
    """A time in the server's time zone; none where it is unknown or no calendar has it."""
    if not timestamp:
        return None
    try:
        return datetime.fromtimestamp(timestamp).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


@browse.app_template_filter()
def clock(seconds: float) -> str:
    """A duration, such as 1:02:03."""
    minutes, second = divmod(int(seconds + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


@browse.app_template_filter()
def caller(recording: Description) -> list[str]:
    """Who called: a name and a number, one of them, or nothing."""
    return _party(recording.caller_name, recording.caller_number, recording.from_)


@browse.app_template_filter()
def callee(recording: Description) -> list[str]:
    """Who was called, likewise."""
    return _party(recording.callee_name, recording.callee_number, recording.to)


def _party(name: str, number: str, address: str) -> list[str]:
    number = number or address.removeprefix("sip:").partition("@")[0]
    return list(dict.fromkeys(filter(None, (name, number))))


@browse.app_template_filter()
def summary(recording: Description) -> str:
    """A recording in a few words."""
    parties = [(caller(recording) or [""])[0], (callee(recording) or [""])[0]]
    return " to ".join(filter(None, parties)) or recording.call_id or "recording"


def filename(recording: Description) -> str:
    """A name for the recording's file on any computer."""
    time = moment(recording.start) or moment(recording.received)
    stem = f"{time:%Y-%m-%d %H.%M} " if time else ""
    stem += _UNSAFE_IN_FILENAMES.sub("_", summary(recording))[:100].strip(" .")
    ending = f".{recording.extension}" if recording.extension else ""
    return stem.encode("utf-8", "replace").decode() + ending


# The same for programs


def as_json(recording: Description) -> dict[str, Any]:
    about = {name.rstrip("_"): value for name, value in asdict(recording).items()}
    return about | {
        "received": as_iso(recording.received),
        "start": as_iso(recording.start),
        "duration": recording.duration or None,
        "play": url(play=recording.path),
        "download": url(download=recording.path),
        "details": url(details=recording.path),
    }


def as_iso(timestamp: float) -> str | None:
    time = moment(timestamp)
    return time.isoformat(timespec="seconds") if time else None


def list_as_json(query: Query, found: Page, days: list[Day]) -> Response:
    base = url_for("browse.page")
    pages = {"next": ("after", found.next), "previous": ("before", found.previous)}
    return json_response(
        {"recordings": [as_json(each) for each in found.recordings]}
        | {
            name: base + link(query, format="json", **{side: cursor}) if cursor else None
            for name, (side, cursor) in pages.items()
        }
        | {
            "days": [
                {"day": each.day.isoformat(), "recordings": each.count, "bytes": each.size}
                for each in days
            ]
        }
    )


def json_response(value: object) -> Response:
    return Response(json.dumps(value, indent=1) + "\n", mimetype="application/json")


def export(query: Query) -> Response:
    """All that a search finds, as a table for spreadsheets.

    Transcripts are left out: they are longer than a spreadsheet's cells.
    """
    query = replace(query, after="", before="", limit=MOST_ON_A_PAGE)
    first = search(query)  # while an error can still be answered
    response = Response(_csv(catalog(), query, first), mimetype="text/csv")
    name = f"recordings {date.today()}.csv"
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def _csv(catalog: Catalog, query: Query, page: Page) -> Iterator[bytes]:
    columns = [field.name for field in fields(Description) if field.name != "transcript"]
    # Without the mark, Excel takes UTF-8 for the encoding of the computer's country.
    yield b"\xef\xbb\xbf" + _csv_lines([[name.rstrip("_") for name in columns]])
    while page.recordings:
        yield _csv_lines([_cells(each, columns) for each in page.recordings])
        page = catalog.search(replace(query, after=page.next)) if page.next else Page([])


def _cells(recording: Description, columns: list[str]) -> list[str]:
    known = asdict(recording) | {
        "received": as_iso(recording.received),
        "start": as_iso(recording.start),
    }
    return [cell(str(known[name] or "")) for name in columns]


def cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def _csv_lines(rows: list[list[str]]) -> bytes:
    lines = io.StringIO()
    csv.writer(lines).writerows(rows)
    return lines.getvalue().encode("utf-8", "replace")
