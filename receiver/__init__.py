"""A receiver of Kazoo's call recordings."""

import atexit
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from functools import cache, partial
from typing import cast

from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.local import LocalProxy
from werkzeug.middleware.proxy_fix import ProxyFix

from . import config, errors
from .access import Access
from .commands import common
from .core.body import Body
from .core.naming import PlainConverter, RecordingConverter
from .core.upload import uploads
from .memory import keep_freed_blocks
from .monitoring.health import health
from .reading.playback import playback
from .senders import forms
from .senders.target import SentPath
from .storage import Storage, open_storage

__all__ = ["create_app"]

JOB_SETTINGS = ("CHECKSUMS", "ON_STORED", "WEBHOOK_URL", "TRANSCRIBE_URL", "KEEP_DAYS")


def create_app(overrides: Mapping[str, str] | None = None) -> Flask:
    """Return the receiver as a WSGI application.

    Settings are read from the environment (`KZR_*`); `overrides` holds others by name, without
    the prefix and as text. Raises `SettingError` where one is unknown or cannot be used.
    """
    app = Flask(__name__, static_folder=None)
    app.config.update(config.load(overrides))
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.logger.setLevel(logging.INFO)

    app.extensions["access"] = Access(
        app.config["WRITERS"],
        app.config["ALLOW_FROM"],
        app.config["WRITE_TOKENS"],
        app.config["READERS"],
    )
    open_once = cache(
        partial(
            open_storage,
            app.config["STORAGE"],
            min_free=app.config["MIN_FREE"],
            supersede=app.config["ON_CONFLICT"] == "keep-both",
            wait=app.config["STORAGE_WAIT"],
        )
    )
    app.extensions["storage"] = storage = cast(Storage, LocalProxy(open_once))
    is_server = "FLASK_RUN_FROM_CLI" not in os.environ  # a command opens only what it uses
    if is_server:
        open_once()
        keep_freed_blocks()
    if is_server and app.config["HANDOVER_DIR"]:
        from .senders.handover import Handover

        app.extensions["handover"] = Handover(app.config["HANDOVER_DIR"], storage.spool)

    app.url_map.converters.update(recording=RecordingConverter, plain=PlainConverter)
    app.url_map.merge_slashes = False  # Kazoo must never be redirected
    for blueprint in (uploads, playback):
        if app.config["URL_PREFIX"]:
            app.register_blueprint(blueprint, url_prefix=app.config["URL_PREFIX"])
        # Any other path begins with a folder.
        app.register_blueprint(blueprint, name=f"{blueprint.name}-folders")

    app.register_blueprint(health)
    common.register(app)
    app.before_request(start_request)
    if app.config["CATALOG"] != "no":
        add_catalog(app, storage)
    if app.config["METRICS_ALLOW"]:
        add_metrics(app)
    if any(app.config[name] for name in JOB_SETTINGS):
        add_jobs(app, storage)
    app.after_request(log_request)
    app.register_error_handler(Exception, answer_error)
    proxies = app.config["TRUSTED_PROXIES"]
    # Flask's own way to add middleware, which mypy takes for a method that is replaced.
    app.wsgi_app = SentPath(app.wsgi_app)  # type: ignore[method-assign]
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=0)  # type: ignore[method-assign]

    if is_server and app.extensions["access"].is_open:
        app.logger.warning(
            "anybody who reaches this server may write: set KZR_WRITERS or KZR_ALLOW_FROM"
        )
    return app


def add_catalog(app: Flask, storage: Storage) -> None:
    """Let people find recordings."""
    from .catalog.catalog import Catalog
    from .catalog.indexing import Indexer, note_stored
    from .page.views import browse

    url = app.config["CATALOG"]
    if url == "yes":
        url = default_catalog(app.config["STORAGE"])
    app.extensions["catalog"] = catalog = Catalog(url)
    app.extensions["indexer"] = Indexer(catalog, storage)
    app.register_blueprint(browse, url_prefix=app.config["BROWSE_PATH"])
    app.after_request(note_stored)


def add_jobs(app: Flask, storage: Storage) -> None:
    """Let a worker do what may wait until a recording is stored."""
    from .jobs.command import kinds
    from .jobs.work import Jobs

    url = app.config["QUEUE"] or beside(app.config["STORAGE"], "queue.sqlite")
    catalog = app.extensions.get("catalog")
    hourly = []
    if app.config["KEEP_DAYS"]:
        from .retention.purge import purge

        hourly.append(lambda: purge(storage, catalog, app.config["KEEP_DAYS"], time.time()))
    work = kinds(app.config, storage, catalog)
    app.extensions["jobs"] = Jobs(url, storage, work, hourly)


def add_metrics(app: Flask) -> None:
    """Keep figures for Prometheus."""
    # Set before its library is imported. Processes that are forked later share the folder.
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        folder = tempfile.mkdtemp(prefix="kazoo-receiver-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        atexit.register(remove_folder, folder, os.getpid())
    from .monitoring.metrics import count_upload, metrics

    app.register_blueprint(metrics)
    app.after_request(count_upload)


def remove_folder(folder: str, creator: int) -> None:
    """Remove a folder at the end of the process that created it, not of one forked from it."""
    if os.getpid() == creator:
        shutil.rmtree(folder, ignore_errors=True)


def default_catalog(storage: str) -> str:
    """The URL of the catalog that belongs to a storage: in its database, else in a file."""
    is_database = "://" in storage and storage.partition("://")[0] not in ("s3", "gs", "az")
    return storage if is_database else beside(storage, "catalog.sqlite")


def beside(storage: str, name: str) -> str:
    """The URL of a database in a file: in a directory that is the storage, or the working one."""
    if "://" in storage:
        return f"sqlite:///{os.path.abspath(name)}"
    return f"sqlite:///{os.path.abspath(storage)}/.{name}"  # hidden: no recording has that name


def start_request() -> None:
    g.started = time.monotonic()
    handover = current_app.extensions.get("handover")
    g.body = handover.body(request.environ) if handover else Body(request.environ)
    if boundary := forms.boundary(request.environ.get("CONTENT_TYPE", "")):
        g.body = forms.FormBody(g.body, boundary)


def answer_error(error: Exception) -> Response:
    """Answer any error with its status and one line of text, which Kazoo logs."""
    g.body.drain()
    if not isinstance(error, HTTPException):
        logging.getLogger(__name__).exception("internal error")
        error = errors.ReceiverError("internal error: see the receiver's log")
        error.code = 500
    response = Response(f"{error.description}\n", error.code)
    response.headers.extend(error.get_headers())
    response.mimetype = "text/plain"
    g.reason = error.description
    return response


def log_request(response: Response) -> Response:
    """Log one line; names are percent-encoded by here, so that they cannot forge another."""
    stored = g.get("stored")
    reason = f" ({g.reason})" if "reason" in g else ""
    logging.getLogger(__name__).info(
        "%s name=%s bytes=%d ms=%d outcome=%s client=%s",
        request.method,
        stored.path if stored else request.environ["PATH_INFO"],
        g.body.received,
        (time.monotonic() - g.started) * 1000,
        stored.outcome if stored else f"{response.status_code}{reason}",
        request.remote_addr or "-",
    )
    return response
