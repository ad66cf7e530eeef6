"""Servers for fuzz.py, each with its storage in a folder that is watched."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import BinaryIO

from fuzz_requests import TRAPS

from receiver.storage.paths import numbered
from support.fronts import Nginx
from support.receivers import Receiver

OBSTACLE = re.compile(
    rb"could not store: (Not a recording, move it away|No folder, rename it to \S+~"
    rb"|A symbolic link|Is a directory"
    rb"|Operation not permitted|Too many levels of symbolic links): (\S+)\n"
)


@dataclass(frozen=True)
class Watched:
    """A running server whose storage lies in a folder that is watched, with traps in and by it."""

    name: str
    port: int
    master: int  # gunicorn's process
    workers: tuple[int, ...]
    folder: Path  # that the server runs in
    log: Path
    root: Path
    before: dict[str, tuple[int, ...]] = field(default_factory=dict)  # what lay around then

    @property
    def storage(self) -> Path:
        return storage_below(self.root)

    def plant(self) -> None:
        outside = self.root / "outside"
        (outside / "folder").mkdir(parents=True)
        (outside / "file").write_bytes(b"not to be touched")
        (self.storage / "link").symlink_to(outside / "folder")
        (self.storage / "link.mp3").symlink_to(outside / "file")
        (self.storage / "dangling.mp3").symlink_to(outside / "made")
        (self.storage / "folder.mp3").mkdir()
        os.mkfifo(self.storage / "fifo.mp3")
        os.mkfifo(self.root / "fifo.mp3")

    def around(self) -> dict[str, tuple[int, ...]]:
        """All that is not in the storage: what it is, how large, and when it was changed."""
        found: dict[str, tuple[int, ...]] = {name: () for name in os.listdir(self.folder)}
        for folder, folders, files in os.walk(self.root):
            if Path(folder) == self.storage.parent:
                folders.clear()
            for name in [".", *files]:
                status = os.lstat(path := os.path.join(folder, name))
                found[path] = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns)
        return found

    def changed(self) -> list[str]:
        return sorted(dict(self.around().items() ^ self.before.items()))

    def walk(self) -> Iterator[tuple[str, str, int, int]]:
        """All that is in the storage: its path, its name, the folder's descriptor, its mode.

        By descriptors, because a path below the storage may be longer than the system takes.
        """
        at = os.open(self.storage, os.O_RDONLY)
        try:
            for folder, folders, files, here in os.fwalk(".", dir_fd=at):
                for name in (*folders, *files):
                    with suppress(FileNotFoundError):  # it has another name by now
                        mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
                        yield os.path.join(folder, name)[2:], name, here, mode
        finally:
            os.close(at)

    def files(self) -> dict[str, bytes]:
        """Every file in the storage; what is neither file nor folder has no bytes."""
        found = {}
        for path, name, here, mode in self.walk():
            if stat.S_ISREG(mode):
                with open(os.open(name, os.O_RDONLY, dir_fd=here), "rb") as file:
                    found[path] = file.read()
            elif not stat.S_ISDIR(mode) and path not in TRAPS:
                found[path] = b""
        return found

    def holds(self, path: str, body: bytes) -> bool:
        """Whether the body lies at the path, or at one of its numbers if it was superseded."""
        with suppress(FileNotFoundError):
            for number in count():
                with self._open(numbered(path, number)) as file:
                    if file.read() == body:
                        return True
        return False

    def _open(self, path: str) -> BinaryIO:
        """Open a stored file; no part of its path may be a link."""
        at = os.open(self.storage, os.O_RDONLY)
        for part in path.split("/"):
            try:
                inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
            finally:
                os.close(at)
            at = inner
        return open(at, "rb")

    def is_obstructed(self, answer: bytes) -> bool:
        """Whether what a 500 blames does stand in the way."""
        blamed = OBSTACLE.fullmatch(answer)
        for _, name, _, mode in self.walk() if blamed else ():
            if name == blamed[2].decode():
                # A file is only in a folder's way.
                if not stat.S_ISREG(mode) or blamed[1].startswith(b"No folder"):
                    return True
        return False

    def memory(self) -> int:
        """The bytes that the workers hold and share with nobody."""
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.workers]
        return sum(
            int(re.search(r"^Pss_Anon: +(\d+) kB", rollup, re.M)[1]) * 1024 for rollup in rollups
        )

    def has_its_workers(self) -> bool:
        children = Path(f"/proc/{self.master}/task/{self.master}/children").read_text()
        return tuple(map(int, children.split())) == self.workers


def storage_below(root: Path) -> Path:
    return root / "one" / "two" / "recordings"


def start(name: str, folder: Path, stack: ExitStack) -> Watched:
    """Start "gunicorn", or "nginx" or "handover" before it, with its storage below `folder`."""
    root = folder / "watched"
    storage_below(root).mkdir(parents=True)
    folder.chmod(0o755)
    configured = {
        "storage": storage_below(root),
        "readers": "kazoo:secret",
        "max_bytes": "1M",
        "min_free": 0,
        "read_timeout": 5,
    }
    if name == "gunicorn":
        (folder / "server").mkdir()
        server = receiver = Receiver(folder / "server", **configured)
    else:
        # nginx writes its temporary files into a folder of its own.
        server = Nginx(handover=name == "handover", **configured)
        receiver = server.receiver
    stack.callback(server.stop)
    watched = Watched(
        name,
        server.port,
        receiver.process.pid,
        tuple(receiver.workers),
        receiver.folder,
        receiver.log_path,
        root,
    )
    watched.plant()
    watched.before.update(watched.around())
    return watched
