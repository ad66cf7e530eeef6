"""Cuts the connection to a bucket at each request of a command, runs it again, and looks.

What is done, to which recordings, and how it is judged, is as in `kills.py`; the storage is a
bucket of moto's, and one of rclone's, which ignores conditions, for some cuts. Between them and the
commands is a proxy, which at a request, each time another,

    before    cuts the connection before the server gets the request
    after     cuts it when the server has done what was asked, and has answered
    down      as "after", and then refuses all that follow, until the command has given up
    kill      kills the command when the server has done what was asked

obstore tries again what was cut once, so that a command may get through all the same, but the
server has done some things twice by then, on conditions that no longer hold.

    python tests/proof/cuts.py                    an hour
    python tests/proof/cuts.py --most 5           only at so many requests that are drawn
    python tests/proof/cuts.py --only erase
"""

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).parent.parent))

from kills import Ran, run
from report import tell

from commands import (
    FEW,
    OLDER,
    Files,
    Operation,
    command,
    differences,
    fill,
    operations,
    upload,
    wrong_in_catalog,
)
from receiver.storage import bucket
from support.buckets import Moto, Rclone, Server
from support.ports import free_port
from support.waiting import wait_for

WAYS = ("before", "after", "down", "kill")
CONTROL = "/.control"  # of no bucket
RCLONE = 10  # cuts in each way, there
PATIENCE = 0.05  # seconds, in place of bucket.PATIENCE: there are no uploads elsewhere


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on to the server, and cuts one of them, as it was told."""

    protocol_version = "HTTP/1.1"
    server_port = 0
    lock = threading.Lock()
    plan: dict = {"at": 0, "way": "", "pid": 0}
    seen = 0
    was_cut = False

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):  # the command was killed
            super().handle_one_request()

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = type(self)
        if self.path.startswith(CONTROL):
            answer = json.dumps({"seen": kind.seen, "was_cut": kind.was_cut}).encode()
            if self.command == "PUT":
                kind.plan, kind.seen, kind.was_cut = json.loads(body), 0, False
            self.answer(200, [], answer)
            return
        with self.lock:
            kind.seen += 1
            at, way = self.plan["at"], self.plan["way"]
            here = kind.seen == at
            is_down = way == "down" and 0 < at < kind.seen
            kind.was_cut |= here
        if is_down or here and way == "before":
            self.cut()
            return
        with closing(http.client.HTTPConnection("127.0.0.1", self.server_port)) as connection:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            found = connection.getresponse()
            data = found.read()
        if here:
            if way == "kill":
                os.kill(self.plan["pid"], signal.SIGKILL)
            self.cut()
            return
        self.answer(found.status, found.getheaders(), data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        own = ("transfer-encoding", "content-length", "connection")
        for name, value in headers:
            if name.lower() not in own or name.lower() == own[1] and self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *arguments: object) -> None:
        pass


class Cutter:
    """The proxy, in a process of its own: who forks commands must have no threads."""

    def __init__(self, server: Server) -> None:
        self.port = free_port()
        self.process = os.fork()
        if not self.process:
            Proxy.server_port = server.port
            ThreadingHTTPServer.daemon_threads = True
            ThreadingHTTPServer.request_queue_size = 100
            ThreadingHTTPServer(("127.0.0.1", self.port), Proxy).serve_forever()
        wait_for(self.is_up, why="the proxy to start")

    def is_up(self) -> bool:
        with suppress(OSError):
            self.control()
            return True
        return False

    def control(self, plan: dict | None = None) -> dict:
        """Tell it what to cut; or ask what it did."""
        data = json.dumps(plan).encode() if plan is not None else None
        url = f"http://127.0.0.1:{self.port}{CONTROL}"
        with urlopen(Request(url, data, method="PUT" if data else "GET")) as answer:
            return json.loads(answer.read())

    def stop(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


class Storage:
    """A place in a bucket with a catalog, and one for copies, which are made anew each time."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.bucket = server.create_bucket()
        self.cutter = Cutter(server)
        self.folder = folder
        self.number = 0
        self.catalog = folder / "catalog.sqlite"
        self.source = folder / "source"  # to copy from
        self.templates: dict[str, list[dict]] = {}
        self.source.mkdir()
        ran = run(lambda: fill(str(self.source), FEW), {})
        assert ran.status == 0, ran.output
        for name, numbers in {"all": FEW, "older": [each for each in FEW if each in OLDER]}.items():
            url = f"s3://{self.bucket}/{name}"
            ran = run(lambda url=url, numbers=numbers: fill(url, numbers), self.environ(url))
            assert ran.status == 0, ran.output
            self.templates[name] = [*self.read_objects(f"{name}/")]
        ran = run(command("reindex"), self.environ(f"s3://{self.bucket}/all"))
        assert ran.status == 0, ran.output
        with closing(sqlite3.connect(self.catalog)) as catalog:
            catalog.execute("pragma journal_mode = delete")  # so that it is one file
        self.catalog.rename(folder / "template.sqlite")

    def read_objects(self, prefix: str):
        for path, data in self.server.objects(self.bucket, prefix).items():
            told = self.server.client.head_object(Bucket=self.bucket, Key=prefix + path)
            yield {
                "Key": path,
                "Body": data,
                "Metadata": told["Metadata"],
                "ContentType": told["ContentType"],
            }

    @property
    def prefix(self) -> str:
        return f"trial-{self.number}/"

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def environ(self, url: str) -> dict[str, str]:
        return self.server.environ | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.cutter.port}",
            "TMPDIR": str(self.folder),
            "KZR_STORAGE": url,
            "KZR_CATALOG": f"sqlite:///{self.catalog}",
            "KZR_QUEUE": f"sqlite:///{self.folder}/queue.sqlite",
            "KZR_KEEP_DAYS": "30",
        }

    def begin(self, operation: Operation) -> None:
        """Fill it, or for a copy what that had before."""
        self.clear()
        self.number += 1
        name = ("older" if operation.numbers else "") if operation.copies else "all"
        for each in self.templates.get(name, []):
            placed = each | {"Key": self.prefix + each["Key"]}
            self.server.client.put_object(Bucket=self.bucket, **placed)
        for path in self.folder.glob("catalog.sqlite*"):
            path.unlink()
        if not operation.copies:
            shutil.copy(self.folder / "template.sqlite", self.catalog)

    def clear(self) -> None:
        for key in self.files():
            self.server.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def files(self) -> Files:
        return self.server.objects(self.bucket, self.prefix)

    def stop(self) -> None:
        self.cutter.stop()


class Trial:
    """All cuts of one operation."""

    def __init__(self, storage: Storage, what: str) -> None:
        self.storage = storage
        self.what = what
        self.requests = self.cuts = self.kills = self.through = self.again = 0
        self.wrong: list[str] = []

    def everywhere(self, most: int, rng: random.Random) -> None:
        """Cut it at each request in each way, or at some that are drawn."""
        self.cut("before", 1_000_000)  # which counts them
        everywhere = range(1, self.requests + 1)
        for way in WAYS:
            for at in rng.sample(everywhere, min(most, len(everywhere))):
                self.cut(way, at)

    def operation(self) -> Operation:
        """The same for the place where it is tried now."""
        return next(each for each in operations(self.storage.url, FEW) if each.what == self.what)

    def cut(self, way: str, at: int) -> None:
        """Cut it at a request, do it again, and judge."""
        storage = self.storage
        storage.begin(self.operation())
        operation = self.operation()

        def work() -> object:
            storage.cutter.control({"at": at, "way": way, "pid": os.getpid()})
            return operation.work()

        ran = self.run(work)
        was_cut = storage.cutter.control()["was_cut"]
        self.requests = max(self.requests, storage.cutter.control()["seen"])
        storage.cutter.control({"at": 0, "way": ""})
        self.cuts += was_cut
        self.kills += ran.was_killed
        wrong = []
        # One that was not through may end as one that was, because something was left.
        self.through += was_cut and way in ("before", "after") and ran.status == operation.status
        if operation.retry:
            self.again += 1
            ran = self.run(operation.work)
        if operation.retry:
            if ran.status not in (operation.status, 0):
                wrong.append(f"ended with {ran.status}: {ran.output[-300:]}")
            wrong += self.judge(operation, operation.files())
        if operation.then:
            self.run(operation.then)
            expected = operation.finally_ if operation.retry else operation.files
            wrong += self.judge(operation, expected())
        self.wrong += [f"{operation.what}, {way} {at}: {each}" for each in wrong]

    def run(self, work) -> Ran:
        url = str(self.storage.source) if self.operation().copies else self.storage.url
        environ = self.storage.environ(url)
        if self.operation().copies:
            environ["KZR_CATALOG"] = "no"
        return run(work, environ)

    def judge(self, operation: Operation, expected: Files) -> list[str]:
        wrong = differences(self.storage.files(), expected, operation.exact)
        if not operation.copies:
            may_lack = operation.work is upload
            wrong += wrong_in_catalog(self.storage.catalog, expected, may_lack)
        return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=int, default=1_000_000, help="cuts in each way (all)")
    parser.add_argument("--only", nargs="*", help="operations whose names begin so")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of requests that are drawn")
    given = parser.parse_args()
    print(f"--seed {given.seed}", file=sys.stderr)
    rng, passed = random.Random(given.seed), True
    bucket.PATIENCE = PATIENCE
    for kind, most in ((Moto, given.most), (Rclone, min(given.most, RCLONE))):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            tempfile.tempdir = folder
            server = kind(Path(folder) / "server")
            storage = Storage(server, Path(folder))
            try:
                passed &= all([*tried(storage, kind.__name__.lower(), most, given.only, rng)])
            finally:
                storage.stop()
                server.stop()
    return 0 if passed else 1


def tried(storage: Storage, server: str, most: int, only: list[str] | None, rng: random.Random):
    """Try all operations, and tell of each; yield whether it passed."""
    for operation in operations("", FEW):
        if only and not operation.what.startswith(tuple(only)):
            continue
        if operation.what == "purge" and server == "rclone":
            continue  # it forgets the times of receipt
        trial = Trial(storage, operation.what)
        trial.everywhere(most, rng)
        for line in trial.wrong[:10]:
            print(f"  {line}", file=sys.stderr)
        yield tell(
            f"Cut off from a bucket ({server}), and done again: {operation.what}",
            f"{trial.requests} requests, {trial.cuts} cuts, {trial.kills} of them kills; "
            f"{trial.through} got through all the same, {trial.again} times again; "
            f"{len(trial.wrong)} wrong",
            not trial.wrong and trial.cuts >= len(WAYS),
        )


if __name__ == "__main__":
    sys.exit(main())
