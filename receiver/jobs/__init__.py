"""What may wait until a recording is stored: jobs in a queue, done by a worker of their own."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask, Response

from ..answers import answer_error
from ..errors import NameExists, ReceiverError
from ..parts import Outcome, Parts, Stored, exchange
from ..storage import beside, is_database

if TYPE_CHECKING:
    from .work import Jobs

FILE = "queue.sqlite"


def answer_existing(jobs: "Jobs", error: NameExists) -> Response:
    """Answer a condition that fails for what we stored ourselves as the retry that it is.

    That upload was answered 503, for want of its jobs; they are enqueued now.
    """
    stored = Stored(Outcome.IDENTICAL, error.path, etag=error.etag)
    try:
        if not stored.etag or not jobs.add_missing(stored):
            return answer_error(error)
    except ReceiverError as unavailable:
        return answer_error(unavailable)
    exchange().stored = stored
    line = f"{stored.outcome}: {stored.path}, {exchange().body.received} bytes\n"
    return Response(line, mimetype="text/plain")


def has_queue(config: Mapping[str, Any]) -> bool:
    """Whether there may be a queue, though the settings ask for nothing."""
    storage = config["STORAGE"]
    if config["QUEUE"] or "://" in storage:
        return bool(config["QUEUE"]) or is_database(storage)
    return os.path.exists(os.path.join(storage, f".{FILE}"))


def init_app(
    app: Flask, parts: Parts, hourly: Sequence[Callable[[], object]], *, serving: bool
) -> None:
    """Enqueue what the settings ask for; the worker calls each of `hourly` once an hour, too."""
    from .kinds import kinds
    from .queue import Queue, enqueue
    from .work import Jobs

    storage = app.config["STORAGE"]
    url, setting, earlier = app.config["QUEUE"], "KZR_QUEUE", None
    if not url and is_database(storage):
        url, setting, earlier = storage, "KZR_STORAGE", Path(FILE).absolute()
    by_storage = url == storage
    queue = Queue(url or beside(storage, FILE, "KZR_QUEUE"), setting, durable=serving)
    work = kinds(app.config, parts)
    jobs = Jobs(queue, parts, work, hourly, by_storage=by_storage, earlier=earlier or queue.file)
    parts.jobs = jobs
    if not serving:
        return
    jobs.prepare()
    app.register_error_handler(NameExists, partial(answer_existing, jobs))
    if by_storage and work:
        from ..storage.database import DatabaseStorage

        assert isinstance(parts.storage, DatabaseStorage)  # noqa: S101 - for mypy: see by_storage
        parts.storage.also = partial(enqueue, kinds=[*work])
