"""Reading back: who may read gets what was stored, and a line in the log tells of it."""

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from ..answers import answer_error
from ..core.upload import at_every_path
from ..errors import InvalidName, NotStored
from .playback import playback, read_longer


def init_app(app: Flask) -> None:
    """Answer GET and HEAD of every URL that stores a recording."""
    at_every_path(app, playback)
    app.register_error_handler(InvalidName, explain)


def explain(error: InvalidName) -> Response:
    """Answer a request for no recording; where a person's browser asks, with what this is."""
    if request.method not in ("GET", "HEAD"):
        return answer_error(error)
    try:
        return read_longer(error)
    except InvalidName:
        pass
    except HTTPException as failed:
        return answer_error(failed)
    if "text/html" not in request.headers.get("Accept", ""):
        return answer_error(error)
    config = current_app.config
    page = f"find them at {config['BROWSE_PATH']}"
    if config["CATALOG"] == "no":
        page = "to find them here, set KZR_CATALOG=yes and KZR_READERS"
    return answer_error(
        NotStored(f"this is a receiver of Kazoo's call recordings, which come by PUT; {page}")
    )
