"""Sends the receiver what no client should, and looks whether it keeps its promises all the same.

Hypothesis makes up names, folders, queries, headers, methods, chunks, lengths and forms, which go
as raw bytes over sockets to real servers: gunicorn alone, nginx with deploy/nginx.conf, and nginx
with the handover. An example is one request. Where it is a good one, its connection stays open for
the next, so that bytes taken for the wrong request show; where not, its sender ends.

Each answer has to be one that README.md lists. A 2xx is right only if the bytes that were sent, as
a strict reader of RFC 9112 takes them, lie in the storage under the name that the answer tells; a
5xx only

- 500, where something stands in the recording's place: a link, a FIFO or a folder that was put
  there, a folder of the name of a recording or of its metadata, or a recording of that of a folder;
- 501 and 505, in HTML, of gunicorn's and nginx's own: a Transfer-Encoding or a version of HTTP that
  they do not know.

The storage lies deep in a folder that is watched: nothing there may change but the storage, and
nothing may be in the storage but what was acknowledged, and what lies beside it.

    python tests/proof/fuzz.py                     about three and a half minutes
    python tests/proof/fuzz.py --examples 2000     some seconds
    python tests/proof/fuzz.py --seed 1            the same examples again
"""

import argparse
import hashlib
import json
import re
import socket
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

# This folder, the tests and the project, which need not be the one that is installed.
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[0]))

from fuzz_requests import Case, cases
from fuzz_servers import Watched, start
from hypothesis import HealthCheck, Phase, given, seed, settings
from report import tell

from receiver.storage.paths import is_recording, original
from support.notes import is_note

BATCH = 500  # examples between two looks at everything that is watched
WARM_UP = 0.2  # of the examples, before a worker's memory counts
MIB = 1 << 20
MOST_GROWTH = 8 * MIB  # of a worker's memory
TIMEOUT = 20.0  # seconds for an answer
SHARES = {"gunicorn": (0.25, 0.25, 0.25), "nginx": (0.15,), "handover": (0.1,)}  # of each client
TOLD = {
    "gunicorn": "gunicorn alone",
    "nginx": "nginx before it",
    "handover": "nginx with the handover",
}
STORED = re.compile(
    rb"(created|identical|superseded): (\S+), \d+ bytes"
    rb"(?:; the older recording is kept as \S+)?\n"
)
STAMP = rb"\[[-0-9:, ]+\] INFO in \w+: "
OUR_LINE = re.compile(
    STAMP + rb"\S+ name=[!-~]* bytes=\d+ ms=\d+"
    rb" outcome=(?:created|identical|superseded|\d{3}(?: \([ -~]+\))?) client=[0-9a-f.:-]+"
)
OTHER_LINE = re.compile(  # gunicorn's, those of the start, and who read what
    rb"\[[-0-9: +]+\] \[\d+\] \[(?:INFO|WARNING)\] [ -~\x80-\xff]*|"
    + STAMP
    + rb"audit [!-~ ]+|\[[-0-9:, ]+\] (?:INFO|WARNING) in \w+: "
    rb"(?:anybody|storage:|made a new storage) [ -~]+"
)
SERVERS_OWN = (501, 505)


class Broken(AssertionError):
    """A promise was broken."""


def expect(condition: object, what: str) -> None:
    if not condition:
        raise Broken(what)


# What comes back


@dataclass(frozen=True)
class Answer:
    status: int
    kind: bytes  # its Content-Type
    body: bytes
    closes: bool


class Connection:
    """One connection, and what was read from it beyond the last answer."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def send(self, case: Case) -> None:
        with suppress(OSError):  # it was refused before all was sent
            self.sock.sendall(case.data)
            if not case.whole:
                self.sock.shutdown(socket.SHUT_WR)

    def read(self, method: bytes) -> Answer | None:
        """The next answer, None if the connection ends before it begins."""
        while True:
            if not (head := self._head()):
                return None
            status = re.match(rb"HTTP/1\.\d (\d{3}) ", head)
            expect(status, f"no answer: {head[:200]!r}")
            if status[1] != b"100":
                break
        lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        fields = {name.lower(): value.strip() for name, _, value in lines}
        kind = fields.get(b"content-type", b"").partition(b";")[0]
        body = b""
        closes = fields.get(b"connection", b"").lower() == b"close"
        if method != b"HEAD":
            body = self._take(int(fields[b"content-length"]))
        elif closes:  # gunicorn's own have a body all the same
            while data := self._receive():
                self.rest += data
            self.rest = b""
        return Answer(int(status[1]), kind, body, closes)

    def _head(self) -> bytes:
        while b"\r\n\r\n" not in self.rest:
            if not (data := self._receive()):
                expect(not self.rest, f"a part of an answer: {self.rest[:200]!r}")
                return b""
            self.rest += data
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        return head

    def _take(self, size: int) -> bytes:
        while len(self.rest) < size:
            data = self._receive()
            expect(data, "an answer that breaks off")
            self.rest += data
        body, self.rest = self.rest[:size], self.rest[size:]
        return body

    def _receive(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except ConnectionError:
            return b""
        except TimeoutError:
            raise Broken(f"no answer within {TIMEOUT:.0f} s") from None


# The proof


@dataclass
class Seen:
    """What clients saw. `stored`: digests of the bodies that were acknowledged, by path."""

    requests: int = 0
    stored: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    read: set[str] = field(default_factory=set)  # digests of what GET answered
    statuses: Counter[str] = field(default_factory=Counter)
    answers: int = 0  # of the receiver itself, so that each has a line in the log
    silent: int = 0  # connections that ended without an answer, to what is no good request
    kept: int = 0  # requests on a connection that was open already
    memory: int = 0  # of the workers, in bytes, after the warm-up
    growth: int = 0  # since then
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Seen") -> None:
        for path, digests in other.stored.items():
            self.stored[path] |= digests
        self.read |= other.read
        self.statuses += other.statuses
        self.failures += other.failures
        self.memory = max(self.memory, other.memory)
        self.growth = max(self.growth, other.growth)
        for name in ("requests", "answers", "silent", "kept"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Sender:
    """A client that sends examples and judges the answers."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.seen = Seen()
        self.connection: Connection | None = None
        self.broken = ""  # the latest promise that was: Hypothesis ends with the smallest example

    def close(self) -> None:
        if self.connection:
            self.connection.sock.close()
        self.connection = None

    def check(self, case: Case) -> None:
        """Send an example; raise `Broken` if the answer is not what was promised."""
        self.seen.requests += 1
        try:
            answer = self._exchange(case)
            self._judge(case, answer)
            if case.keeps and answer and not answer.closes:
                return
            while more := self.connection.read(b""):
                expect(more.status >= 400, f"a further answer: {more}")
                self._judge(case, more)
        except Broken as error:
            self.broken = f"{error}\n  {case}"
            self.close()
            raise
        self.close()

    def _exchange(self, case: Case) -> Answer | None:
        if self.connection:
            self.connection.send(case)
            if answer := self.connection.read(case.method):
                self.seen.kept += 1
                return answer
            self.close()  # the server had closed it meanwhile
        self.connection = Connection(self.watched.port)
        self.connection.send(case)
        return self.connection.read(case.method)

    def _judge(self, case: Case, answer: Answer | None) -> None:
        seen = self.seen
        if answer is None:
            expect(not case.keeps, "a good request without an answer")
            seen.silent += 1
            return
        is_ours = answer.kind != b"text/html"
        seen.answers += is_ours
        seen.statuses[f"{answer.status}{'' if is_ours else ' HTML'}"] += 1
        if answer.status < 300:
            self._judge_success(case, answer)
            return
        expect(answer.status >= 400, f"neither success nor an error: {answer}")
        if not is_ours:
            expect(answer.status < 500 or answer.status in SERVERS_OWN, f"{answer}")
            return
        expect(answer.kind == b"text/plain", f"no plain text: {answer}")
        if case.method != b"HEAD":
            expect(re.fullmatch(rb"[ -~]+\n", answer.body), f"not one line of text: {answer}")
        if answer.status >= 500:
            is_told = answer.status == 500 and self.watched.is_obstructed(answer.body)
            expect(is_told, f"a server's error: {answer}")

    def _judge_success(self, case: Case, answer: Answer) -> None:
        if case.method in (b"GET", b"HEAD"):
            if case.method == b"GET" and answer.status == 200 and answer.body != b"ok\n":
                self.seen.read.add(digest(answer.body))
            return
        expect(case.method in (b"PUT", b"POST"), f"success of another method: {answer}")
        told = STORED.fullmatch(answer.body)
        expect(told and answer.kind == b"text/plain", f"not what a success tells: {answer}")
        expect((told[1] == b"created") is (answer.status == 201), f"a wrong status: {answer}")
        path = told[2].decode()
        for part in path.split("/"):
            is_ordinary = re.fullmatch(r"[A-Za-z0-9@_+%~-][A-Za-z0-9@._+%~-]{0,254}", part)
            expect(is_ordinary, f"not below the storage, or no ordinary name: {answer}")
        expect(case.body is not None, f"acknowledged, yet no whole body: {answer}")
        expect(self.watched.holds(path, case.body), f"acknowledged, yet not stored: {answer}")
        self.seen.stored[path].add(digest(case.body))

    def look(self) -> None:
        """Look at what may not change."""
        changed = self.watched.changed()
        expect(not changed, f"changed outside of the storage: {changed}")
        expect(self.watched.has_its_workers(), "a worker has ended")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def play(watched: Watched, examples: int, number: str) -> Seen:
    """Send that many examples, which `number` determines; return what was seen."""
    sender = Sender(watched)
    seen = sender.seen
    made_up = cases(str(watched.root).encode(), watched.name != "gunicorn")
    configured = settings(
        max_examples=BATCH,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )

    try:
        while seen.requests < examples:

            @seed(f"{number} {seen.requests}")
            @settings(configured, max_examples=min(BATCH, examples - seen.requests))
            @given(made_up)
            def check(case: Case) -> None:
                sender.check(case)

            check()
            sender.look()
            memory = watched.memory()
            if not seen.memory and seen.requests >= examples * WARM_UP:
                seen.memory = memory
            seen.growth = memory - (seen.memory or memory)
            report(f"{watched.name}: {seen.requests} of {examples}, {memory / MIB:.1f} MiB")
    except Exception as error:
        seen.failures.append(f"{watched.name}: {sender.broken or repr(error)}")
    finally:
        sender.close()
    return seen


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def wrong_files(watched: Watched, seen: Seen) -> list[str]:
    """Compare the storage with what was acknowledged, both ways."""
    wrong = []
    files = watched.files()
    found: dict[str, list[str]] = defaultdict(list)
    for path, data in files.items():
        if is_note(path.rpartition("/")[2]):
            continue
        if is_recording(path.rpartition("/")[2]):
            found[original(path)].append(digest(data))
            continue
        beside = path.removesuffix(".json").removesuffix("~")
        with suppress(ValueError):
            if beside in files and isinstance(json.loads(data), dict):
                continue
        wrong.append(f"neither a recording nor beside one: {path}")
    for path in found.keys() | seen.stored.keys():
        if sorted(found[path]) != sorted(seen.stored[path]):
            there, sent = len(found[path]), len(seen.stored[path])
            wrong.append(f"{path}: {there} recordings there, {sent} acknowledged, or other bytes")
    acknowledged = set().union(*seen.stored.values())
    wrong += [f"read, but never acknowledged: {each}" for each in seen.read - acknowledged]
    return wrong


def wrong_lines(watched: Watched, seen: Seen) -> tuple[int, list[str]]:
    """Count the log's lines for requests, and find what is no line that it should have."""
    requests, wrong = 0, []
    for line in watched.log.read_bytes().split(b"\n")[:-1]:
        if OUR_LINE.fullmatch(line):
            requests += 1
        elif not OTHER_LINE.fullmatch(line):
            wrong.append(f"in the log: {line[:300]!r}")
    if requests != seen.answers:
        wrong.append(f"{requests} lines in the log for {seen.answers} answers")
    return requests, wrong


def prove(servers: list[Watched], results: dict[str, Seen]) -> bool:
    """Look at all that is left when the clients are done; print the table."""
    passed = True
    stored, lines, around = 0, 0, 0
    changed, files, logs, grown = [], [], [], []
    for watched in servers:
        seen = results[watched.name]
        stored += sum(len(digests) for digests in seen.stored.values())
        for failure in seen.failures:
            report(f"\n{failure}\n")
        counted = ", ".join(
            f"{number} {status}" for status, number in sorted(seen.statuses.items())
        )
        passed &= tell(
            f"{seen.requests} requests that Hypothesis made up, to {TOLD[watched.name]}",
            f"{counted}; {seen.silent} closed without an answer; {seen.kept} on kept connections; "
            f"{len(seen.failures)} broken promises",
            not seen.failures,
        )
        around += len(watched.before)
        changed += watched.changed()
        files += wrong_files(watched, seen)
        number, wrong = wrong_lines(watched, seen)
        lines += number
        logs += wrong
        grown.append(seen.growth)
    for line in (changed + files + logs)[:20]:
        report(line)
    passed &= tell(
        "what lies around them", f"{around} entries, {len(changed)} changed", not changed
    )
    passed &= tell("what the storages hold", f"{stored} recordings, {len(files)} wrong", not files)
    passed &= tell("a line in the log for each", f"{lines} lines, {len(logs)} wrong", not logs)
    ended = sum(not watched.has_its_workers() for watched in servers)
    passed &= tell(
        "the workers", f"{len(servers)}, {ended} of them not the same any more", not ended
    )
    mebibytes = ", ".join(f"{growth / MIB:.1f}" for growth in grown)
    passed &= tell("memory of the workers", f"+{mebibytes} MiB", max(grown) < MOST_GROWTH)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--examples", type=int, default=50_000, metavar="N", help="of all servers together (50000)"
    )
    parser.add_argument("--seed", default=str(time.time_ns()), help="of all that is made up")
    parser.add_argument("--only", choices=SHARES, help="send all to this server")
    given = parser.parse_args()
    report(f"--seed {given.seed}")

    names = [given.only] if given.only else list(SHARES)
    scale = given.examples / sum(sum(SHARES[name]) for name in names)
    results = {name: Seen() for name in names}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        folder.chmod(0o755)
        servers = []
        for name in names:
            (folder / name).mkdir()
            servers.append(start(name, folder / name, stack))
        pool = stack.enter_context(ProcessPoolExecutor(sum(len(SHARES[name]) for name in names)))
        playing = [
            (
                watched.name,
                pool.submit(play, watched, round(share * scale), f"{given.seed} {name} {client}"),
            )
            for watched in servers
            for client, share in enumerate(SHARES[watched.name])
        ]
        for name, seen in playing:
            results[name].add(seen.result())
        passed = prove(servers, results)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
