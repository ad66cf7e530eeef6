"""The receiver as a process, as it is started in production."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from support.clients import Storing
from support.paths import PROJECT
from support.ports import free_port
from support.waiting import wait_for


def is_ready(worker: int) -> bool:
    """Whether gunicorn's worker has handlers of its own: before, a SIGTERM to it is lost."""
    with suppress(FileNotFoundError):  # it has ended
        status = Path(f"/proc/{worker}/status").read_text()
        caught = int(re.search(r"^SigCgt:\s+(\w+)", status, re.M)[1], 16)
        return bool(caught >> signal.SIGABRT - 1 & 1)  # the last that it sets; no master has one
    return False


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
        given = [option for option in options if option.startswith("--workers=")]
        self._count = int(given[-1].partition("=")[2]) if given else 1
        wait_for(self._is_up, 60, why="the receiver to start")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log
        if self.log.count("Booting worker") < self._count or not all(map(is_ready, self.workers)):
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
        return self.process.wait(60)


class SharedReceiver(Receiver):
    """A receiver whose storage is elsewhere; `look` returns every file there."""

    def __init__(self, folder: Path, look: Callable[..., dict[str, bytes]], *options, **settings):
        super().__init__(folder, *options, **settings)
        self.files = look
