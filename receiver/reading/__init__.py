"""Reading back: who may read gets what was stored, and a line in the log tells of it."""

from flask import Flask

from ..core.upload import at_every_path
from .playback import playback


def init_app(app: Flask) -> None:
    """Answer GET and HEAD of every URL that stores a recording."""
    at_every_path(app, playback)
