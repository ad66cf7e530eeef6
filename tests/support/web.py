"""A web server that notes what it is asked, and answers as it is told."""

import socket
import ssl
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace


class Handler(BaseHTTPRequestHandler):
    """Notes requests, and answers as `server.answer` says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(
            SimpleNamespace(path=self.path, headers=self.headers, body=body)
        )
        self.server.answer(self)

    def log_message(self, *args) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request, client_address) -> None:
        pass  # clients hang up where they have waited enough


@contextmanager
def serving(answer=None, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"):
    """A web server; `answer` is a status, or is called to answer."""
    if not callable(answer):
        status = answer or 204
        answer = partial(reply, status=status)
    kind = type(
        "Server",
        (QuietServer,),
        {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET},
    )
    server = kind((host, 0), Handler)
    server.requests, server.answer = [], answer
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.authority = f"{f'[{host}]' if ':' in host else host}:{server.server_port}"
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if status != 204:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
