"""Fills disks to the last page and the last inode, and shows that uploads are refused, not lost.

Each case runs a real receiver whose storage, catalog or queue lies on a small tmpfs, or on ext4 in
an image. What must be true in each:

- Every answer is a 2xx or a 507 (503 where the queue of jobs has no room; in front of the handover
  also nginx's own 500, where nginx itself cannot write).
- What was acknowledged is there, identical, and so is each recording that was there before; what
  was refused is not there in part.
- Where the catalog's disk is full, all uploads are taken; the catalog has them all once there is
  room.
- What was enqueued, durably, before the 2xx is in the queue.
- As soon as there is room again uploads succeed, in the same worker, without a restart.

A disk is filled to the page: there is one upload for each number of pages, or inodes, that may be
left, from none to more than enough, so that each write, each link and each new folder comes to be
the one that finds no room. Quotas of users (EDQUOT) are injected by faults.py.

    python tests/proof/full.py                    as root, less than a minute
    python tests/proof/full.py bytes queue        only these cases
"""

import argparse
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from report import tell

from support.clients import Storing
from support.fronts import Nginx
from support.needs import need
from support.notes import MARKER
from support.receivers import Receiver
from support.waiting import wait_for

PAGE = 4096  # bytes
BODY = 25 * PAGE  # and one page for the metadata
STORED = (200, 201)
CATCH_UP = 20  # seconds, of which the catalog waits five between two tries


class Disk:
    """A mounted file system; `filler` is what takes up its room."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.filler = path / "filler"

    @property
    def free(self) -> int:
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Leave `leave` bytes."""
        with self.filler.open("wb") as file:
            if (size := self.free - leave) > 0:
                os.posix_fallocate(file.fileno(), 0, size)

    def fill_inodes(self, leave: int) -> None:
        self.filler.mkdir()
        for number in range(os.statvfs(self.path).f_favail - leave):
            (self.filler / str(number)).touch()

    def empty(self) -> None:
        if self.filler.is_dir():
            shutil.rmtree(self.filler)
        else:
            self.filler.unlink()


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[Disk]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, path], check=True)
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def tmpfs(path: Path, size: str = "3m", inodes: int = 100):
    return mounted(path, "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "tmpfs")


class Sender:
    """Uploads, and compares what is stored with what was acknowledged."""

    def __init__(self, client: Storing, receiver: Receiver, rng: random.Random) -> None:
        self.client = client
        self.workers = receiver.workers
        self.receiver = receiver
        self.random = rng
        self.statuses: Counter[int] = Counter()
        self.sent: set[bytes] = set()
        self.acknowledged: list[tuple[str, bytes]] = []
        self.looked_for = self.found = 0  # of those acknowledged, each time that they are compared
        self.in_catalog = 0
        self.wrong: list[str] = []

    def body(self, size: int = BODY) -> bytes:
        return self.random.randbytes(size)

    def put(self, name: str, body: bytes, *, chunked: bool = False, told: bool = True) -> int:
        folder, _, last = name.rpartition("/")
        query = f"?call_id={name}" if told else ""
        target = f"/kzr/{folder}/call_recording_{last}.mp3{query}"
        self.sent.add(body)
        try:
            status = self.client.put(target, body, chunked=chunked).status
        except OSError as error:
            self.wrong.append(f"no answer for {name}: {error!r}")
            return 0
        self.statuses[status] += 1
        if status in STORED:
            self.acknowledged.append((name, body))
        return status

    def must_put(self, name: str, body: bytes, *, why: str, **how: bool) -> None:
        if (status := self.put(name, body, **how)) not in STORED:
            self.wrong.append(f"{why}: {name} was answered {status}")

    def compare(self, *, is_settled: bool = False) -> None:
        """Look for what was acknowledged; nothing partial may be there.

        Metadata alone may, until the next upload of its name has removed it.
        """
        stored = self.client.stored()
        held = {
            (path.partition("~")[0].removesuffix(".mp3"), data) for path, data in stored.items()
        }
        for name, body in self.acknowledged:
            self.looked_for += 1
            self.found += (name, body) in held
            if (name, body) not in held:
                self.wrong.append(f"acknowledged, and not there: {name}")
        for path, data in stored.items():
            is_hidden = any(part.startswith(".") for part in Path(path).parts)
            if (
                not is_hidden
                and data not in self.sent
                and (is_settled or not is_metadata(path, data))
            ):
                self.wrong.append(f"not whole: {path}, {len(data)} bytes")

    def clear(self) -> None:
        """Compare, and begin anew."""
        self.compare(is_settled=True)
        for path in self.client.storage.iterdir():
            if not path.name.startswith("."):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.acknowledged.clear()

    def remove_half(self) -> None:
        for name, _ in self.acknowledged[::2]:
            (self.client.storage / f"{name}.mp3").unlink()
        del self.acknowledged[::2]

    def result(self, *allowed: int, told: str = "", must: int = 507) -> tuple[str, bool]:
        """The figures, and whether all is well; a case without a `must` has shown nothing."""
        self.compare()
        if self.receiver.workers != self.workers:
            self.wrong.append("the worker was replaced")
        unexpected = set(self.statuses) - {*STORED, *allowed}
        if unexpected:
            self.wrong.append(f"answers {sorted(unexpected)}")
        for line in self.wrong[:10]:
            print(f"  {line}", file=sys.stderr, flush=True)
        stored = sum(self.statuses[status] for status in STORED)
        refused = [f"{n} × {status}" for status, n in sorted(self.statuses.items()) if status > 299]
        figures = (
            f"{', '.join([f'{stored} × 2xx', *refused])}; looked for {self.looked_for:,} times, "
            f"found identical {self.found:,} times; {len(self.wrong)} wrong{told}"
        )
        return figures, bool(not self.wrong and self.found and self.statuses[must])


Case = Callable[[Path, random.Random], tuple[str, bool]]


@contextmanager
def sending(folder: Path, rng: random.Random, **settings: object) -> Iterator[Sender]:
    settings = {"min_free": 0} | settings
    receiver = Receiver(folder, **settings)
    try:
        yield Sender(receiver, receiver, rng)
    finally:
        receiver.stop()


def sweep(sender: Sender, disk: Disk, fill: Callable[[int], None], most: int, name: str) -> None:
    """Supersede a recording, and send a new one into a new folder, with ever more room."""
    for left in range(most + 1):
        for how in {}, {"chunked": True}, {"chunked": True, "told": False}:
            sender.must_put(name, older := sender.body(), why="there is room")
            bodies = {name: sender.body(), "A/B/new": sender.body()}
            fill(left)
            for each, body in bodies.items():
                sender.put(each, body, **how)
            sender.put(name, older, **how)  # a retry, which need not be taken
            sender.compare()
            disk.empty()
            for each, body in bodies.items():
                sender.must_put(each, body, why="there is room again", **how)
            sender.clear()


def disk_bytes(folder: Path, rng: random.Random) -> tuple[str, bool]:
    with tmpfs(folder / "disk") as disk:
        with sending(folder, rng, storage=disk.path / "recordings") as sender:
            sweep(sender, disk, lambda left: disk.fill(left * PAGE), 2 * BODY // PAGE + 6, "X")
            return sender.result(507)


def disk_inodes(folder: Path, rng: random.Random) -> tuple[str, bool]:
    with tmpfs(folder / "disk", inodes=40) as disk:
        with sending(folder, rng, storage=disk.path / "recordings") as sender:
            sweep(sender, disk, disk.fill_inodes, 16, "X")
            return sender.result(507)


def everything(folder: Path, rng: random.Random) -> tuple[str, bool]:
    """The default: catalog and queue are files in the storage's folder."""
    settings = {"catalog": "yes", "on_stored": "/bin/true"}
    with tmpfs(folder / "disk", size="4m") as disk:
        storage = disk.path / "recordings"
        with sending(folder, rng, storage=storage, **settings) as sender:
            for number in range(2 * BODY // PAGE + 6):
                # With names of their own, so that the queue and the catalog grow.
                disk.fill(number * PAGE)
                for chunked in (False, True):
                    sender.put(f"{number}-{chunked}", sender.body(), chunked=chunked)
                sender.compare()
                disk.empty()
                sender.must_put(f"{number}", sender.body(PAGE), why="there is room again")
                sender.wrong += missing_jobs(storage / ".queue.sqlite", sender)
                if number % 4 == 3:
                    wait_for_catalog(storage / ".catalog.sqlite", sender)
                    sender.clear()
            return sender.result(503, 507)


def min_free(folder: Path, rng: random.Random) -> tuple[str, bool]:
    """KZR_MIN_FREE is never touched by uploads that tell their length."""
    with tmpfs(folder / "disk", size="8m") as disk:
        with sending(folder, rng, storage=disk.path / "recordings", min_free="4M") as sender:
            least = disk.free
            for _ in range(3):
                number = 0
                while sender.put(f"{number}", sender.body()) in STORED:
                    least = min(least, disk.free)
                    number += 1
                sender.put("chunked", sender.body(), chunked=True)
                sender.clear()
                sender.must_put("later", sender.body(), why="there is room again")
                sender.clear()
            if least < 4 << 20:
                sender.wrong.append(f"only {least} bytes are free")
            return sender.result(507, told=f", at least {least:,} bytes free")


def file_size(folder: Path, rng: random.Random) -> tuple[str, bool]:
    """RLIMIT_FSIZE makes a real short write of the buffer that crosses it."""
    need("prlimit")
    with sending(folder, rng) as sender:
        (worker,) = sender.workers
        for limit in (0, 1, PAGE, 200_000, 262_144, 299_999):
            bodies = {f"{limit}-{size}": sender.body(size) for size in (limit + 1, 300_000)}
            subprocess.run(["prlimit", f"--pid={worker}", f"--fsize={limit}:"], check=True)
            for name, body in bodies.items():
                for chunked in (False, True):
                    if sender.put(name, body, chunked=chunked) in STORED:
                        sender.wrong.append(f"{len(body)} bytes were stored below {limit}")
            sender.compare()
            subprocess.run(["prlimit", f"--pid={worker}", "--fsize=unlimited:"], check=True)
            for name, body in bodies.items():
                sender.must_put(name, body, why="there is no limit any more")
            sender.clear()
        return sender.result(507)


def catalog(folder: Path, rng: random.Random) -> tuple[str, bool]:
    """The catalog's disk is full from the start, and again later."""
    with tmpfs(folder / "disk", size="1m") as disk:
        file = disk.path / "catalog.sqlite"
        disk.fill()
        with sending(folder, rng, catalog=f"sqlite:///{file}") as sender:
            slowest = 0.0
            for number in range(2):
                for each in range(20):
                    began = time.monotonic()
                    sender.must_put(f"{number}-{each}", sender.body(), why="the storage has room")
                    slowest = max(slowest, time.monotonic() - began)
                wait_for(partial(has_failed, sender.receiver, number + 1))
                disk.empty()
                wait_for_catalog(file, sender)
                if number == 0:
                    disk.fill()
            if slowest > 1:
                sender.wrong.append(f"an upload took {slowest:.1f} s")
            return sender.result(must=201, told=f", {sender.in_catalog} in the catalog later")


def queue(folder: Path, rng: random.Random) -> tuple[str, bool]:
    with tmpfs(folder / "disk", size="1m") as disk:
        file = disk.path / "queue.sqlite"
        settings = {"queue": f"sqlite:///{file}", "on_stored": "/bin/true"}
        with sending(folder, rng, **settings) as sender:
            sender.must_put("before", sender.body(), why="there is room")
            for left in range(12):
                bodies = {f"{left}-{each}": sender.body() for each in range(8)}
                disk.fill(left * PAGE)
                for name, body in bodies.items():
                    sender.put(name, body)
                sender.wrong += missing_jobs(file, sender)
                disk.empty()
                for name, body in bodies.items():
                    sender.must_put(name, body, why="there is room again")
                sender.wrong += missing_jobs(file, sender)
            queued = len(sender.acknowledged) - len(missing_jobs(file, sender))
            told = f", {queued} of {len(sender.acknowledged)} in the queue"
            return sender.result(503, must=503, told=told)


def storage(folder: Path, rng: random.Random) -> tuple[str, bool]:
    """The storage's disk is full while the catalog's and the queue's are not."""
    files = folder / "catalog.sqlite", folder / "queue.sqlite"
    urls = [f"sqlite:///{file}" for file in files]
    settings = {"catalog": urls[0], "queue": urls[1], "on_stored": "/bin/true"}
    with tmpfs(folder / "disk") as disk:
        with sending(folder, rng, storage=disk.path / "recordings", **settings) as sender:
            for number in range(40):
                sender.put(f"{number}", sender.body(), chunked=number % 2 == 1, told=number % 4 > 1)
            stored = {f"{name}.mp3" for name, _ in sender.acknowledged}
            wait_for_catalog(files[0], sender)
            if listed := set(in_catalog(files[0])) - stored:
                sender.wrong.append(f"refused, and in the catalog: {listed}")
            sender.wrong += missing_jobs(files[1], sender)
            sender.clear()
            sender.must_put("later", sender.body(), why="there is room again")
            wait_for_catalog(files[0], sender)
            return sender.result(507)


def ext4(folder: Path, rng: random.Random) -> tuple[str, bool]:
    """An ext4 of 8 MiB, filled with recordings to its last block; then mounted anew."""
    image, mount = folder / "image", folder / "disk"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run([need("mkfs.ext4"), "-q", "-F", "-N", "64", image], check=True)
    with mounted_ext4(image, mount) as disk:
        with sending(folder, rng, storage=disk.path / "recordings") as sender:
            for size in (20 * BODY, BODY, PAGE, 10):  # bytes run out first, inodes last
                for number in range(70):
                    chunked = number % 2 == 1
                    if sender.put(f"{size}-{number}", sender.body(size), chunked=chunked) == 507:
                        if chunked:
                            break
            sender.compare()
            sender.remove_half()
            sender.must_put("later", sender.body(100), why="there is room again")
            # Nothing has a file open between two uploads, of the receiver neither.
            subprocess.run(["umount", mount], check=True)
            subprocess.run(["mount", "-o", "loop", image, mount], check=True)
            return sender.result(507)


def handover(folder: Path, rng: random.Random) -> tuple[str, bool]:
    """nginx writes the bodies into the full disk; it answers 500 where it cannot."""
    front = Nginx(handover=True)
    assert front.receiver
    try:
        marker = (front.storage / MARKER).read_bytes()
        with tmpfs(front.storage) as disk:
            (front.storage / MARKER).write_bytes(marker)  # so that it is the same place
            (front.storage / ".handover").mkdir()
            disk.filler = front.storage / ".filler"
            sender = Sender(front, front.receiver, rng)
            sender.must_put("first", sender.body(), why="there is room")
            sweep(sender, disk, lambda left: disk.fill(left * PAGE), 2 * BODY // PAGE + 6, "X")
            return sender.result(500, 507, must=500)
    finally:
        front.stop()


def mounted_ext4(image: Path, mount: Path):
    return mounted(mount, "-o", "loop", str(image))


def is_metadata(path: str, data: bytes) -> bool:
    """Whether it is metadata, and whole."""
    try:
        return path.endswith(".json") and "call_id" in json.loads(data)
    except ValueError:
        return False


def has_failed(receiver: Receiver, times: int) -> bool:
    """Whether the catalog was found full so many times."""
    return receiver.log.count("it is tried again") >= times


def in_catalog(file: Path) -> list[str]:
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(file)) as database:
        return [path for (path,) in database.execute("select path from catalog2_recordings")]
    return []


def wait_for_catalog(file: Path, sender: Sender) -> None:
    """Until it has all that was acknowledged."""
    wanted = {f"{name}.mp3" for name, _ in sender.acknowledged}
    try:
        wait_for(lambda: wanted <= set(in_catalog(file)), CATCH_UP)
    except AssertionError:
        missing = wanted - set(in_catalog(file))
        sender.wrong.append(f"not in the catalog: {', '.join(sorted(missing))}")
    sender.in_catalog = len(wanted & set(in_catalog(file)))


def missing_jobs(file: Path, sender: Sender) -> list[str]:
    """What is wrong with the queue: acknowledged recordings that are not in it."""
    with closing(sqlite3.connect(file)) as database:
        jobs = {path for (path,) in database.execute("select path from kzr_jobs")}
    missing = [name for name, _ in sender.acknowledged if f"{name}.mp3" not in jobs]
    return [f"acknowledged, and not in the queue: {name}" for name in missing]


CASES: dict[str, tuple[str, Case]] = {
    "bytes": ("storage's disk full, to the page", disk_bytes),
    "inodes": ("storage's disk without inodes, to the inode", disk_inodes),
    "ext4": ("an ext4 of 8 MiB full, of bytes and of inodes, then mounted anew", ext4),
    "min_free": ("less than KZR_MIN_FREE left", min_free),
    "file_size": ("files limited in size (RLIMIT_FSIZE)", file_size),
    "handover": ("storage's disk full, handover from nginx", handover),
    "storage": ("storage's disk full, not the catalog's and the queue's", storage),
    "catalog": ("catalog's disk full, not the storage's", catalog),
    "queue": ("queue's disk full, not the storage's", queue),
    "everything": ("storage, catalog and queue on one full disk", everything),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of the recordings' bytes")
    given = parser.parse_args()
    if unknown := set(given.cases) - set(CASES):
        parser.error(f"no case is called {', '.join(unknown)}: there are {', '.join(CASES)}")
    if os.geteuid() != 0:
        parser.error("mounting needs root")
    print(f"--seed {given.seed}", file=sys.stderr, flush=True)
    rows = []
    for name in given.cases or CASES:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="full-", ignore_cleanup_errors=True) as folder:
            result = CASES[name][1](Path(folder), random.Random(f"{given.seed} {name}"))
        seconds = time.monotonic() - began
        print(f"{name}: {result[0]} ({seconds:.1f} s)", file=sys.stderr, flush=True)
        rows.append((CASES[name][0], *result))
    return 0 if all([tell(*row) for row in rows]) else 1


if __name__ == "__main__":
    sys.exit(main())
