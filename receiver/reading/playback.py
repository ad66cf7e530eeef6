"""Reading back: GET and HEAD of every URL that stores a recording."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from io import BufferedReader
from typing import cast
from urllib.parse import quote

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import HTTPException
from werkzeug.wsgi import FileWrapper, wrap_file

from ..core.naming import NO_NAME, RecordingName, decode
from ..errors import ConditionFailed, InvalidName, NotStored, Superseded
from ..formats import ANY_TYPE, format_of
from ..parts import SENT_PATH, Recording, parts
from ..storage.paths import extension_of
from .audit import audit
from .choice import asked_id, open_asked
from .conditions import as_date, asked_range, judge

playback = Blueprint("playback", __name__)

OPENED_MOST = 4  # times, where others take its name between opening and reading
# nginx and Apache would judge these by an ETag of their own.
_JUDGED_HERE = ("If-Match", "If-Unmodified-Since", "If-Range")

Opening = Callable[[], tuple[str, Recording]]


@playback.get("/<recording:name>")
@playback.get("/<plain:name>")
def read(name: RecordingName) -> Response:
    """Answer with the recording that has the name."""
    return _read(name)


@playback.get("/", strict_slashes=False)
def refuse() -> Response:
    """Answer a request for no recording at all."""
    raise InvalidName(NO_NAME)


def read_longer(error: InvalidName) -> Response:
    """Answer where a path only names a recording without what Kazoo added to it, or raise."""
    if next(_shorter(), None):
        with suppress(NotStored):
            return _read(None)
    raise error


def _read(name: RecordingName | None) -> Response:
    parts().access.check_reader(request)
    asked = asked_id(request.args)
    # Who asks for one of several never gets another, which may take the name before a server
    # opens the file, or a link is followed.
    path, response = _answer(
        partial(_open, name, asked), may_hand_over=not asked, may_redirect=not asked
    )
    audit("read", path)
    return response


def _open(name: RecordingName | None, asked: str) -> tuple[str, Recording]:
    storage = parts().storage
    error = NotStored("no recording is stored there")
    if name:
        try:
            return open_asked(storage, name, asked)
        except NotStored as absent:
            error = absent
    for shorter in _shorter():
        with suppress(NotStored):
            return open_asked(storage, shorter, asked)
    raise error


def _shorter() -> Iterator[RecordingName]:
    """What the URL names without its end, which Kazoo 4.3 and later have added.

    It is cut as it was sent: a recording's name is not spelled as a folder's.
    """
    adapter = current_app.create_url_adapter(request)
    sent = request.environ.get(SENT_PATH, request.path).split("/")
    for end in _ends(sent):
        if adapter:
            with suppress(HTTPException, KeyError):
                _, values = adapter.match("/".join(sent[:end]), method="GET")
                yield values["name"]


def _ends(sent: list[str]) -> Iterator[int]:
    """Where the part of a path that stored a recording may end.

    Either the path comes twice in a row; or, whatever the plan's field list is, `ACCOUNT/DOC/NAME`
    follows it, with or without an owner after the account, and the query's `id` is the document.
    """
    for start in range(1, len(sent) - 1):
        middle = (start + len(sent)) // 2
        if sent[start:middle] == sent[middle:]:
            yield middle
    if len(sent) > 4 and decode(sent[-2]) in request.args.getlist("id"):
        yield len(sent) - 3
        yield len(sent) - 4


def answer(open_: Opening) -> tuple[str, Response]:
    """Answer with what `open_` opens, whole unless the client asks for a range; its path, too.

    It is opened again where another takes its name before a byte of it was read.
    """
    return _answer(open_, may_redirect=False)


def _answer(
    open_: Opening, *, may_hand_over: bool = True, may_redirect: bool = True
) -> tuple[str, Response]:
    """Answer with what `open_` opens, and return its path too.

    With `KZR_REDIRECT_READS`, a storage that can answer by itself does: 302.
    """
    for attempt in range(1, OPENED_MOST + 1):
        path, recording = open_()
        try:
            if may_redirect and recording.link and _may_follow():
                with closing(recording):
                    return path, Response(status=302, headers={"Location": recording.link()})
            return path, _respond(path, recording, may_hand_over)
        except BaseException as error:
            recording.close()
            if not isinstance(error, Superseded) or attempt == OPENED_MOST:
                raise
    raise AssertionError("the last attempt returns or raises")


def _may_follow() -> bool:
    """Whether the client may be sent to another host, for a GET: links are for nothing else.

    Kazoo's HTTP client, which sends no User-Agent, would send its credentials there, too.
    """
    is_wanted = current_app.config["REDIRECT_READS"] and request.method == "GET"
    return bool(is_wanted and request.headers.get("User-Agent"))


def _respond(path: str, recording: Recording, may_hand_over: bool) -> Response:
    headers, modified = request.headers, as_date(recording.modified)
    etag = recording.noted or recording.etag
    response = _described(path, etag)
    response.last_modified = modified
    status = judge(headers, etag, modified)
    if status == 412:
        raise ConditionFailed("another recording is stored there: If-Match or the like was sent")
    if status == 304:
        recording.close()
        response.status_code = status
        return response
    response.content_length = recording.size
    if request.method != "GET":  # for which no range is defined (RFC 9110 section 14.2)
        recording.close()
        return response

    def is_alone() -> bool:  # two of one call may come within the same second
        return len(parts().storage.versions(path)) == 1

    asked = asked_range(headers, recording.size, etag, modified, is_alone)
    if may_hand_over and not any(name in headers for name in _JUDGED_HERE):
        if _hand_to_server(response, path, recording):
            return response
    # The server's own wrapper is fast, but would read all that comes before a range.
    wrap = FileWrapper if asked else partial(wrap_file, request.environ)
    response.response = wrap(recording.file)
    response.direct_passthrough = True
    if asked:
        given = {"REQUEST_METHOD": "GET", "HTTP_RANGE": f"bytes={asked[0]}-{asked[1] - 1}"}
        response.make_conditional(given, accept_ranges=True, complete_length=recording.size)
    if recording.path is None:  # an error can still be answered
        recording.file.seek(asked[0] if asked else 0)
        cast(BufferedReader, recording.file).peek(1)
    return response


def _described(path: str, etag: str) -> Response:
    kind = format_of(extension_of(path))
    response = Response(mimetype=kind.media_type if kind.is_shown else ANY_TYPE)
    if not kind.is_shown:
        response.headers["Content-Disposition"] = "attachment"
    response.set_etag(etag)
    response.accept_ranges = "bytes"
    # A cache asks each time, so that nobody listens without a line in the log.
    response.cache_control.private = True
    response.cache_control.no_cache = True
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'; media-src 'self'"
    return response


def _hand_to_server(response: Response, path: str, recording: Recording) -> bool:
    """Let nginx or Apache send the file, where that is configured; return whether one will."""
    config = current_app.config
    if recording.path is None or not (config["ACCEL_PREFIX"] or config["X_SENDFILE"]):
        return False
    if config["ACCEL_PREFIX"]:
        response.headers["X-Accel-Redirect"] = f"{config['ACCEL_PREFIX']}/{quote(path)}"
    else:
        response.headers["X-Sendfile"] = str(recording.path)
    recording.close()
    del response.headers["Content-Length"]
    return True
