"""A receiver of Kazoo's call recordings."""

import logging
from collections.abc import Mapping
from functools import partial

from flask import Flask

from . import access, answers, commands, config, monitoring, reading, senders
from .core.upload import at_every_path, uploads
from .memory import keep_freed_blocks
from .parts import Parts
from .storage import open_configured, open_existing, require_usable
from .storage.existing import shown

__all__ = ["create_app"]


def create_app(overrides: Mapping[str, str] | None = None, *, serving: bool = True) -> Flask:
    """Return the receiver as a WSGI application.

    Settings are read from the environment (`KZR_*`); `overrides` holds others by name, without
    the prefix and as text. An application that is not `serving` is for a command: it opens the
    storage only when that is used, and creates none. What is not configured is not even imported.
    Raises `SettingError` where a setting is unknown or cannot be used.
    """
    app = Flask(__name__, static_folder=None)
    app.config.update(config.load(overrides))
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # Kazoo must never be redirected
    app.logger.setLevel(logging.INFO)

    open_storage = partial(open_configured if serving else open_existing, app.config)
    parts = Parts(open_storage, senders.open_body, access.init_app(app))
    app.extensions["receiver"] = parts
    if serving:
        open_now(parts)

    answers.init_app(app)
    senders.init_app(app, parts, serving=serving)
    at_every_path(app, uploads)
    reading.init_app(app)
    monitoring.init_app(app)
    if app.config["CATALOG"] != "no":
        with config.installed("catalog", "CATALOG"):
            from . import catalog, page

        catalog.init_app(app, parts)
        page.init_app(app)
    if any(app.config[name] for name in config.JOBS):
        if not serving:
            require_usable(app.config)  # the queue may lie in it
        with config.installed("jobs", *(name for name in config.JOBS if app.config[name])):
            from . import jobs, retention

        jobs.init_app(app, parts, retention.hourly(app, parts))
    commands.init_app(app)
    if serving:
        app.logger.info(about(app, parts))
    if serving and parts.access.is_open:
        app.logger.warning(
            "anybody who reaches this server may write: set KZR_WRITERS or KZR_ALLOW_FROM"
        )
    return app


def about(app: Flask, parts: Parts) -> str:
    """What a start tells: where it stores, who may, and what is on."""
    optional = [
        f"KZR_{name}"
        for name in ("CATALOG", "METRICS_ALLOW", "HANDOVER_DIR", *config.JOBS)
        if app.config[name] not in ("no", "", (), {}, False)
    ]
    storage = shown(app.config["STORAGE"])
    return f"storage: {storage}; {parts.access}; on: {', '.join(optional) or 'nothing more'}"


def open_now(parts: Parts) -> None:
    """Open the storage before the first request: one that cannot be used stops the start."""
    _ = parts.storage
    keep_freed_blocks()
