"""The worker of jobs and the receiver's workers are killed under load: every hook is called."""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("huey")

from receiver.jobs.work import Jobs
from receiver.storage import open_storage
from support.clients import read_answer
from support.queues import Redis, Worker
from support.receivers import Receiver
from support.storages import parts_of
from support.waiting import wait_for

SECONDS = float(os.environ.get("JOBS_KILL_SECONDS", "6"))
LEAST, LEAST_KILLS = 50, 10  # acknowledged recordings; more of both are waited for
CLIENTS = 3


class Consumer(ThreadingHTTPServer):
    """Takes webhooks, and now and then fails to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.delivered: Counter[tuple[str, str]] = Counter()
        self.random = random.Random(1)
        self.thread = threading.Thread(target=self.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Consumer

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        works = self.server.random.random() > 0.03
        if works:
            self.server.delivered[event["data"]["name"], self.headers["webhook-id"]] += 1
        self.send_response(204 if works else 500)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class Sender(threading.Thread):
    """Sends recordings, each until it is acknowledged."""

    def __init__(self, receiver: Receiver, number: int, stop: threading.Event) -> None:
        super().__init__()
        self.receiver = receiver
        self.number = number
        self.stop = stop
        self.acknowledged: list[str] = []

    def run(self) -> None:
        while not self.stop.wait(0.02):
            path = f"{self.number}/{len(self.acknowledged)}.mp3"
            while not self.send(path, path.encode() * 100):
                time.sleep(0.05)
            self.acknowledged.append(path)

    def send(self, path: str, body: bytes) -> bool:
        try:
            with self.receiver.connect() as sock:
                head = f"PUT /kzr/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                sock.sendall(head.encode() + body)
                return read_answer(sock).status in (200, 201)
        except Exception:  # the worker was killed
            return False


@pytest.fixture(params=["sqlite", "redis"])
def queue(request, tmp_path, tmp_path_factory):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/queue.sqlite"
        return
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server.new_url()
    server.close()


def test_every_acknowledged_recording_has_its_jobs_done(start, tmp_path, queue, monkeypatch):
    monkeypatch.setattr("receiver.jobs.queue.ALIVE", 2)
    monkeypatch.setenv("JOBS_TEST_LOG", str(tmp_path / "commands"))
    consumer = Consumer()
    settings = {
        "storage": tmp_path / "recordings",
        "queue": queue,
        "on_stored": """sh -c 'echo "$RECORDING_NAME" >> "$JOBS_TEST_LOG"'""",
        "webhook_url": f"http://127.0.0.1:{consumer.server_port}/hook",
        "webhook_secret": "secret",
        "webhook_allow_private": "yes",
    }
    receiver = start("--workers=2", **settings)
    worker = Worker(tmp_path, **settings)
    stop = threading.Event()
    senders = [Sender(receiver, number, stop) for number in range(CLIENTS)]
    for sender in senders:
        sender.start()
    kills = kill_at_random(receiver, worker, senders)
    stop.set()
    for sender in senders:
        sender.join()
    acknowledged = {path for sender in senders for path in sender.acknowledged}
    commands = tmp_path / "commands"
    try:
        # Each pause before a retry is three times the last: the fourth ends after 200 seconds.
        wait_for(lambda: acknowledged <= names(consumer), 300, "all webhooks")
        wait_for(lambda: acknowledged <= {*commands.read_text().split()}, 300, "all commands")
        wait_for(lambda: is_done(settings), 300, "an empty queue")
    finally:
        worker.stop()
        consumer.close()
    ids = Counter(name for name, _ in consumer.delivered)
    assert {name for name, count in ids.items() if count > 1} == set()  # one key for each
    run = Counter(commands.read_text().split())
    twice = sum(count > 1 for count in consumer.delivered.values())
    print(
        f"{len(acknowledged)} acknowledged, {kills} kills; delivered twice: {twice} webhooks, "
        f"{sum(count > 1 for count in run.values())} commands"
    )
    assert len(acknowledged) > LEAST and kills > LEAST_KILLS
    assert twice <= kills * 4  # what the worker's threads were doing when it was killed


def names(consumer: Consumer) -> set[str]:
    return {name for name, _ in list(consumer.delivered)}


def is_done(settings: dict[str, object]) -> bool:
    jobs = Jobs(str(settings["queue"]), parts_of(open_storage(str(settings["storage"]))), {})
    with closing(jobs.queue.storage):
        return jobs.waiting() == 0 and not list(jobs.failures())


def kill_at_random(receiver: Receiver, worker: Worker, senders: list[Sender]) -> int:
    """Kill the jobs' worker and the receiver's, for a while and often; return how often."""
    rng = random.Random(0)
    end, kills = time.monotonic() + SECONDS, 0
    while (
        time.monotonic() < end
        or kills <= LEAST_KILLS
        or sum(len(sender.acknowledged) for sender in senders) <= LEAST
    ):
        time.sleep(rng.uniform(0.3, 1.0))
        if rng.random() < 0.5:
            worker.kill()
            worker.start()
            kills += 1
        for process in receiver.workers[:1]:
            os.kill(process, signal.SIGKILL)
            kills += 1
    return kills
