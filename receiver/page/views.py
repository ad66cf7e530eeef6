"""The page on which people find and play recordings.

All of it is at one URL, told apart by its query, because every URL below belongs to recordings.
"""

from contextlib import closing, suppress
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from flask import Blueprint, Response, render_template, request, stream_with_context

from ..catalog.catalog import Catalog, Page
from ..catalog.description import DIRECTIONS, Description
from ..catalog.search import Query
from ..catalog.tables import SORTS
from ..errors import CatalogUnavailable, NotStored, ReceiverError
from ..formats import format_of
from ..parts import exchange, parts
from ..reading.audit import audit, audit_search
from ..reading.choice import open_received
from ..reading.playback import answer
from ..storage import sidecars
from .presentation import (
    FILTERS,
    as_json,
    csv_lines,
    excerpts,
    filename,
    flat,
    json_response,
    last_days,
    list_as_json,
    today,
    zone_name,
)
from .query import (
    LONGEST_SEARCH,
    MOST_ON_A_PAGE,
    BadQuery,
    answer_format,
    link,
    own_url,
    parse_at,
    parse_query,
    parse_received,
    receiver_url,
    url,
)
from .transcript import excerpt, parse_vtt

MOST_ACCOUNTS = 200  # to choose from
MOST_FORMATS = 40
SPEEDS = ("0.75", "1", "1.25", "1.5", "1.75", "2")
LENGTHS = {10: "10 s", 30: "30 s", 60: "1 min", 300: "5 min", 600: "10 min", 1800: "30 min"}

ASSETS = {"style.css": "text/css", "player.js": "text/javascript", "icon.svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "media-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
    "Vary": "Accept",
}

browse = Blueprint("browse", __name__, template_folder="templates")
for _filter in (*FILTERS, format_of):
    browse.add_app_template_filter(_filter)
_assets = {name: (Path(__file__).parent / "static" / name).read_bytes() for name in ASSETS}
_asset_tags = {name: sha256(data).hexdigest()[:16] for name, data in _assets.items()}


@browse.get("/", strict_slashes=False)
def page() -> Response:
    """Answer with the list of recordings, or with the one thing that the query names."""
    parts().access.check_reader(request)
    for name, view in VIEWS.items():
        if name in request.args:
            return view(request.args[name])
    kind = answer_format()
    query = parse_query()
    if kind == "csv":
        return export(query)
    found = search(query)
    days = last_days(catalog(), query.time)
    said = excerpts(found.recordings, query.text)
    for path in said:
        audit("excerpt", path)
    if kind == "json":
        return list_as_json(query, found, days, said)
    return render(
        "list.html",
        query=query,
        found=found,
        days=days,
        said=said,
        choices=choices(),
        is_filtered=is_filtered(query),
        is_partial=catalog().is_partial(),
    )


def is_filtered(query: Query) -> bool:
    """Whether a query finds fewer than all recordings."""
    plain = Query(time=query.time, sort=query.sort, limit=query.limit)
    return replace(query, after="", before="") != plain


def choices() -> dict[str, list[str] | None]:
    """What recordings can be filtered by; of accounts None where they are too many."""
    known = catalog()
    accounts = known.values("account", MOST_ACCOUNTS + 1)
    return {
        "account": accounts if len(accounts) <= MOST_ACCOUNTS else None,
        "direction": known.values("direction", len(DIRECTIONS)),
        "extension": known.values("extension", MOST_FORMATS),
    }


def export(query: Query) -> Response:
    """All that a search finds, for spreadsheets."""
    query = replace(query, after="", before="", limit=MOST_ON_A_PAGE)
    first = search(query)  # while an error can still be answered
    audit_search("export", link(query))
    lines = stream_with_context(csv_lines(catalog(), query, first))
    response = Response(lines, mimetype="text/csv")
    name = f"recordings {today()}.csv"
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def details(path: str) -> Response:
    """All that is known of a recording."""
    recording = known(path)
    query = parse_query()  # of the list that leads here
    told = sidecars.told_as_json(parts().storage, recording.path)
    versions = catalog().versions(recording)
    segments = parse_vtt(captions := sidecars.read(parts().storage, recording.path, "vtt") or b"")
    if recording.transcript or segments:
        audit("transcript", recording.path)
    if answer_format() == "json":
        about = {
            "url": own_url(recording),
            "transcript": recording.transcript,
            "captions": url(captions=recording.path) if captions else None,
            "segments": [asdict(each) for each in segments],
            "metadata": told,
            "versions": [as_json(each) for each in versions],
        }
        return json_response(as_json(recording, excerpt(recording.transcript, query.text)) | about)
    return render(
        "details.html",
        query=query,
        at=parse_at(),
        recording=recording,
        told=flat(told),
        versions=versions,
        captions=captions,
        segments=segments,
        own_url=own_url(recording),
    )


def play(path: str) -> Response:
    """The recording itself, also by ranges."""
    return answer_recording("play", known(path))


def download(path: str) -> Response:
    """The recording as a file whose name tells what it is."""
    recording = known(path)
    response = answer_recording("download", recording)
    return as_file(response, filename(recording, recording.extension))


def answer_recording(action: str, recording: Description) -> Response:
    """The audio of the recording that a link of the page is to, though its name was taken since."""
    # Not from another server: the page's policy only lets it play what comes from here.
    path, response = answer(
        partial(open_received, parts().storage, recording.path, parse_received())
    )
    audit(action, path)
    return response


def captions(path: str) -> Response:
    """What is said in a recording, with the times at which it is, as a file."""
    recording = known(path)
    with closing(sidecars.open_beside(parts().storage, recording.path, "vtt")) as blob:
        response = Response(blob.file.read(), mimetype="text/vtt")
    audit("transcript", recording.path)
    return as_file(response, filename(recording, "vtt"))


def as_file(response: Response, name: str) -> Response:
    """Let browsers save a response under a name (RFC 6266)."""
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace("%", "_")
    response.headers["Content-Disposition"] = (
        f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    )
    return response


def asset(name: str) -> Response:
    """The stylesheet, the script or the icon."""
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
    exchange().body.drain()
    exchange().reason = str(error)
    kind = "csv"
    if not {"play", "download", "captions", "asset"} & request.args.keys():
        with suppress(BadQuery):
            kind = answer_format()
    if kind == "json":
        response = json_response({"error": str(error)})
    elif kind == "csv":
        response = Response(f"{error}\n", mimetype="text/plain")
    else:
        response = render(
            "error.html", error=error, query=Query(), is_down=isinstance(error, CatalogUnavailable)
        )
    response.status_code = error.code or 500
    response.headers.extend(error.more_headers)
    return response


def render(template: str, **values: Any) -> Response:
    values = {"choices": {}} | values
    html = render_template(
        template,
        asked=request.args,
        link=link,
        sorts=SORTS,
        lengths=LENGTHS,
        speeds=SPEEDS,
        zone=zone_name(),
        tag=_asset_tags,
        receiver_url=receiver_url(),
        longest_search=LONGEST_SEARCH,
        **values,
    )
    # A sender's JSON may hold halves of characters, which UTF-8 has no bytes for.
    return Response(html.encode("utf-8", "replace"), mimetype="text/html")


def catalog() -> Catalog:
    return cast(Catalog, parts().catalog)  # without one there is no page


def known(path: str) -> Description:
    """The recording at a path that somebody asked for: only what the catalog has is opened."""
    recording = catalog().get(path.removeprefix("/"))
    if recording is None:
        raise NotStored(f"no recording is known as {quote(path, safe='/@+~%')}")
    return recording


def search(query: Query) -> Page:
    try:
        return catalog().search(query)
    except ValueError as error:
        raise BadQuery(str(error)) from error
