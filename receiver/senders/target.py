"""The request target as the client sent it, and the recording's name in its query."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..core.naming import EXTENDED, decode, has_extension
from ..parts import SENT_PATH

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def _named(path: str, query: str) -> str:
    """Return the path, completed by the name that the query holds where the path has none.

    Where Kazoo's base URL has a query, Kazoo 4 puts the recording's name into it, as the PHP
    example's rewrite rule does; a storage plan's path is glued to its end, and lost.
    """
    last = path.rpartition("/")[2]
    if not query or "/call_recording_" in path or has_extension(last):
        return path
    folder = path.removesuffix("index.php").rstrip("/")
    for name, _, value in (pair.partition("=") for pair in query.split("&")):
        if value.startswith("call_recording_") and name != "text":  # what people search for
            return f"{folder}/{value}"
        if name == "recording" and value:
            return f"{folder}/call_recording_{value}"
    return f"{folder}/" if "/" in query.rpartition("=")[2] else path


def _told_apart(path: str, query: str) -> str:
    """Return the path, with the dot doubled of a Call-ID that ends in one, as its query tells.

    Kazoo 4.3 sends `x@h.` just as current releases, which double the dot, send `x@h`.
    """
    folder, prefix, name = path.partition("/call_recording_")
    match = EXTENDED.fullmatch(decode(name))
    if not prefix or not match or not match[1].endswith("."):
        return path
    pairs = (pair.partition("=") for pair in query.split("&"))
    if match[1] not in [decode(value) for key, _, value in pairs if key == "call_id"]:
        return path
    call_id = quote(match[1].encode("utf-8", "surrogateescape"), safe="")
    return f"{folder}{prefix}{call_id}..{match[2]}"


def _printable(text: str) -> str:
    """Percent-encode the bytes that clients should have encoded."""
    return re.sub(r"[^!-~]", lambda match: f"%{ord(match[0]):02X}", text)


class SentPath:
    """WSGI middleware: hands the application the path just as the client sent it.

    WSGI's `PATH_INFO` is decoded, by some servers more than once, so that `%2F` cannot be told
    from `/`, nor `%252F` from `%2F`. The request target, which gunicorn gives as `RAW_URI`,
    others as `REQUEST_URI`, still can; `RecordingName.parse` decodes it, once.
    """

    def __init__(self, app: "WSGIApplication") -> None:
        self.app = app

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        target = environ.get("REQUEST_URI") or environ.get("RAW_URI")
        if target:
            path = re.sub(r"^[a-z]+://[^/?]*", "", target, flags=re.IGNORECASE).partition("?")[0]
            mount = environ.get("SCRIPT_NAME", "")
            if path == mount or path.startswith(mount + "/"):
                path = path[len(mount) :]
            else:  # the server rewrote the URL to a script; the client knows no such mount
                environ["SCRIPT_NAME"] = ""
        else:
            path = quote(environ.get("PATH_INFO", "").encode("latin-1"))
        query = environ.get("QUERY_STRING", "")
        environ[SENT_PATH] = _printable(path)
        path, query = _printable(_named(path, query)), _printable(query)
        environ["PATH_INFO"] = _told_apart(path, query)
        environ["QUERY_STRING"] = query  # Werkzeug fails on what is no UTF-8
        return self.app(environ, start_response)
