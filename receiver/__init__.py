"""A receiver of Kazoo's call recordings."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from flask import Flask

__all__ = ["create_app"]


def create_app(overrides: Mapping[str, str] | None = None, *, serving: bool = True) -> Flask:
    """Return the receiver as a WSGI application.

    Settings are read from the environment (`KZR_*`); `overrides` holds others by name, without
    the prefix and as text. An application that is not `serving` is for a command: it opens the
    storage only when that is used, and creates none. What is not configured is not even imported.
    Raises `SettingError` where a setting is unknown or cannot be used.
    """
    # Here, so that the core can be imported alone.
    from . import access, answers, config, monitoring, reading, senders
    from .core.upload import at_every_path, uploads
    from .memory import keep_freed_blocks
    from .parts import Parts
    from .storage import open_configured, open_existing, require_usable

    app = Flask(__name__, static_folder=None)
    app.config.update(config.load(overrides))
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # Kazoo must never be redirected
    app.logger.setLevel(logging.INFO)

    open_storage = partial(open_configured if serving else open_existing, app.config)
    parts = Parts(open_storage, senders.open_body, access.init_app(app))
    app.extensions["receiver"] = parts
    if serving:
        _ = parts.storage  # it is opened now, and one that cannot be used stops the start
        keep_freed_blocks()

    senders.init_app(app, parts, serving=serving)
    at_every_path(app, uploads)
    reading.init_app(app)
    monitoring.init_app(app)
    if app.config["CATALOG"] != "no":
        with config.installed("catalog", "CATALOG"):
            from . import catalog, page

        catalog.init_app(app, parts)
        page.init_app(app)
    if wanted := [name for name in config.JOBS if app.config[name]]:
        if not serving:
            require_usable(app.config)  # the queue may lie in it
        with config.installed("jobs", *wanted):
            from . import jobs, retention

            jobs.init_app(app, parts, retention.hourly(app, parts), serving=serving)
    elif not serving:
        with suppress(ImportError):  # what a queue holds is shown, whatever the settings ask for
            from . import jobs

            if jobs.has_queue(app.config):
                jobs.init_app(app, parts, (), serving=False)
    answers.init_app(app)
    if not serving:
        from . import commands

        commands.init_app(app)
        return app
    app.logger.info(about(app.config, parts.access))
    if parts.access.is_open:
        app.logger.warning(
            "anybody who reaches this server may write: set KZR_WRITERS or KZR_ALLOW_FROM"
        )
    return app


def about(config: Mapping[str, Any], access: object) -> str:
    """What a start tells: where it stores, who may, and what is on."""
    from .config import JOBS
    from .storage.existing import without_password

    optional = [
        f"KZR_{name}"
        for name in ("CATALOG", "METRICS_ALLOW", "HANDOVER_DIR", *JOBS)
        if config[name] not in ("no", "", (), {}, False)
    ]
    on = ", ".join(optional) or "nothing more"
    return f"storage: {without_password(config['STORAGE'])}; {access}; on: {on}"
