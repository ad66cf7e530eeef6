"""All that touches gunicorn's insides: its worker, its sockets and its parser.

`pyproject.toml` bounds gunicorn's version, and a start with another, in which something that is
used here is missing, ends in one line.
"""

import os
import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .config import load, require_parts
from .core.body import READ_AHEAD
from .errors import SettingError

try:
    from gunicorn.app.wsgiapp import WSGIApplication
    from gunicorn.config import KNOWN_SETTINGS
    from gunicorn.http.message import Request
    from gunicorn.http.parser import RequestParser
    from gunicorn.http.unreader import SocketUnreader
    from gunicorn.util import close_graceful
    from gunicorn.workers.gthread import ThreadWorker

    require_parts(
        "gunicorn",
        {
            Request: ("parse_request_line", "parse", "__init__"),
            RequestParser: ("mesg_class",),
            SocketUnreader: ("max_body_chunk",),
            ThreadWorker: ("handle",),
        },
    )
except (ImportError, SettingError) as error:
    raise SystemExit(f"receiver: {error}: pip install . brings one that fits") from None

HEADER_SECONDS = 10.0


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's gthread: a sync worker is killed when an upload takes longer than its timeout.

    The thread that accepts connections would wait for two seconds until a client closes its own
    end, and meanwhile take nobody else's: the thread that has answered does so in its place.
    """

    def handle(self, conn: Any) -> Any:
        stays = super().handle(conn)
        if not stays:
            with suppress(OSError, NotImplementedError):  # the client went away; TLS has no dup
                close_graceful(conn.sock.dup())
                conn.sock.shutdown(socket.SHUT_RDWR)  # which leaves gunicorn nothing to wait for
        return stays


class PatientSocket:
    """A client's socket whose reads time out, each by itself and all of them together."""

    def __init__(self, client: socket.socket, pause: float, total: float) -> None:
        self._client = client
        self._pause = pause
        self._deadline = time.monotonic() + total
        self._timeout = 0.0

    def recv(self, size: int) -> bytes:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        timeout = min(self._pause, left)
        if timeout != self._timeout:  # setting it takes a system call
            self._client.settimeout(timeout)
            self._timeout = timeout
        return self._client.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class KazooRequest(Request):  # type: ignore[misc]  # gunicorn has no types
    """A request of Kazoo's: callers' names are raw UTF-8 in its target, and bodies are large."""

    body_pause = 30.0
    body_total = 600.0

    def __init__(self, cfg: Any, unreader: Any, peer_addr: Any, req_number: int = 1) -> None:
        client = getattr(unreader.sock, "_client", unreader.sock)
        unreader.sock = PatientSocket(client, HEADER_SECONDS, HEADER_SECONDS)
        super().__init__(cfg, unreader, peer_addr, req_number)
        client.settimeout(None)  # who plays a recording may take a pause
        unreader.sock = PatientSocket(client, self.body_pause, self.body_total)

    def parse(self, unreader: Any) -> Any:
        # As the setting has it, and not cut to gunicorn's own 8190: callers, channel variables and
        # Kazoo's whole document may be in the line, and web servers in front take as much.
        self.limit_request_line = self.cfg.limit_request_line
        return super().parse(unreader)

    def parse_request_line(self, line_bytes: bytes) -> None:
        # What RFC 3986 wants the client to do with these bytes; every check still follows.
        method, *target = line_bytes.split(b" ", 1)
        target = [re.sub(rb"[\x80-\xff]", _percent_encoded, part) for part in target]
        super().parse_request_line(b" ".join([method, *target]))


def _percent_encoded(byte: re.Match[bytes]) -> bytes:
    return b"%%%02X" % ord(byte[0])


def start(prog: str, application: str, settings: Mapping[str, Any]) -> None:
    """Run gunicorn with the command line's options; its help shows what they are otherwise."""
    for setting in KNOWN_SETTINGS:
        if setting.cli and setting.name in settings:
            setting.default = settings[setting.name]
        if setting.name == "wsgi_app":
            setting.default = application
        if setting.name in ("workers", "threads"):  # with none of them, nothing is ever answered
            setting.validator = staticmethod(_at_least_one)
    _Application("%(prog)s [OPTIONS]", prog=prog).run()


class _Application(WSGIApplication):  # type: ignore[misc]  # gunicorn has no types
    def load(self) -> Any:
        try:
            return super().load()
        except SettingError as error:
            if self.cfg.check_config:  # for which gunicorn would show where it was raised
                raise SystemExit(f"Error: {error}") from None
            raise


def _at_least_one(value: Any) -> int:
    if int(value) < 1:
        raise ValueError(f"expected a number from 1 on, not {value}")
    return int(value)


def on_starting(server: Any) -> None:
    """Called by gunicorn before it loads the application."""
    settings = load()
    KazooRequest.body_pause = settings["READ_TIMEOUT"]
    KazooRequest.body_total = settings["BODY_DEADLINE"]
    RequestParser.mesg_class = KazooRequest
    # gunicorn takes a megabyte at a time, and copies it again with each smaller read from that.
    SocketUnreader.max_body_chunk = READ_AHEAD


def child_exit(server: Any, worker: Any) -> None:
    """Called by gunicorn when a worker has ended."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)
