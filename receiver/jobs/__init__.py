"""What may wait until a recording is stored: jobs in a queue, done by a worker of their own."""

from collections.abc import Callable, Sequence

from flask import Flask

from ..parts import Parts
from ..storage import beside


def init_app(app: Flask, parts: Parts, hourly: Sequence[Callable[[], object]]) -> None:
    """Enqueue what the settings ask for; the worker calls each of `hourly` once an hour, too."""
    from .kinds import kinds
    from .work import Jobs

    url = app.config["QUEUE"] or beside(app.config["STORAGE"], "queue.sqlite", "KZR_QUEUE")
    parts.jobs = Jobs(url, parts, kinds(app.config, parts), hourly)
