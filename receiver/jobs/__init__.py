"""What may wait until a recording is stored: jobs in a queue, done by a worker of their own."""

from collections.abc import Callable, Sequence

from flask import Flask

from ..parts import Parts

SETTINGS = ("CHECKSUMS", "ON_STORED", "WEBHOOK_URL", "TRANSCRIBE_URL", "KEEP_DAYS")


def init_app(app: Flask, parts: Parts, hourly: Sequence[Callable[[], object]] = ()) -> None:
    """Enqueue what the settings ask for, if anything; the worker calls each of `hourly`, too."""
    if not any(app.config[name] for name in SETTINGS):
        return
    from ..storage import beside
    from .kinds import kinds
    from .work import Jobs

    url = app.config["QUEUE"] or beside(app.config["STORAGE"], "queue.sqlite")
    parts.jobs = Jobs(url, parts, kinds(app.config, parts), hourly)
