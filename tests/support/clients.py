"""Clients of the servers under test."""

import http.client
import json
import shutil
import socket
from contextlib import closing, suppress
from pathlib import Path

from support.notes import MARKER, is_note


class Answer:
    """A response: its status, headers and body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.text = self.body.decode("latin-1")

    @property
    def line(self) -> str:
        """The body, which must be one line of plain text."""
        assert self.headers.get_content_type() == "text/plain"
        assert self.text.endswith("\n") and self.text.count("\n") == 1, self.text
        return self.text[:-1]


def read_answer(sock: socket.socket) -> Answer:
    with closing(http.client.HTTPResponse(sock)) as response:
        response.begin()
        return Answer(response)


class Client:
    """Talks to a server on a port of this machine."""

    port: int

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def raw(self, data: bytes, *, end: bool = False) -> Answer:
        """Send bytes as they are, then end the sending side or not; return the answer."""
        with self.connect() as sock:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
            return read_answer(sock)

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        chunked: bool = False,
    ) -> Answer:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            elif body is not None and "Content-Length" not in (headers or {}):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body, encode_chunked=chunked)
            return Answer(connection.getresponse())

    def put(self, target: str, body: bytes = b"audio", **kwargs) -> Answer:
        return self.request("PUT", target, body, **kwargs)


class Storing(Client):
    """A server whose storage is a directory here."""

    storage: Path

    def stored(self) -> dict[str, bytes]:
        """The recordings below the storage, and every other file but their metadata."""
        files = self.files()
        return {path: data for path, data in files.items() if path[:-5] not in files}

    def metadata(self, path: str) -> dict[str, object]:
        return json.loads((self.storage / f"{path}.json").read_text())

    def files(self, below: str = "") -> dict[str, bytes]:
        """Every file below the storage, or a folder of it, hidden ones too."""
        found: dict[str, bytes] = {}
        for path in sorted((self.storage / below).rglob("*")):
            if path.is_file() and not path.is_symlink() and not is_note(path.name):
                with suppress(FileNotFoundError):  # nginx has removed its own name meanwhile
                    found[str(path.relative_to(self.storage))] = path.read_bytes()
        return found

    def clear(self) -> None:
        for entry in self.storage.iterdir():
            if entry.name == MARKER:
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
