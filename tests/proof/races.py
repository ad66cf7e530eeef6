"""Kills, writes and reads at the worst moments, and counts what became of each recording.

1. A worker is killed when a recording has its name and its sender has no answer yet: before the
   folder is synced, or when the answer is about to be sent, and for a superseding recording also
   before the last steps to its name. Then the sender tries again, or another recording takes the
   name first: all of them must be there, whole, once, each beside its own metadata.
2. 16 senders hold back the last byte of one recording's name, and then let go at the same moment:
   the same bytes are one recording; different ones are all kept, and numbered in the order that
   the answers tell; with KZR_ON_CONFLICT=refuse one is kept and the others get a 409.
3. Readers ask for a name, and for ranges of it, while it is superseded again and again: each answer
   must be one recording, whole, no older than the last that was acknowledged, and never a 404.
   Some pause in the middle of a large one until it is superseded.

The storage is a folder; 2 and 3 are done again with SQLite and S3 (moto), at a tenth of the size.

    python tests/proof/races.py                     all of it, as root (strace), three minutes
    python tests/proof/races.py --kills 20 --rounds 50 --versions 100

Kills come from strace, which is attached to gunicorn and ends each worker at a certain system call;
such a receiver takes only what is to be killed, and one beside it, of the same storage, the rest.
"""

import argparse
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from report import tell

from support.backends import S3, Backend
from support.buckets import Moto
from support.clients import Answer, read_answer
from support.killing import is_whole
from support.receivers import Receiver
from support.waiting import wait_for

WRITERS = 16
READERS = 4
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LARGE = 8_000_000  # bytes; more than the buffers of a connection hold
VERSIONS = 25  # of a name that is read
SHARE = 10  # other storages get this part of the rounds and versions
READER = {"Authorization": f"Basic {b64encode(b'reader:secret').decode()}"}


def recording(rng: random.Random, size: int) -> bytes:
    """Bytes that show whether they are whole: their SHA-256 comes first."""
    data = rng.randbytes(size)
    return hashlib.sha256(data).digest() + data


def digest_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def target(name: str, body: bytes) -> str:
    """The URL to send a recording to, with metadata that tells which it is."""
    return f"/kzr/call_recording_{name}.mp3?call_id={digest_of(body)}"


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Stored:
    """What a storage holds: recordings by name and number ("", "1", ...), and what is wrong."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.recordings: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.wrong: dict[str, list[str]] = defaultdict(list)
        for path, data in files.items():
            name, _, number = re.sub(r"\.mp3(\.json)?$", "", path).partition("~")
            if path.endswith(".mp3"):
                self.recordings[name][number] = data
                told = json.loads(files.get(f"{path}.json", b"{}")).get("call_id")
                if not is_whole(data):
                    self.wrong[name].append(f"{path} is not whole")
                if told != digest_of(data):
                    self.wrong[name].append(f"{path} is not beside its own metadata")
            elif path.removesuffix(".json") not in files:
                self.wrong[name].append(f"{path} belongs to no recording")

    def check(self, name: str, expected: list[bytes]) -> list[str]:
        """What is wrong, unless these recordings are there, once each, and one has the name."""
        found = self.recordings[name]
        if Counter(found.values()) != Counter(expected) or "" not in found:
            return [f"{name}: {len(expected)} recordings expected, found {sorted(found)}"]
        return self.wrong[name]


def conclude(tried: str, figures: str, wrong: list[str]) -> bool:
    for line in wrong[:10]:
        log(f"  {line}")
    return tell(tried, f"{figures}; {len(wrong)} wrong", not wrong)


# 1. Kills


@dataclass(frozen=True)
class Moment:
    """A system call before which a worker is killed, while it stores a recording with metadata.

    The first fsync is that of the metadata, the second that of the recording; then come folders'.
    """

    fault: str
    supersedes: bool
    has_name: bool = True


MOMENTS = (
    Moment("fsync:when=3", supersedes=False),
    Moment("fsync:when=4", supersedes=True),
    Moment("sendto:when=1", supersedes=False),
    Moment("sendto:when=1", supersedes=True),
)
BEFORE_NAME = (Moment("fsync:when=3", supersedes=True, has_name=False),)


@contextmanager
def killed_at(receiver: Receiver, fault: str) -> Iterator[None]:
    """Let strace kill each worker of the receiver before a system call; end both."""
    call, _, when = fault.partition(":")
    errors = receiver.folder / "strace"
    command = ["strace", "-f", "-o", os.devnull, "-p", str(receiver.process.pid)]
    with errors.open("w") as stderr:
        options = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:{when}"]
        tracer = subprocess.Popen([*command, *options], stderr=stderr)
    wait_for(lambda: "attached" in errors.read_text(), why="strace to attach")
    (first,) = receiver.workers  # is not traced: its successors are
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: receiver.log.count("Booting worker") == 2)
    try:
        yield
    finally:  # no orderly end: strace may hang on the threads of a worker that it has killed
        workers = receiver.workers
        receiver.process.kill()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        tracer.kill()
        tracer.wait()
        receiver.process.wait()


class Kills:
    """Recordings whose workers are killed, and that are sent again to another receiver."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.random = rng
        self.figures: Counter[str] = Counter()
        self.expected: dict[str, list[bytes]] = {}
        self.wrong: list[str] = []

    def receiver(self, name: str) -> Receiver:
        folder = self.folder / name
        folder.mkdir(parents=True)
        options = ["--threads=1"]
        return Receiver(folder, *options, storage=self.folder / "recordings", min_free=0)

    def play(self, moments: tuple[Moment, ...], kills: int) -> None:
        cases = list(islice(cycle(product(moments, (False, True))), kills))
        self.healthy = self.receiver("healthy")
        for fault in sorted({moment.fault for moment in moments}):
            log(f"killing at {fault}")
            doomed = self.receiver(fault.replace(":", "-"))
            with killed_at(doomed, fault):
                for moment, other_between in cases:
                    if moment.fault == fault:
                        self.kill(doomed, moment, other_between)
        stored = Stored(self.healthy.files())
        self.healthy.stop()
        for name, bodies in self.expected.items():
            self.wrong += stored.check(name, bodies)
        self.figures["recordings"] = sum(map(len, stored.recordings.values()))

    def kill(self, doomed: Receiver, moment: Moment, other_between: bool) -> None:
        name = f"kill-{len(self.expected)}"
        older, body, other = (recording(self.random, 5000) for _ in range(3))
        self.expected[name] = [body]
        if moment.supersedes:
            self.expected[name].append(older)
            self.healthy.put(target(name, older), older)
        try:
            doomed.put(target(name, body), body)
        except (OSError, http.client.HTTPException):
            self.figures["kills"] += 1
        else:
            self.wrong.append(f"{name} was answered: {moment} comes too late")
        path = doomed.storage / f"{name}.mp3"
        if (path.exists() and path.read_bytes() == body) != moment.has_name:
            self.wrong.append(f"{moment} is not where it should be")
        if other_between:
            self.expected[name].append(other)
            self.send(name, other, "others between")
        self.send(name, body, "retries")

    def send(self, name: str, body: bytes, kind: str) -> None:
        answer = self.healthy.put(target(name, body), body)
        if answer.status in (200, 201):
            self.figures[kind] += 1
        else:
            self.wrong.append(f"{name}: {answer.status} {answer.text}")

    def tell(self, tried: str) -> bool:
        figures = self.figures
        return conclude(
            tried,
            f"{figures['kills']:,} kills, {figures['retries']:,} retries acknowledged, "
            f"{figures['others between']:,} other recordings between; "
            f"{sum(map(len, self.expected.values())):,} recordings sent, "
            f"{figures['recordings']:,} stored",
            self.wrong,
        )


# 2. Writers


def rounds_of(receivers: dict[str, Receiver], rounds: int) -> Iterator[tuple[str, str, Receiver]]:
    """What each round is: which bodies are sent, and to which receiver."""
    kinds = (
        ("the same bytes", 1, "keep-both"),
        ("different bytes", WRITERS, "keep-both"),
        ("some the same", 4, "keep-both"),
        ("KZR_ON_CONFLICT=refuse", WRITERS, "refuse"),
        ("KZR_ON_CONFLICT=refuse", 4, "refuse"),
    )
    return islice(cycle((name, each, receivers[policy]) for name, each, policy in kinds), rounds)


def send_at_once(receiver: Receiver, url: str, bodies: list[bytes]) -> list[Answer]:
    """Send all to one URL, each but its last byte, and those once all the others have arrived."""
    with ExitStack() as stack:
        senders = []
        for number, body in enumerate(bodies):
            framing, data = f"Content-Length: {len(body)}", body
            if number % 2:
                framing, data = (
                    "Transfer-Encoding: chunked",
                    b"%x\r\n%s\r\n0\r\n\r\n"
                    % (
                        len(body),
                        body,
                    ),
                )
            head = f"PUT {url}?call_id={digest_of(body)} HTTP/1.1\r\nHost: x\r\n{framing}\r\n"
            sock = stack.enter_context(receiver.connect())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            senders.append((sock, data))
        for sock, data in senders:  # a thread of a worker's has each by now
            assert sock.recv(len(CONTINUE), socket.MSG_WAITALL) == CONTINUE
            sock.sendall(data[:-1])
        for sock, data in senders:
            sock.sendall(data[-1:])
        return [read_answer(sock) for sock, _ in senders]


class Rounds:
    """Recordings of one name that arrive at the same moment, round after round."""

    def __init__(self, rng: random.Random) -> None:
        self.random = rng
        self.figures: dict[str, Counter[str]] = defaultdict(Counter)  # by kind
        self.wrong: dict[str, list[str]] = defaultdict(list)
        self.played: dict[str, tuple[str, list[bytes], list[Answer]]] = {}  # by name

    def play(self, receivers: dict[str, Receiver], rounds: int) -> None:
        for number, (kind, different, receiver) in enumerate(rounds_of(receivers, rounds)):
            size = self.random.choice([100, 5_000, 50_000])
            bodies = [recording(self.random, size) for _ in range(different)]
            bodies *= WRITERS // different
            self.random.shuffle(bodies)
            folder = f"new-{number}/" if self.random.random() < 0.5 else ""  # is created, too
            url = f"/kzr/{folder}call_recording_{number}.mp3"
            answers = send_at_once(receiver, url, bodies)
            self.played[f"{folder}{number}"] = kind, bodies, answers
            if number % 100 == 99:
                log(f"{number + 1} rounds of {WRITERS} writers")

    def check(self, files: dict[str, bytes]) -> None:
        stored = Stored(files)
        for name, (kind, bodies, answers) in self.played.items():
            outcomes = [answer.text.partition(":")[0] for answer in answers]
            outcomes = [
                outcome if answer.status < 300 else str(answer.status)
                for outcome, answer in zip(outcomes, answers, strict=True)
            ]
            figures = self.figures[kind]
            figures["rounds"] += 1
            figures.update(outcomes)
            figures["recordings"] += len(stored.recordings[name])
            order = published(answers, bodies)
            expected = Counter(created=1, superseded=len(set(bodies)) - 1)
            if "refuse" in kind:
                order = order[:1]
                expected = Counter({"created": 1, "409": WRITERS - sum(map(bodies.count, order))})
            expected["identical"] = WRITERS - expected.total()
            if Counter(outcomes) != +expected:
                self.wrong[kind].append(f"{name}: {Counter(outcomes)} instead of {expected}")
            self.wrong[kind] += stored.check(name, order)
            for body, number in zip(order, [*range(1, len(order)), ""], strict=True):
                if stored.recordings[name].get(str(number)) != body:
                    self.wrong[kind].append(f"{name}~{number} is not the one that was answered")

    def tell(self, where: str, by_kind: bool) -> bool:
        figures, wrong = self.figures, self.wrong
        if not by_kind:
            figures = {"all of these": sum(self.figures.values(), Counter())}
            wrong = {"all of these": [line for lines in self.wrong.values() for line in lines]}
        passed = True
        for kind, counted in figures.items():
            outcomes = ("created", "superseded", "identical", "409")
            told = [f"{counted[each]:,} answered {each}" for each in outcomes if counted[each]]
            passed &= conclude(
                f"{WRITERS} writers of one name at the same moment, {where}: {kind}",
                f"{counted['rounds']:,} rounds: {', '.join(told)}; "
                f"{counted['recordings']:,} recordings stored",
                wrong.get(kind, []),
            )
        return passed


def published(answers: list[Answer], bodies: list[bytes]) -> list[bytes]:
    """The bodies in the order that they got the name in, by what the answers tell."""
    order: dict[int, bytes] = {}
    for answer, body in zip(answers, bodies, strict=True):
        if answer.status == 201:
            order[0] = body
        elif kept := re.search(r"kept as .*~([0-9]+)\.mp3", answer.text):
            order[int(kept[1])] = body
    return [order[number] for number in sorted(order)]


# 3. Readers


class Name:
    """A name that is superseded: what was sent to it, and how much of that was acknowledged."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.bodies: list[bytes] = []
        self.acknowledged = 0
        self.etags: dict[str, int] = {}  # the body's place, by the ETag that came with it


class Writer:
    """Supersedes its name again and again, and goes on to the next name after some."""

    def __init__(self, receiver: Receiver, number: int, versions: int, seed: str) -> None:
        self.receiver = receiver
        self.number = number
        self.versions = versions
        self.random = random.Random(seed)
        self.name: Name | None = None  # to read
        self.ended = False
        self.superseded = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            for first in range(0, self.versions, VERSIONS):
                self.supersede(Name(f"read-{self.number}-{first}"))
        finally:
            self.ended = True

    def supersede(self, name: Name) -> None:
        for version in range(VERSIONS):
            is_large = self.random.random() < 0.08
            body = recording(self.random, LARGE if is_large else self.random.randrange(300_000))
            name.bodies.append(body)
            answer = self.receiver.put(target(name.text, body), body)
            if answer.status != (200 if version else 201):
                self.wrong.append(f"{name.text}: {answer.status} {answer.text}")
            name.acknowledged += 1
            self.superseded += answer.status == 200
            self.name = name


class Reader:
    """Reads the writers' names until they end, and compares what comes with what was sent."""

    def __init__(self, receiver: Receiver, writers: list[Writer], seed: str) -> None:
        self.receiver = receiver
        self.writers = writers
        self.random = random.Random(seed)
        self.figures: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        while writing := [each for each in self.writers if not each.ended]:
            if name := self.random.choice(writing).name:
                try:
                    self.read(name)
                except (OSError, http.client.HTTPException) as error:
                    self.figures["cut off"] += 1
                    self.wrong.append(f"{name.text}: {error!r}")

    def read(self, name: Name) -> None:
        headers, oldest = dict(READER), name.acknowledged - 1
        if self.random.random() < 0.5:
            start = self.random.randrange(2000)
            headers["Range"] = f"bytes={start}-{start + self.random.randrange(400_000)}"
            if name.etags and self.random.random() < 0.5:
                headers["If-Range"] = self.random.choice(list(name.etags))
        with closing(http.client.HTTPConnection("127.0.0.1", self.receiver.port, 60)) as connection:
            connection.connect()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            connection.request("GET", f"/kzr/call_recording_{name.text}.mp3", headers=headers)
            response = connection.getresponse()
            first = response.read(1000)
            before = name.acknowledged
            if int(response.headers.get("Content-Length", 0)) > LARGE:
                self.wait_until_superseded(name)
            data = first + response.read()
            self.figures["superseded meanwhile"] += name.acknowledged > before
        self.check(name, oldest, headers, response, data)

    def wait_until_superseded(self, name: Name) -> None:
        before = name.acknowledged
        wait_for(lambda: name.acknowledged > before or len(name.bodies) == VERSIONS, 60)

    def check(
        self,
        name: Name,
        oldest: int,
        headers: dict[str, str],
        response: http.client.HTTPResponse,
        data: bytes,
    ) -> None:
        """See which recording an answer is, or is a range of."""
        etag, status = response.headers.get("ETag", ""), response.status
        self.figures[str(status)] += 1
        if status == 200:
            which = [n for n, body in enumerate(name.bodies) if body == data]
        elif status == 206:
            start, end, size = map(int, re.findall("[0-9]+", response.headers["Content-Range"]))
            which = [
                n
                for n, body in enumerate(name.bodies)
                if len(body) == size and body[start : end + 1] == data
            ]
        elif status == 416:  # the recording is smaller
            return
        else:
            self.wrong.append(f"{name.text}: {status} {data[:200]!r}")
            return
        if not which:
            self.wrong.append(f"{name.text}: {status}, {len(data)} bytes of no recording")
        elif which[-1] < oldest:
            self.wrong.append(f"{name.text}: {which[-1]} came after {oldest} was acknowledged")
        elif name.etags.setdefault(etag, which[0]) not in which:
            self.wrong.append(f"{name.text}: the ETag {etag} is another recording's")
        elif status == 206 and headers.get("If-Range", etag) != etag:
            self.wrong.append(f"{name.text}: a range of another recording than {etag}")


def read_while_superseding(receiver: Receiver, where: str, versions: int, seed: str) -> bool:
    writers = [Writer(receiver, n, versions // 2, f"{seed} writer {n}") for n in range(2)]
    readers = [Reader(receiver, writers, f"{seed} reader {n}") for n in range(READERS)]
    with ThreadPoolExecutor(len(writers) + len(readers)) as threads:
        for running in [threads.submit(each.run) for each in (*writers, *readers)]:
            running.result()
    figures = sum((reader.figures for reader in readers), Counter())
    return conclude(
        f"reading what is being superseded, {where}",
        f"superseded {sum(writer.superseded for writer in writers):,} times; "
        f"{figures['200']:,} answers with all, {figures['206']:,} with a range, "
        f"{figures['superseded meanwhile']:,} superseded before they had ended",
        [line for each in (*writers, *readers) for line in each.wrong],
    )


def race(
    backend: Backend, where: str, rounds: int, versions: int, seed: str, by_kind: bool
) -> bool:
    """Let writers and readers race on a storage."""
    log(f"writers and readers, {where}")
    options = ("--workers=2",)
    with ExitStack() as stack:
        receivers = {}
        for policy in ("keep-both", "refuse"):
            settings = {"on_conflict": policy, "readers": "reader:secret"}
            receivers[policy] = backend.receiver(*options, **settings)
            stack.callback(receivers[policy].stop)
        played = Rounds(random.Random(f"{seed} {where}"))
        played.play(receivers, rounds)
        played.check(backend.files())
        passed = played.tell(where, by_kind)
        return read_while_superseding(receivers["keep-both"], where, versions, seed) and passed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="with a name (200)")
    parser.add_argument("--rounds", type=int, default=500, metavar="N", help="of writers (500)")
    parser.add_argument("--versions", type=int, default=1000, metavar="N", help="to read (1000)")
    parser.add_argument("--no-others", action="store_true", help="neither SQLite nor S3")
    parser.add_argument("--folder", default="/var/tmp", help="for the storages, on a disk")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of names, bodies and ranges")
    given = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("strace"):
        parser.error("the kills need root and strace")
    log(f"--seed {given.seed}")
    passed = True
    with (
        tempfile.TemporaryDirectory(prefix="races-", dir=given.folder) as name,
        ExitStack() as stack,
    ):
        folder = Path(name)
        for tried, moments, number in (
            ("worker killed between a recording's name and the answer", MOMENTS, given.kills),
            ("worker killed before a new recording takes the name", BEFORE_NAME, given.kills // 5),
        ):
            kills = Kills(folder / tried.replace(" ", "-"), random.Random(f"{given.seed} {tried}"))
            kills.play(moments, number)
            passed &= kills.tell(tried)

        bucket = Moto(folder / "moto")
        stack.callback(bucket.stop)
        os.environ.update(bucket.environ)
        for where, make in (
            ("a folder", lambda at: Backend(str(at / "recordings"), at / "machines")),
            ("SQLite", lambda at: Backend(f"sqlite:///{at}/it.sqlite", at / "machines")),
            ("S3", lambda at: S3(bucket, at / "machines")),
        ):
            if given.no_others and where != "a folder":
                continue
            at = folder / where.replace(" ", "-")
            (at / "machines").mkdir(parents=True)
            part = 1 if where == "a folder" else SHARE
            rounds, versions = given.rounds // part, given.versions // part
            passed &= race(make(at), where, rounds, versions, given.seed, by_kind=part == 1)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
