"""Workers are killed and connections cut while clients upload: what was acknowledged is there."""

import hashlib
import http.client
import json
import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from conftest import Client, Receiver, read_answer

SECONDS = 12
CLIENTS = 6
TRIES = 12


def recording(rng: random.Random) -> bytes:
    """Bytes that show whether they are whole: their SHA-256 comes first."""
    data = rng.randbytes(rng.choice([0, 100, 5_000, 60_000, 700_000]))
    return hashlib.sha256(data).digest() + data


def is_whole(data: bytes) -> bool:
    return len(data) >= 32 and hashlib.sha256(data[32:]).digest() == data[:32]


class Sender(threading.Thread):
    """Uploads until it is told to stop, as Kazoo does: again until it sees a 2xx."""

    def __init__(self, client: Client, number: int, stop: threading.Event) -> None:
        super().__init__()
        self.client = client
        self.random = random.Random(number)
        self.number = number
        self.stop = stop
        self.acknowledged: list[tuple[str, bytes]] = []
        self.tries: Counter[int] = Counter()
        self.cuts = 0

    def run(self) -> None:
        while not self.stop.is_set():
            # Few names, so that recordings supersede each other's, of this and other senders.
            name = f"{self.random.choice(['', 'A/', 'A/B/'])}{self.random.randrange(40)}.mp3"
            body = recording(self.random)
            for attempt in range(1, TRIES + 1):
                # A sender's luck must not decide: its last tries are only up against the kills.
                if self.upload(name, body, may_be_cut=attempt <= TRIES // 2):
                    self.acknowledged.append((name, body))
                    self.tries[attempt] += 1
                    break
                time.sleep(0.05)
            else:
                raise AssertionError(f"not acknowledged in {TRIES} tries: {name}")

    def upload(self, name: str, body: bytes, *, may_be_cut: bool) -> bool:
        """Send one request, perhaps cut short; return whether it was acknowledged."""
        folder, _, last = name.rpartition("/")
        query = self.random.choice(["", f"?call_id={hashlib.sha256(body).hexdigest()}"])
        head = f"PUT /kzr/{folder}/call_recording_{last}{query} HTTP/1.1\r\nHost: x\r\n"
        if self.random.random() < 0.5:
            data = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        else:
            chunks = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
            data = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()
            data += b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
            data += b"0\r\n\r\n"
        try:
            with self.client.connect() as sock:
                if may_be_cut and self.random.random() < 0.3:
                    self.cut(sock, data[: self.random.randrange(len(data))])
                    return False
                sock.sendall(data)
                return read_answer(sock).status in (200, 201)
        except (OSError, http.client.HTTPException):  # the worker was killed
            return False

    def cut(self, sock: socket.socket, data: bytes) -> None:
        self.cuts += 1
        sock.sendall(data)
        if self.random.random() < 0.5:  # RST in place of FIN
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif self.random.random() < 0.5:  # only the sending side, and wait for what comes
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(12) not in (b"HTTP/1.1 200", b"HTTP/1.1 201"), "cut, yet acknowledged"


class Scanner(threading.Thread):
    """Looks at every file in the storage, all the time, for one that is not whole."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.stop = threading.Event()
        self.seen: set[int] = set()
        self.partial: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            for path in self.root.rglob("*"):
                with suppress(FileNotFoundError):  # it has another name by now
                    self.look(path)

    def look(self, path: Path) -> None:
        if path.is_file() and (inode := path.stat().st_ino) not in self.seen:
            check = json.loads if path.suffix == ".json" else is_whole
            if check(path.read_bytes()):
                self.seen.add(inode)
            else:
                self.partial.append(str(path))


def hammer(receiver: Receiver, scanner: Scanner, seconds: float) -> tuple[list[Sender], int]:
    """Upload, cut, kill and scan for some seconds; return what was sent and the kills."""
    stop = threading.Event()
    senders = [Sender(receiver, number, stop) for number in range(CLIENTS)]
    rng = random.Random(0)
    kills = 0
    for thread in (*senders, scanner):
        thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.1, 0.5))
        for worker in receiver.workers[:1]:
            os.kill(worker, signal.SIGKILL)
            kills += 1
    stop.set()
    for thread in senders:
        thread.join()
    scanner.stop.set()
    scanner.join()
    assert scanner.partial == []
    return senders, kills


def check_nothing_is_lost(receiver: Receiver, senders: list[Sender], kills: int) -> None:
    """What was acknowledged is there, whole, and with what was told of it."""
    files = receiver.files()
    stored = {path: data for path, data in files.items() if path[:-5] not in files}
    assert [path for path, data in stored.items() if not is_whole(data)] == []
    held = Counter(
        (path.partition("~")[0].removesuffix(".mp3"), data) for path, data in stored.items()
    )
    acknowledged = [each for sender in senders for each in sender.acknowledged]
    lost = [name for name, data in acknowledged if not held[name.removesuffix(".mp3"), data]]
    assert lost == []
    assert [path for path in stored if Path(path).name.startswith(".")] == []  # no leftovers
    # What is told of a recording lies beside that one and no other.
    for path, data in files.items():
        if path.endswith(".json"):
            digest = hashlib.sha256(stored[path.removesuffix(".json")]).hexdigest()
            assert json.loads(data) == {"call_id": digest}

    cuts = sum(sender.cuts for sender in senders)
    most = max(max(sender.tries) for sender in senders)
    print(f"{len(acknowledged)} acknowledged, {cuts} cut, {kills} kills, at most {most} tries")
    assert len(acknowledged) > 100 and cuts > 50 and kills > 20


def test_no_acknowledged_recording_is_lost(start):
    receiver = start("--workers=2", min_free="0")
    senders, kills = hammer(receiver, Scanner(receiver.storage), SECONDS)
    check_nothing_is_lost(receiver, senders, kills)
