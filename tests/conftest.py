"""Real servers for the tests: nothing here stands in for the receiver or for a client of it."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    import backends
    import buckets
    import databases

PROJECT = Path(__file__).parent.parent
WIRE = Path(__file__).parent / "data" / "wire"
T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 20.0, why: str = "") -> T:
    """Return the condition's first true result; fail if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {why or condition}"
        time.sleep(0.01)
    return result


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]


def need(program: str) -> str:
    """Return the program's path; without it, a test skips, except on CI, where it fails."""
    if path := shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
        return path
    message = f"{program} is not installed: see the list of packages in tests/run.sh"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def need_root() -> None:
    if os.geteuid() != 0:
        assert os.environ.get("CI") != "true", "run the tests as root on CI"
        pytest.skip("mounting and tracing need root")


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

    def files(self) -> dict[str, bytes]:
        """Every file below the storage, hidden ones too."""
        found: dict[str, bytes] = {}
        for path in sorted(self.storage.rglob("*")):
            if path.is_file() and not path.is_symlink():
                with suppress(FileNotFoundError):  # nginx has removed its own name meanwhile
                    found[str(path.relative_to(self.storage))] = path.read_bytes()
        return found

    def clear(self) -> None:
        for entry in self.storage.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


class Receiver(Storing):
    """A running receiver: `python app.py` with settings and gunicorn's options."""

    def __init__(self, folder: Path, *options: str, **settings: object) -> None:
        self.folder = folder
        self.storage = Path(str(settings.get("storage", folder / "recordings")))
        self.port = free_port()
        self.socket = folder / "socket"
        self.log_path = folder / "log"
        environ = {name: value for name, value in os.environ.items() if name[:4] != "KZR_"}
        environ |= {f"KZR_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, str(PROJECT / "app.py"), f"--bind=127.0.0.1:{self.port}"]
        command.append(f"--bind=unix:{self.socket}")
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--workers=1", *options],
                cwd=folder,
                env=environ,
                stdout=log,
                stderr=log,
            )
        wait_for(self._is_up, why="the receiver to start")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log
        if "Booting worker" not in self.log:
            return False
        with closing(socket.socket()) as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def log_line(self) -> str:
        """The latest request's line in the log."""
        return wait_for(lambda: [line for line in self.log.splitlines() if " name=" in line])[-1]

    @property
    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


class SharedReceiver(Receiver):
    """A receiver whose storage is elsewhere; `look` returns every file there."""

    def __init__(self, folder: Path, look: Callable[[], dict[str, bytes]], *options, **settings):
        super().__init__(folder, *options, **settings)
        self.files = look


@pytest.fixture(scope="session")
def postgresql() -> Iterator["databases.PostgreSQL"]:
    """A private PostgreSQL for the whole run."""
    from databases import PostgreSQL

    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator["databases.MariaDB"]:
    """A private MariaDB for the whole run."""
    from databases import MariaDB

    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory) -> Iterator["buckets.Rclone"]:
    """A private S3 server for the whole run, which keeps its files when it is restarted."""
    from buckets import Rclone

    server = Rclone(tmp_path_factory.mktemp("rclone"))
    yield server
    server.stop()


@pytest.fixture(params=["directory", "s3", "postgresql", "mariadb"])
def backend(request, tmp_path, monkeypatch) -> "backends.Backend":
    """Each kind of storage, empty."""
    from backends import S3, Backend, Database

    folder = tmp_path / "machines"
    folder.mkdir()
    if request.param == "directory":
        return Backend(str(tmp_path / "recordings"), folder)
    if request.param == "s3":
        server = request.getfixturevalue("rclone")
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        return S3(server, folder)
    return Database(request.getfixturevalue(request.param), folder)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    """Start receivers with other options or settings than the shared one's."""
    with ExitStack() as stack:

        def start_receiver(*options: str, **settings: object) -> Receiver:
            folder = tmp_path / f"receiver-{free_port()}"
            folder.mkdir()
            server = Receiver(folder, *options, **settings)
            stack.callback(server.stop)
            return server

        yield start_receiver


@pytest.fixture(scope="session", params=["gthread", "sync"])
def each_worker(request, tmp_path_factory) -> Iterator[Receiver]:
    """One receiver for the whole run with each kind of gunicorn's workers."""
    folder = tmp_path_factory.mktemp(request.param)
    server = Receiver(
        folder,
        *(["--worker-class=sync"] if request.param == "sync" else []),  # the other is the default
        read_timeout=1,
        body_deadline=3,
        max_bytes="30M",
        readers="kazoo:secret",
    )
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Iterator[Receiver]:
    """One receiver for the whole run, with no settings."""
    server = Receiver(tmp_path_factory.mktemp("shared"))
    yield server
    server.stop()


@pytest.fixture
def receiver(shared: Receiver) -> Receiver:
    """The shared receiver with an empty storage."""
    shared.clear()
    return shared


@pytest.fixture
def worker(each_worker: Receiver) -> Receiver:
    """A receiver of each kind of worker, with an empty storage, short timeouts, 30 MiB at most."""
    each_worker.clear()
    return each_worker
