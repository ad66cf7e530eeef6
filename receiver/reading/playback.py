"""Reading back: GET and HEAD of every URL that stores a recording."""

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from io import BufferedReader
from typing import cast
from urllib.parse import quote

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import HTTPException
from werkzeug.wsgi import FileWrapper, wrap_file

from ..core.naming import NO_NAME, RecordingName
from ..errors import InvalidName, NotStored, Superseded
from ..formats import ANY_TYPE, format_of
from ..parts import Recording, parts
from ..storage.base import open_named
from ..storage.paths import extension_of
from .audit import audit

playback = Blueprint("playback", __name__)

OPENED_MOST = 4  # times, where others take its name between opening and reading
_RANGE_KEYS = ("REQUEST_METHOD", "HTTP_RANGE", "HTTP_IF_RANGE")


@playback.get("/<recording:name>")
@playback.get("/<plain:name>")
def read(name: RecordingName) -> Response:
    """Answer with the recording that has the name."""
    parts().access.check_reader(request)
    path, recording = _open(name)
    response = answer(path, recording)
    audit("read", path)
    return response


@playback.get("/", strict_slashes=False)
def refuse() -> Response:
    """Answer a request for no recording at all."""
    raise InvalidName(NO_NAME)


def _open(name: RecordingName) -> tuple[str, Recording]:
    """Open a recording; its path may come twice in a row, as Kazoo 4.3 and later ask for it."""
    storage = parts().storage
    try:
        return open_named(storage, name)
    except NotStored:
        for half in _halves():
            with suppress(NotStored):
                return open_named(storage, half)
        raise


def _halves() -> Iterator[RecordingName]:
    """What the URL names without its end, where that repeats what is before.

    It is compared as it was sent: a recording's name is not spelled as a folder's.
    """
    adapter = current_app.create_url_adapter(request)
    sent = request.path.split("/")
    for start in range(1, len(sent) - 1):
        middle = (start + len(sent)) // 2
        if adapter and sent[start:middle] == sent[middle:]:
            with suppress(HTTPException, KeyError):
                _, values = adapter.match("/".join(sent[:middle]), method="GET")
                yield values["name"]


def answer(path: str, recording: Recording) -> Response:
    """Answer with the recording stored at `path`, whole unless the client asks for a range of it.

    It is opened again where another takes its name before a byte of it was read.

    With `KZR_REDIRECT_READS`, a storage that can answer by itself does: 302, which Kazoo follows.
    """
    storage = parts().storage
    for _ in range(OPENED_MOST - 1):
        with suppress(Superseded):
            return _answer(path, recording)
        recording.close()
        recording = replace(storage.open(path), link=recording.link)
    return _answer(path, recording)


def _answer(path: str, recording: Recording) -> Response:
    if recording.link and current_app.config["REDIRECT_READS"]:
        with closing(recording):
            return Response(status=302, headers={"Location": recording.link()})
    # The server's own wrapper is fast, but would read all that comes before a range.
    wrap = FileWrapper if "HTTP_RANGE" in request.environ else partial(wrap_file, request.environ)
    kind = format_of(extension_of(path))
    response = Response(
        wrap(recording.file),
        mimetype=kind.media_type if kind.is_shown else ANY_TYPE,
        direct_passthrough=True,
    )
    _describe(response, recording)
    if not kind.is_shown:
        response.headers["Content-Disposition"] = "attachment"
    if not _hand_to_server(response, path, recording):
        # Kazoo knows no 304 and sends no condition; ranges are for those who seek.
        asked = {key: request.environ[key] for key in _RANGE_KEYS if key in request.environ}
        response.make_conditional(asked, accept_ranges=True, complete_length=recording.size)
        if recording.path is None and request.method == "GET":
            _read_ahead(response, recording)
    return response


def _read_ahead(response: Response, recording: Recording) -> None:
    """Read the first bytes into the file's buffer, while an error can still be answered."""
    recording.file.seek(response.content_range.start or 0)
    cast(BufferedReader, recording.file).peek(1)


def _describe(response: Response, recording: Recording) -> None:
    response.content_length = recording.size
    response.last_modified = datetime.fromtimestamp(recording.modified, UTC)
    response.set_etag(recording.etag)
    response.cache_control.private = True
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'; media-src 'self'"


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
    response.response = []
    del response.headers["Content-Length"]
    return True
