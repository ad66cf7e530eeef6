"""A private Redis, and the worker of jobs as a process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("redis")

import redis

from support.needs import need
from support.paths import PROJECT
from support.ports import free_port
from support.waiting import wait_for


class Redis:
    """A Redis that has each command on disk before it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.client = redis.Redis(port=self.port)
        self._databases = 0
        self.start()

    def start(self) -> None:
        options = {"port": self.port, "dir": self.folder, "bind": "127.0.0.1", "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "always"}
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        with (self.folder / "log").open("ab") as log:
            command = [need("redis-server"), *arguments]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._is_up)

    def _is_up(self) -> bool:
        try:
            return self.client.ping()
        except redis.ConnectionError:
            return False

    def new_url(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        return f"redis://127.0.0.1:{self.port}/{self._databases % 16}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def close(self) -> None:
        self.stop()
        self.client.close()


class Worker:
    """`python -m receiver.jobs` with settings."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.settings = settings
        self.log_path = folder / "worker-log"
        self.start()

    def start(self) -> None:
        environ = {name: value for name, value in os.environ.items() if name[:4] != "KZR_"}
        environ |= {f"KZR_{name.upper()}": str(value) for name, value in self.settings.items()}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "receiver.jobs"],
                cwd=self.folder,
                env=environ | {"PYTHONPATH": str(PROJECT)},
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)
