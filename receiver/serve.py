"""gunicorn's settings for the receiver: `gunicorn -c python:receiver.serve app:app`."""

import os
import sys
from collections.abc import Sequence

from .gunicorn_worker import child_exit, on_starting, start

__all__ = ["child_exit", "on_starting"]

bind = "127.0.0.1:8000"
workers = max(2, os.cpu_count() or 1)
worker_class = "receiver.gunicorn_worker.Worker"
threads = 16  # uploads at a time, in each worker
preload_app = True  # a bad setting stops the start, with one message
graceful_timeout = 120  # seconds for running uploads to finish when the server is stopped
keepalive = 65  # seconds
worker_connections = 800  # of each worker; systems allow 1024 open files, and uploads need some
limit_request_line = 16380  # bytes; Kazoo tells all about a call in its query string
# Queries hold numbers, names and tokens, so that --access-logfile leaves them and the user out.
access_log_format = '%(h)s %(t)s "%(m)s %(U)s %(H)s" %(s)s %(b)s "%(a)s"'
forwarder_headers = ""  # a client's SCRIPT_NAME header would otherwise change the path
control_socket_disable = True
http_parser = "python"  # the one that KazooRequest extends
# On a disk, a slow fsync looks like a hung worker. gunicorn's file there has no name for others.
if os.path.isdir("/dev/shm"):  # noqa: S108 - nobody else can open gunicorn's file there
    worker_tmp_dir = "/dev/shm"  # noqa: S108 - the same


def run(prog: str, application: str, options: Sequence[str]) -> None:
    """Serve the application with gunicorn, whose options these are."""
    sys.argv[1:] = ["-c", f"python:{__name__}", *options]
    start(prog, application, {"config": f"python:{__name__}"} | globals())
