"""Whether the receiver can do its work, and figures of what it does."""

import atexit
import os
import shutil
import tempfile

from flask import Flask

from ..config import installed
from .health import health


def init_app(app: Flask) -> None:
    """Answer at `/healthz`, and with `KZR_METRICS_ALLOW` at `/metrics` too."""
    app.register_blueprint(health)
    if not app.config["METRICS_ALLOW"]:
        return
    # Set before Prometheus' library is imported. Processes that are forked later share the folder.
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        folder = tempfile.mkdtemp(prefix="kazoo-receiver-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        atexit.register(remove_folder, folder, os.getpid())
    with installed("metrics", "METRICS_ALLOW"):
        from .metrics import count_upload, metrics

    app.register_blueprint(metrics)
    app.after_request(count_upload)


def remove_folder(folder: str, creator: int) -> None:
    """Remove a folder at the end of the process that created it, not of one forked from it."""
    if os.getpid() == creator:
        shutil.rmtree(folder, ignore_errors=True)
