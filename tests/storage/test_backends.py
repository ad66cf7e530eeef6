"""What every storage keeps under a real load: nothing is lost, and memory stays as it is."""

import http.client
import random
import re
import threading
import time
from pathlib import Path

import pytest

from support.backends import Backend
from support.clients import read_answer
from support.fronts import NginxServer
from support.killing import Scanner, check_nothing_is_lost, hammer, is_whole, recording
from support.memory import MIB, send
from support.receivers import SharedReceiver
from support.waiting import wait_for
from support.wire import captures, check

READERS = "kazoo:secret"
SECONDS = 4


@pytest.fixture
def run(backend, request):
    """Start receivers on the storage."""

    def start(*options: str, **settings: object) -> SharedReceiver:
        server = backend.receiver(*options, **settings)
        request.addfinalizer(server.stop)
        return server

    return start


def test_every_capture_is_stored_and_read_back(run):
    receiver = run(readers=READERS, max_bytes="30M")
    for number, capture in enumerate(captures()):
        # Under folders of their own, as most of them have the same name.
        check(receiver, capture, folder=f"capture-{number}")


class StorageScanner(Scanner):
    """Looks at all that readers may see, over and over."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(Path())
        self.backend = backend

    def run(self) -> None:
        while not self.stop.wait(1):
            for path, data in self.backend.files().items():
                if not path.endswith(".json") and not is_whole(data):
                    self.partial.append(path)


def test_no_acknowledged_recording_is_lost_when_workers_are_killed(run, backend):
    receiver = run("--workers=2")
    senders, kills = hammer(receiver, StorageScanner(backend), SECONDS)
    check_nothing_is_lost(receiver, senders, kills)


class Memory(threading.Thread):
    """Watches the most memory that a process has of its own; mapped files are not counted."""

    def __init__(self, process: int) -> None:
        super().__init__()
        self.process = process
        self.peak = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.02):
            self.peak = max(self.peak, self.now())

    def now(self) -> int:
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024


def test_memory_does_not_grow_with_the_recording(run, backend):
    large = 256 * MIB
    receiver = run("--threads=1", readers=READERS)
    (worker,) = receiver.workers
    assert receiver.put("/kzr/small.mp3").status == 201
    memory = Memory(worker)
    before = memory.now()
    memory.start()
    assert send(receiver, "large.mp3", large, chunked=False) == 201
    size = read_whole(receiver, "large.mp3")
    memory.stop.set()
    memory.join()
    print(f"{(memory.peak - before) / MIB:.1f} MiB more")
    assert size == large
    assert memory.peak - before < 16 * MIB
    assert receiver.workers == [worker]


def read_whole(receiver: SharedReceiver, name: str) -> int:
    """Read a recording and count its bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=600)
    headers = {"Authorization": "Basic a2F6b286c2VjcmV0"}
    connection.request("GET", f"/kzr/{name}", headers=headers)
    answer = connection.getresponse()
    size = 0
    while data := answer.read(MIB):
        size += len(data)
    connection.close()
    return size


@pytest.mark.parametrize("backend", ["s3", "postgresql", "mariadb"], indirect=True)
def test_two_receivers_share_a_storage_that_is_restarted(run, backend):
    """nginx in front of two; each retry goes to the other; the server behind restarts once."""

    def acknowledged() -> int:
        return sum(len(sender.acknowledged) for sender in senders)

    machines = [run("--workers=1"), run("--workers=1")]
    front = TwoMachines(*machines)
    try:
        stop = threading.Event()
        senders = [RetryingSender(front, number, stop) for number in range(6)]
        for sender in senders:
            sender.start()
        wait_for(lambda: acknowledged() > 100, 60)
        backend.restart()
        many = acknowledged() + 100
        wait_for(lambda: acknowledged() > many, 60)
        stop.set()
        for sender in senders:
            sender.join()
    finally:
        front.stop()
    files = backend.files()
    sent = {path: body for sender in senders for path, body in sender.acknowledged.items()}
    failures = sum(sender.failures for sender in senders)
    print(f"{len(sent)} acknowledged, {failures} failed tries, 2 requests each at least")
    assert {path: data for path, data in files.items() if path in sent} == sent  # none lost
    assert sorted(files) == sorted(sent)  # and none twice


class TwoMachines(NginxServer):
    """nginx that sends a request to the machine that its header names."""

    def __init__(self, one: SharedReceiver, other: SharedReceiver) -> None:
        super().__init__()
        self.serve(
            "root",
            f"""
            map $http_x_machine $machine {{ 0 {one.port}; default {other.port}; }}
            server {{
                listen 127.0.0.1:{self.port};
                client_max_body_size 0;
                location / {{ proxy_pass http://127.0.0.1:$machine; }}
            }}
            """,
        )


class RetryingSender(threading.Thread):
    """Sends each recording until it is acknowledged, and once more: its answer was lost."""

    def __init__(self, front: TwoMachines, number: int, stop: threading.Event) -> None:
        super().__init__()
        self.front = front
        self.number = number
        self.stop = stop
        self.random = random.Random(number)
        self.acknowledged: dict[str, bytes] = {}
        self.failures = 0

    def run(self) -> None:
        count = 0
        while not self.stop.is_set():
            count += 1
            path, body = f"{self.number}/{count}.mp3", recording(self.random)
            for machine in (0, 1):  # the second is a retry
                while not self.send(path, body, machine):
                    self.failures += 1
                    machine = 1 - machine
                    time.sleep(0.1)
            self.acknowledged[path] = body

    def send(self, path: str, body: bytes, machine: int) -> bool:
        with self.front.connect() as sock:
            head = f"PUT /kzr/{path} HTTP/1.1\r\nHost: x\r\nX-Machine: {machine}\r\n"
            sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = read_answer(sock)
        assert answer.status in (200, 201, 502, 503), answer.text
        if answer.status == 503:
            assert answer.headers["Retry-After"] == "10"
        return answer.status < 300
