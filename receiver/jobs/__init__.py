"""What may wait until a recording is stored: jobs in a queue, done by a worker of their own."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask

from ..parts import Parts
from ..storage import beside, is_database

FILE = "queue.sqlite"


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
    if by_storage and work:
        from ..storage.database import DatabaseStorage

        assert isinstance(parts.storage, DatabaseStorage)  # noqa: S101 - for mypy
        parts.storage.also = partial(enqueue, kinds=[*work])
