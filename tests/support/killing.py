"""Workers are killed and connections cut while clients upload; what is there is compared."""

import hashlib
import http.client
import json
import os
import random
import re
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from support.clients import Client, Storing, read_answer
from support.receivers import Receiver
from support.waiting import wait_for

CLIENTS = 6
TRIES = 12
SIZES = [100, 1_000, 5_000, 20_000, 60_000, 700_000]
WEIGHTS = [20, 20, 20, 20, 19, 1]  # mostly small, for many recordings
CUTS = ("FIN", "RST", "half-close")
Least = tuple[int, int, int]  # of uploads that are acknowledged, cuts and kills
LEAST = (50, 20, 10)
Name = tuple[str, str]  # a recording's, without its ending, and the SHA-256 of its bytes


def recording(rng: random.Random, size: int | None = None) -> bytes:
    """Bytes that show whether they are whole: their SHA-256 comes first."""
    if size is None:
        size = rng.choice([0, 100, 5_000, 60_000, 700_000])
    data = rng.randbytes(size)
    return hashlib.sha256(data).digest() + data


def is_whole(data: bytes) -> bool:
    return len(data) >= 32 and hashlib.sha256(data[32:]).digest() == data[:32]


def is_told(digest: str) -> bool:
    """Whether the recording with this SHA-256 is sent with metadata, each time that it is sent."""
    return int(digest, 16) % 2 == 1


class Sender:
    """Uploads until it is told to stop, as Kazoo does: again until it sees a 2xx."""

    def __init__(self, client: Client, number: int, stop: threading.Event, seed: str) -> None:
        self.client = client
        self.random = random.Random(f"{seed} {number}")
        self.number = number
        self.stop = stop
        self.acknowledged: list[Name] = []
        self.tries: Counter[int] = Counter()  # recordings by the tries that they took
        self.cuts: Counter[tuple[str, bool]] = Counter()  # by kind, and whether chunked
        self.refusals: Counter[str] = Counter()  # of whole requests
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            name, body = self.next()
            key = name, hashlib.sha256(body).hexdigest()
            for attempt in range(1, TRIES + 1):
                # A sender's luck must not decide: its last tries are only up against the kills.
                if self.upload(key, body, may_be_cut=attempt <= TRIES // 2):
                    self.acknowledged.append(key)
                    self.tries[attempt] += 1
                    break
                time.sleep(0.05)
            else:
                self.wrong.append(f"not acknowledged in {TRIES} tries: {name}")

    def next(self) -> tuple[str, bytes]:
        """A new name, or one of a few, so that this and other senders supersede recordings."""
        body = recording(self.random, *self.random.choices(SIZES, WEIGHTS))
        folder = self.random.choice(["", "A/", "A/B/"])
        if self.random.random() < 0.25:
            return f"{folder}{self.random.randrange(40)}", body
        return f"{folder}{self.number}-{len(self.acknowledged)}", body

    def upload(self, key: Name, body: bytes, *, may_be_cut: bool) -> bool:
        """Send one request, perhaps cut short; return whether it was acknowledged."""
        name, digest = key
        folder, _, last = name.rpartition("/")
        query = f"?call_id={digest}" if is_told(digest) else ""
        head = f"PUT /kzr/{folder}/call_recording_{last}.mp3{query} HTTP/1.1\r\nHost: x\r\n"
        if chunked := self.random.random() < 0.5:
            chunks = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
            data = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()
            data += b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
            last_bytes = b"0\r\n\r\n"  # without which nobody can know that it is whole
        else:
            data = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1]
            last_bytes = body[-1:]
        try:
            with self.client.connect() as sock:
                if may_be_cut and self.random.random() < 0.3:
                    self.cut(sock, data[: self.random.randint(0, len(data))], chunked)
                    return False
                sock.sendall(data + last_bytes)
                answer = read_answer(sock)
        except (OSError, http.client.HTTPException) as error:  # the worker was killed
            self.refusals[type(error).__name__] += 1
            return False
        if answer.status in (200, 201):
            return True
        self.refusals[str(answer.status)] += 1
        return False

    def cut(self, sock: socket.socket, data: bytes, chunked: bool) -> None:
        kind = self.random.choice(CUTS)
        self.cuts[kind, chunked] += 1
        sock.sendall(data)
        if self.random.random() < 0.5:  # let the server begin: an RST takes back what it has not
            time.sleep(0.01)
        if kind == "RST":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif kind == "half-close":  # only the sending side, and wait for what comes
            sock.shutdown(socket.SHUT_WR)
            if sock.recv(12).startswith(b"HTTP/1.1 2"):
                self.wrong.append(f"cut, yet acknowledged: {data[:80]!r}, {len(data)} bytes")


class Scanner:
    """Looks at every file in the storage, all the time, for one that is not whole.

    Not at hidden ones, which are no recordings and which nobody can read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stop = threading.Event()
        self.seen: set[tuple[str, int]] = set()
        self.scans = 0
        self.partial: list[str] = []

    def run(self) -> None:
        while not self.stop.wait(0.002):  # or else the senders hardly get to run
            self.look_below(str(self.root))
            self.scans += bool(self.seen)

    def look_below(self, folder: str) -> None:
        for entry in os.scandir(folder):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                self.look_below(entry.path)
            elif (file := (entry.path, entry.inode())) not in self.seen:
                with suppress(FileNotFoundError):  # it has another name by now
                    data = Path(entry.path).read_bytes()
                    self.seen.add(file)
                    if not (is_json if entry.name.endswith(".json") else is_whole)(data):
                        self.partial.append(entry.path)


def is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def upload_cut_and_kill(
    server: Client,
    workers: Callable[[], list[int]],
    scanner: Scanner,
    seconds: float,
    pause: tuple[float, float] = (0.1, 0.5),
    seed: str = "",
    clients: int = CLIENTS,
    goes_on: Callable[[list[Sender], int], bool] = lambda senders, kills: False,
) -> tuple[list[Sender], int]:
    """Upload, cut, scan, and kill a worker after each pause; return what was sent and the kills.

    This takes the seconds, and longer while `goes_on`, by what was sent and the kills.
    """
    stop = threading.Event()
    senders = [Sender(server, number, stop, seed) for number in range(clients)]
    rng = random.Random(seed)
    killed: set[int] = set()

    def acknowledged() -> int:
        return sum(len(sender.acknowledged) for sender in senders)

    def has(many: int) -> bool:
        return acknowledged() >= many

    with ThreadPoolExecutor(clients + 1) as pool:
        sending = [pool.submit(sender.run) for sender in senders]
        scanning = pool.submit(scanner.run)
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end or goes_on(senders, len(killed)):
                before = acknowledged()
                if alive := [worker for worker in workers() if worker not in killed]:
                    worker = rng.choice(alive)
                    with suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
                        killed.add(worker)
                time.sleep(rng.uniform(*pause))
                # However slowly workers start, some of what they get has to get through.
                wait_for(partial(has, before + clients), 60, "uploads between two kills")
        finally:
            stop.set()
            for future in sending:
                future.exception()
            scanner.stop.set()
    for future in (*sending, scanning):
        future.result()
    return senders, len(killed)


def is_more(senders: list[Sender], kills: int, least: Least) -> bool:
    acknowledged = sum(len(sender.acknowledged) for sender in senders)
    cuts = sum(sender.cuts.total() for sender in senders)
    return acknowledged > least[0] and cuts > least[1] and kills > least[2]


def up_to(least: Least) -> Callable[[list[Sender], int], bool]:
    """What goes on until there is more than the least of everything, for a minute at most."""
    end = time.monotonic() + 60
    return lambda senders, kills: not is_more(senders, kills, least) and time.monotonic() < end


def compare(files: dict[str, bytes], senders: list[Sender]) -> dict[str, list[str]]:
    """What is wrong with the files, by its kind: all that was sent was acknowledged in the end."""
    hidden = [path for path in files if "/." in f"/{path}"]
    files = {path: data for path, data in files.items() if path not in hidden}
    recordings = {path: data for path, data in files.items() if not path.endswith(".json")}
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in recordings.items()}
    held: dict[Name, list[str]] = {}
    for path, digest in digests.items():
        held.setdefault((path.partition("~")[0].removesuffix(".mp3"), digest), []).append(path)
    tells = {  # what lies beside a recording, and belongs to it and no other
        path.removesuffix(".json"): json.loads(data)["call_id"] if is_json(data) else ""
        for path, data in files.items()
        if path.endswith(".json")
    }
    acknowledged = [each for sender in senders for each in sender.acknowledged]
    names = {name for name, _ in acknowledged}
    return {
        "lost": [name for name, digest in acknowledged if (name, digest) not in held]
        + [name for name in names if f"{name}.mp3" not in recordings],
        "partial": [path for path, data in recordings.items() if not is_whole(data)],
        "never sent": [path for key in held.keys() - {*acknowledged} for path in held[key]],
        # An unfinished step of superseding is one too: its sender has come back since.
        "left over": hidden + [path for path in files if re.search(r"~new|\.(keep|gone)$", path)],
        "wrong metadata": [path for path in tells if tells[path] != digests.get(path)]
        + [
            key[0]
            for key in acknowledged
            if is_told(key[1]) and not any(path in tells for path in held.get(key, []))
        ],
        "wrong answers": [wrong for sender in senders for wrong in sender.wrong],
    }


def hammer(receiver: Receiver, scanner: Scanner, seconds: float) -> tuple[list[Sender], int]:
    """Upload, cut, kill and scan for some seconds; return what was sent and the kills."""
    senders, kills = upload_cut_and_kill(
        receiver, lambda: receiver.workers, scanner, seconds, goes_on=up_to(LEAST)
    )
    assert scanner.partial == []
    return senders, kills


def check_nothing_is_lost(
    server: Storing, senders: list[Sender], kills: int, least: Least = LEAST
) -> None:
    """What was acknowledged is there, whole, and with what was told of it."""
    wrong = compare(server.files(), senders)
    assert not any(wrong.values()), wrong
    acknowledged = sum(len(sender.acknowledged) for sender in senders)
    cuts = sum(sender.cuts.total() for sender in senders)
    most = max(max(sender.tries) for sender in senders)
    print(f"{acknowledged} acknowledged, {cuts} cut, {kills} kills, at most {most} tries")
    assert is_more(senders, kills, least)
