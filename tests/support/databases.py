"""Private database servers: the real ones, with a folder and a port of their own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("psycopg")
pytest.importorskip("pymysql")

import psycopg
import pymysql

from support.needs import need
from support.ports import free_port
from support.waiting import wait_for

PASSWORD = "s3cret-p@ss/word"


class Server:
    """A database server that is started at once; `close` stops it and removes its folder."""

    scheme: str
    admin: str
    system_user: str

    def __init__(self) -> None:
        self.programs()  # skips the test where they are missing
        self.folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix=f"{self.scheme}-"))
        self.port = free_port()
        self._numbers = count(1)
        self.process: subprocess.Popen | None = None
        # The servers refuse to run as root.
        self._as_user = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam(self.system_user)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        try:
            self.create()
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def programs(self) -> list[str]:
        raise NotImplementedError

    def create(self) -> None:
        """Make the server's files."""
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def execute(self, statement: str) -> None:
        """Execute one statement as the server's administrator."""
        raise NotImplementedError

    def run(self, *command: object) -> None:
        subprocess.run(
            [str(part) for part in command],
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
            **self._as_user,
        )

    def start(self) -> None:
        assert self.process is None
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, stdout=log, stderr=log, **self._as_user
            )
        wait_for(self._answers, 60, "the database server to start")

    def _answers(self) -> bool:
        assert self.process and self.process.poll() is None, (self.folder / "log").read_text()
        try:
            self.execute("SELECT 1")
        except (psycopg.OperationalError, pymysql.err.OperationalError):
            return False
        return True

    def _end(self, number: signal.Signals) -> None:
        if self.process:
            self.process.send_signal(number)
            self.process.wait(300)  # a busy disk takes its time
            self.process = None

    def stop(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        """End the server as a crash does: nothing is written out."""
        raise NotImplementedError

    def restart(self) -> None:
        self.stop()
        self.start()

    def processes(self) -> list[int]:
        """The server's processes, those that work for clients too."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]

    def pause(self) -> None:
        """Stop answering, with every connection left open."""
        for process in self.processes():
            os.kill(process, signal.SIGSTOP)

    def resume(self) -> None:
        for process in self.processes():
            os.kill(process, signal.SIGCONT)

    def url(self, database: str, password: str = PASSWORD) -> str:
        secret = quote(password, safe="")
        return f"{self.scheme}://{self.admin}:{secret}@127.0.0.1:{self.port}/{database}"

    def new_url(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)


class PostgreSQL(Server):
    scheme = "postgresql"
    admin = "postgres"
    system_user = "postgres"

    def programs(self) -> list[str]:
        return [_postgresql_program(name) for name in ("initdb", "postgres")]

    def create(self) -> None:
        (self.folder / "password").write_text(PASSWORD)
        os.chmod(self.folder / "password", 0o644)
        initdb, data = self.programs()[0], self.folder / "data"
        self.run(
            *(initdb, "--no-sync", "--auth=scram-sha-256", "--username=postgres"),
            *("--encoding=UTF8", "--locale=C", "--pwfile", self.folder / "password", data),
        )

    def command(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "shared_buffers": "32MB",
            "max_connections": 100,
            "deadlock_timeout": "50ms",  # for which it waits before it looks for one
            "recovery_init_sync_method": "syncfs",  # after a crash, file by file takes long
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self.programs()[1], "-D", str(self.folder / "data"), *options]

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5) as admin:
            admin.execute(statement)

    def stop(self) -> None:
        self._end(signal.SIGINT)  # its clients need not go first

    def kill(self) -> None:
        self._end(signal.SIGQUIT)  # what a SIGKILL would leave are its children


class MariaDB(Server):
    scheme = "mysql"
    admin = "root"
    system_user = "mysql"

    def programs(self) -> list[str]:
        return [need("mariadb-install-db"), need("mariadbd")]

    def create(self) -> None:
        (self.folder / "init.sql").write_text(
            f"ALTER USER root@localhost IDENTIFIED BY '{PASSWORD}';\n"
        )
        self.run(
            *(self.programs()[0], "--no-defaults", "--auth-root-authentication-method=normal"),
            *("--skip-test-db", "--skip-name-resolve", f"--datadir={self.folder / 'data'}"),
        )

    def command(self) -> list[str]:
        settings = {
            "datadir": self.folder / "data",
            "socket": self.folder / "socket",
            "port": self.port,
            "bind-address": "127.0.0.1",
            "init-file": self.folder / "init.sql",
            "innodb-buffer-pool-size": "64M",
            "max-connections": 100,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self.programs()[1], "--no-defaults", *options]

    def execute(self, statement: str) -> None:
        with pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", password=PASSWORD, connect_timeout=5
        ) as admin:
            admin.cursor().execute(statement)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)


def _postgresql_program(name: str) -> str:
    """Debian has them outside the PATH, by version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else need(name)
