"""Servers whose workers may be killed, and what there is to know of them."""

import os
from collections.abc import Callable
from contextlib import suppress
from glob import glob
from pathlib import Path

from support.folders import world_readable_folder
from support.fronts import ApacheProxy, Front, ModWsgi, Nginx
from support.notes import is_note
from support.receivers import Receiver
from support.waiting import wait_for


class NoFront(Front):
    """A receiver without any server in front of it."""

    def __init__(self, *options: str) -> None:
        self.folder = world_readable_folder()
        self.log_path = self.folder / "error.log"
        self.receiver = Receiver(self.folder, *options, min_free=0)
        self.process = self.receiver.process
        self.port = self.receiver.port
        self.storage = self.receiver.storage


def unbuffered(conf: str) -> str:
    """Let nginx pass on each upload while it comes."""
    before, location, after = conf.partition("location / {\n")
    return f"{before}{location}proxy_request_buffering off;\n{after}"


SERVERS: dict[str, Callable[[], Front]] = {
    "gunicorn alone": lambda: NoFront("--workers=2"),
    "nginx": lambda: Nginx(options=("--workers=2",)),
    "nginx, unbuffered": lambda: Nginx(options=("--workers=2",), edit=unbuffered),
    "nginx with handover": lambda: Nginx(options=("--workers=2",), handover=True),
    "Apache mod_proxy": lambda: ApacheProxy(options=("--workers=2",)),
    "mod_wsgi daemon": ModWsgi,
}


def workers(front: Front) -> list[int]:
    """The processes that store what a front takes."""
    if front.receiver:
        return front.receiver.workers
    children = Path(f"/proc/{front.process.pid}/task/{front.process.pid}/children")
    return [int(pid) for pid in children.read_text().split() if is_daemon(pid)]


def is_daemon(pid: str) -> bool:
    """Whether one of Apache's processes is mod_wsgi's, by the display-name in apache-wsgi.conf."""
    with suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"recordings")
    return False


def pause_between_kills(front: Front) -> tuple[float, float]:
    """Apache looks only once a second whether one of its processes has ended."""
    return (0.1, 0.5) if front.receiver else (0.5, 1.5)


def unfinished(root: Path) -> list[str]:
    """Files below a folder that have no name yet, or a hidden one, as all uploads have at first."""
    nameless = []
    for link in glob("/proc/[0-9]*/fd/*"):  # Path.glob fails where a process ends meanwhile
        with suppress(OSError):  # closed by now
            if (target := os.readlink(link)).startswith(f"{root}/") and " (deleted)" in target:
                nameless.append(f"{link}: {target}")
    hidden = [path for path in root.rglob("*") if "/." in str(path.relative_to(root.parent))]
    return nameless + [str(path) for path in hidden if path.is_file() and not is_note(path.name)]


def settle(front: Front) -> None:
    """Wait until every upload has ended: nginx and the receiver clear up after their answers."""
    wait_for(lambda: not unfinished(front.storage), why="uploads to end")
