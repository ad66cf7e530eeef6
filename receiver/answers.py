"""How every request begins and ends: an error becomes one line, and each request one in the log."""

import logging
import time

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from .errors import ReceiverError
from .parts import exchange

logger = logging.getLogger("receiver")


class InternalError(ReceiverError):
    """The receiver has a fault."""

    code = 500


def init_app(app: Flask) -> None:
    app.before_request(begin)
    app.after_request(log_request)
    app.register_error_handler(Exception, answer_error)


def begin() -> None:
    exchange()  # from now on its time counts


def answer_error(error: Exception) -> Response:
    """Answer any error with its status and one line of text, which Kazoo logs."""
    exchange().body.drain()
    if not isinstance(error, HTTPException):
        logger.exception("internal error")
        error = InternalError("internal error: see the receiver's log")
    exchange().reason = error.description or ""
    response = Response(f"{error.description}\n", error.code)
    response.headers.extend(error.get_headers())
    response.mimetype = "text/plain"
    return response


def log_request(response: Response) -> Response:
    """Log one line; names are percent-encoded by here, so that they cannot forge another."""
    about = exchange()
    reason = f" ({about.reason})" if about.reason else ""
    logger.info(
        "%s name=%s bytes=%d ms=%d outcome=%s client=%s",
        request.method,
        about.stored.path if about.stored else request.environ["PATH_INFO"],
        about.body.received,
        (time.monotonic() - about.started) * 1000,
        about.stored.outcome if about.stored else f"{response.status_code}{reason}",
        request.remote_addr or "-",
    )
    return response
