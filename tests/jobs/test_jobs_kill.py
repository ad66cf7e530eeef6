"""Workers of jobs and the receiver's are killed, and clocks are set: every hook is called."""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from receiver.storage import open_storage
from receiver.storage.parallel import THREADS
from support.clients import read_answer
from support.queues import Worker, open_jobs
from support.receivers import Receiver
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


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def urls(request, tmp_path) -> dict[str, object]:
    """A folder with its queue in a file, or a database that has both."""
    if request.param == "sqlite":
        return {
            "storage": tmp_path / "recordings",
            "queue": f"sqlite:///{tmp_path}/queue.sqlite",
        }
    url = request.getfixturevalue(request.param).new_url()
    return {"storage": url, "queue": url}


def test_every_acknowledged_recording_has_its_jobs_done(
    start, tmp_path, urls, monkeypatch, start_worker
):
    monkeypatch.setenv("JOBS_TEST_LOG", str(tmp_path / "commands"))
    shift = tmp_path / "shift"
    shift.write_text("0")
    consumer = Consumer()
    settings = urls | {
        "on_stored": """sh -c 'echo "$RECORDING_NAME" >> "$JOBS_TEST_LOG"'""",
        "webhook_url": f"http://127.0.0.1:{consumer.server_port}/hook",
        "webhook_secret": "secret",
        "webhook_allow_private": "yes",
        "min_free": "0",
    }
    receiver = start("--workers=2", **settings)
    workers = [start_worker(shift, **settings) for _ in range(2)]
    stop = threading.Event()
    senders = [Sender(receiver, number, stop) for number in range(CLIENTS)]
    for sender in senders:
        sender.start()
    kills = kill_at_random(receiver, workers, senders, shift)
    stop.set()
    for sender in senders:
        sender.join()
    acknowledged = {path for sender in senders for path in sender.acknowledged}
    commands = tmp_path / "commands"
    try:
        # Each pause before a retry is three times the last: the fourth ends after 200 seconds.
        wait_for(lambda: acknowledged <= names(consumer), 300, "all webhooks")
        wait_for(lambda: acknowledged <= {*commands.read_text().split()}, 300, "all commands")
        wait_for(lambda: is_done(urls), 300, "an empty queue")
    finally:
        for worker in workers:
            worker.stop()
        consumer.close()
    ids = Counter(name for name, _ in consumer.delivered)
    assert {name for name, count in ids.items() if count > 1} == set()  # one key for each
    run = Counter(commands.read_text().split())
    twice = [
        sum(count - 1 for count in consumer.delivered.values()),
        sum(count - 1 for count in run.values()),
    ]
    print(
        f"{len(acknowledged)} acknowledged, {kills} of workers and {receiver_kills(receiver)} of "
        f"receivers killed; delivered twice: {twice[0]} webhooks, {twice[1]} commands"
    )
    assert len(acknowledged) > LEAST and kills > LEAST_KILLS
    assert sum(twice) <= kills * THREADS  # what a worker's threads were doing when it was killed


def receiver_kills(receiver: Receiver) -> int:
    """The number of the receiver's own workers that were killed, as its log has it."""
    return receiver.log.count("was sent SIGKILL")


def names(consumer: Consumer) -> set[str]:
    return {name for name, _ in list(consumer.delivered)}


def is_done(urls: dict[str, object]) -> bool:
    jobs = open_jobs(str(urls["queue"]), open_storage(str(urls["storage"]), read_only=True))
    with closing(jobs.queue):
        assert not list(jobs.given_up())
        return not any(jobs.backlog().waiting.values())


def kill_at_random(
    receiver: Receiver, workers: list[Worker], senders: list[Sender], shift: Path
) -> int:
    """Kill the jobs' workers and the receiver's, and set the clock back and on, for a while.

    Returns how often a worker of jobs was killed.
    """
    rng = random.Random(0)
    end, kills = time.monotonic() + SECONDS, 0
    while (
        time.monotonic() < end
        or kills <= LEAST_KILLS
        or sum(len(sender.acknowledged) for sender in senders) <= LEAST
    ):
        time.sleep(rng.uniform(0.3, 1.0))
        shift.write_text(str(rng.choice([0, -86_400, 86_400])))
        if rng.random() < 0.7:
            worker = rng.choice(workers)
            worker.kill()
            worker.start()
            kills += 1
        for process in receiver.workers[:1]:
            os.kill(process, signal.SIGKILL)
    shift.write_text("0")
    return kills
