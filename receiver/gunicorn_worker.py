"""All that touches gunicorn's insides: its worker, its sockets and its parser.

`pyproject.toml` bounds gunicorn's version, and a start with another, in which something that is
used here is missing, ends in one line.
"""

import os
import re
import selectors
import socket
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .config import load, require_parts
from .core.body import DRAIN_BYTES, DRAIN_SECONDS, LINGERS, READ_AHEAD
from .errors import SettingError

try:
    from gunicorn.app.wsgiapp import WSGIApplication
    from gunicorn.config import KNOWN_SETTINGS
    from gunicorn.http.body import LengthReader
    from gunicorn.http.message import Request
    from gunicorn.http.parser import RequestParser
    from gunicorn.http.unreader import SocketUnreader
    from gunicorn.workers.gthread import ThreadWorker

    require_parts(
        "gunicorn",
        {
            Request: ("parse_request_line", "parse", "should_close", "__init__"),
            RequestParser: ("mesg_class",),
            SocketUnreader: ("max_body_chunk", "take_buffered", "unread"),
            ThreadWorker: (
                "enqueue_req",
                "on_pending_socket_readable",
                "finish_request",
                "murder_pending",
                "load_wsgi",
                "handle",
            ),
        },
    )
except (ImportError, SettingError) as error:
    raise SystemExit(f"receiver: {error}: pip install . brings one that fits") from None

HEAD_SECONDS = 10.0  # for the whole head of a request
LONGEST_HEAD = 64 * 1024  # bytes; Kazoo's have 20 KB at most
ANSWER_SECONDS = 3600.0  # for a reader to take in the whole answer
LINGER_SECONDS = 2.0  # for a client to read an answer and to end the connection
MOST_DISCARDED = 256 * 1024  # bytes at a time
_END_OF_HEAD = b"\r\n\r\n"
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n"
_NO_HTTP = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"  # TLS, for one


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's gthread, of whose threads no client gets one for nothing.

    A request has a thread from when its head is there until it is answered. The loop that accepts
    connections waits for heads, and for clients to read to the end what they were answered while
    they still send. Readers have threads of their own: whoever does not read what was asked for
    keeps no upload waiting.
    """

    wsgi: Any

    def init_process(self) -> None:
        self.readers = ThreadPoolExecutor(self.cfg.threads)
        self.lingering: dict[Any, _Lingering] = {}
        self.answering: dict[Any, float] = {}  # deadlines of readers
        self.looked = 0.0
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        app = self.wsgi

        def lingering(environ: dict[str, Any], start_response: Any) -> Any:
            environ[LINGERS] = not self.cfg.is_ssl
            return app(environ, start_response)

        self.wsgi = lingering

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.readers.shutdown(wait=False)

    def enqueue_req(self, conn: Any) -> None:
        """Give a connection a thread, or wait for the head of its request."""
        if self.cfg.is_ssl:  # which has to be decrypted first
            super().enqueue_req(conn)
            return
        ahead = conn.parser.unreader.take_buffered() if conn.parser else b""
        conn.head = bytearray(ahead)
        if _END_OF_HEAD in ahead:
            self._answer(conn)
            return
        # Who sends a whole head stays here for no time: the oldest of those that wait make room.
        if self.nr_conns > self.worker_connections * 0.9:
            for waiting in (self.pending_conns, self.keepalived_conns):
                if waiting:
                    self._drop(waiting[0], waiting)
                    break
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + HEAD_SECONDS
        self.pending_conns.append(conn)
        ready = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, ready)

    def on_pending_socket_readable(self, conn: Any, client: Any) -> None:
        """Read what has come of a head."""
        if self.cfg.is_ssl:
            super().on_pending_socket_readable(conn, client)
            return
        try:
            data = conn.sock.recv(LONGEST_HEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        searched = max(0, len(conn.head) - len(_END_OF_HEAD) + 1)
        conn.head += data
        if conn.head.find(_END_OF_HEAD, searched) >= 0:
            self.poller.unregister(conn.sock)
            self.pending_conns.remove(conn)
            self._answer(conn)
        elif not data:
            self._drop(conn, self.pending_conns)
        elif len(conn.head) > LONGEST_HEAD or not conn.head[:1].isalpha():
            self.poller.unregister(conn.sock)
            self.pending_conns.remove(conn)
            with suppress(OSError):
                conn.sock.send(_TOO_LONG if len(conn.head) > LONGEST_HEAD else _NO_HTTP)
            self._linger(conn, LINGER_SECONDS)

    def _drop(self, conn: Any, waiting: deque[Any]) -> None:
        """Close a connection that has sent no whole head."""
        self.poller.unregister(conn.sock)
        waiting.remove(conn)
        self.nr_conns -= 1
        conn.close()

    def _answer(self, conn: Any) -> None:
        threads = self.tpool
        if _is_reading(conn.head):
            threads = self.readers
            self.answering[conn] = time.monotonic() + ANSWER_SECONDS
        answer = threads.submit(self.handle, conn)
        answer.add_done_callback(partial(self._answered, conn))

    def _answered(self, conn: Any, answer: Any) -> None:
        self.method_queue.defer(self.finish_request, conn, answer)

    def handle(self, conn: Any) -> Any:
        if not self.cfg.is_ssl:
            conn.data_ready = True
            conn.sock.setblocking(True)
            conn.init()
            conn.parser.unreader.unread(bytes(conn.head))
            conn.head.clear()
        return super().handle(conn)

    def finish_request(self, conn: Any, answer: Any) -> None:
        """Keep a connection for its next request, or let the client read its answer."""
        self.answering.pop(conn, None)
        if self.cfg.is_ssl or not answer.exception() and answer.result():
            super().finish_request(conn, answer)
            return
        request = conn.parser and conn.parser.mesg
        self._linger(conn, LINGER_SECONDS if is_whole(request) else DRAIN_SECONDS)

    def _linger(self, conn: Any, seconds: float) -> None:
        """Let a client read what it was answered, and discard what it still sends."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._discard, conn))
        except (OSError, ValueError):  # the client went away
            self.nr_conns -= 1
            conn.close()
        else:
            self.lingering[conn] = _Lingering(time.monotonic(), seconds)

    def _discard(self, conn: Any, client: Any) -> None:
        """Take in what a client still sends: some do not look for an answer before they have."""
        try:
            size = len(conn.sock.recv(MOST_DISCARDED))
        except BlockingIOError:
            return
        except OSError:
            size = 0
        left = self.lingering[conn]
        left.discarded += size
        if not size or left.discarded > DRAIN_BYTES:
            self._end(conn)

    def _end(self, conn: Any) -> None:
        del self.lingering[conn]
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        """Close what has taken too long; called by gunicorn after all that happens."""
        super().murder_pending()
        now = time.monotonic()
        if now - self.looked < 0.5:
            return
        self.looked = now
        for conn, left in list(self.lingering.items()):
            if now - left.since > (left.seconds if self.alive else LINGER_SECONDS):
                self._end(conn)
        for conn, deadline in list(self.answering.items()):
            if now > deadline:
                with suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)


@dataclass
class _Lingering:
    """A client that was answered: since when, for how long it may stay, and what it sent."""

    since: float
    seconds: float
    discarded: int = 0


def _is_reading(head: bytearray) -> bool:
    """Whether a request with this head may be answered with a recording; strangers get no more
    than a line."""
    return not head.startswith((b"PUT ", b"POST ")) and b"\nauthorization:" in head.lower()


def is_whole(request: Any) -> bool:
    """Whether the body of one of gunicorn's requests was read to its end."""
    body = getattr(request, "body", None)
    if body is None or body.failed:
        return False
    reader = body.reader
    return not (reader.length if isinstance(reader, LengthReader) else getattr(reader, "parser", 1))


class PatientSocket:
    """A client's socket whose reads time out, each by itself and all of them together.

    Each part of an answer has to be taken in as fast.
    """

    def __init__(self, client: socket.socket, pause: float, total: float) -> None:
        self._client = client
        self._pause = pause
        self._deadline = time.monotonic() + total
        client.settimeout(pause)

    def recv(self, size: int) -> bytes:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if left >= self._pause:
            return self._client.recv(size)
        self._client.settimeout(left)
        try:
            return self._client.recv(size)
        finally:
            self._client.settimeout(self._pause)  # for the answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class KazooRequest(Request):  # type: ignore[misc]  # gunicorn has no types
    """A request of Kazoo's: callers' names are raw UTF-8 in its target, and bodies are large."""

    body_pause = 30.0
    body_total = 600.0

    def __init__(self, cfg: Any, unreader: Any, peer_addr: Any, req_number: int = 1) -> None:
        client = getattr(unreader.sock, "_client", unreader.sock)
        unreader.sock = PatientSocket(client, HEAD_SECONDS, HEAD_SECONDS)
        super().__init__(cfg, unreader, peer_addr, req_number)
        unreader.sock = PatientSocket(client, self.body_pause, self.body_total)

    def parse(self, unreader: Any) -> Any:
        # As the setting has it, and not cut to gunicorn's own 8190: callers, channel variables and
        # Kazoo's whole document may be in the line, and web servers in front take as much.
        self.limit_request_line = self.cfg.limit_request_line
        return super().parse(unreader)

    def should_close(self) -> bool:
        # Answered before its body was there: what comes is discarded, not taken for a request.
        return not is_whole(self) or bool(super().should_close())

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
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder and os.path.isdir(folder):
        from .monitoring.ended import locked, put_together

        with suppress(OSError), locked(Path(folder), wait=False) as is_free:
            if is_free:  # else a worker is at it
                put_together(Path(folder))
