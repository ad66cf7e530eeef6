"""`kazoo-receiver` as it is installed, and a service's settings, storage and user."""

import os
import pwd
import subprocess
from pathlib import Path

from support.fronts import installed
from support.needs import need_root
from support.notes import MARKER

USER = "www-data"


def shell(*arguments: object, cwd: Path | str = "/", stdout=subprocess.PIPE, **environ: object):
    """Run `kazoo-receiver`; it finds nothing in the environment but `environ`."""
    program = installed() / ".venv" / "bin" / "kazoo-receiver"
    return subprocess.run(
        [program, *map(str, arguments)],
        cwd=cwd,
        env={"PATH": os.environ["PATH"]} | {name: str(value) for name, value in environ.items()},
        input="",
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )


class Service:
    """A service's storage, which is its user's, and its settings, which are root's."""

    def __init__(self, folder: Path) -> None:
        need_root()
        self.folder = folder
        self.storage = folder / "recordings"
        self.storage.mkdir(0o750)
        self.uid = pwd.getpwnam(USER).pw_uid
        os.chown(self.storage, self.uid, pwd.getpwnam(USER).pw_gid)
        self.record(MARKER, about="")
        self.settings = folder / "settings.env"
        self.write(f"KZR_STORAGE='{self.storage}'")

    def write(self, *lines: str) -> None:
        self.settings.write_text("".join(f"{line}\n" for line in lines))
        self.settings.chmod(0o600)

    def add(self, *lines: str) -> None:
        self.write(*self.settings.read_text().splitlines(), *lines)

    def record(self, name: str = "abc.mp3", about: str = "") -> None:
        """Store a recording as the service does."""
        for path, text in ((name, "audio"), (f"{name}.json", about)):
            if text:
                (self.storage / path).write_text(text)
                (self.storage / path).chmod(0o640)
                os.chown(self.storage / path, self.uid, pwd.getpwnam(USER).pw_gid)

    def make_queue(self) -> None:
        """Make the queue of jobs as the service does."""
        url = f"sqlite:///{self.storage}/.queue.sqlite"
        code = f"from receiver.jobs.queue import Queue; Queue({url!r}, 'KZR_QUEUE').prepare()"
        subprocess.run(
            [installed() / ".venv" / "bin" / "python", "-c", code],
            cwd="/",
            user=self.uid,
            group=pwd.getpwnam(USER).pw_gid,
            extra_groups=[],
            check=True,
        )

    def run(self, *arguments: object, **environ: object):
        return shell("--env", self.settings, *arguments, **environ)

    def owners(self) -> set[int]:
        return {path.stat().st_uid for path in [self.storage, *self.storage.rglob("*")]}
