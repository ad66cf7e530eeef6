"""Lets every system call that storing a recording takes fail, in every way that makes sense.

One upload of each kind is traced with strace, which shows the calls that concern the storage. Then
each of these calls, one at a time, fails in a running gunicorn worker with EIO, ENOSPC, EDQUOT,
EMFILE (openat only) or EINTR, or the worker is killed with SIGKILL as it makes the call; a write
also takes nothing (short), or claims half or all of its bytes and takes none (half, lie). ENOSPC
and EDQUOT are left out for calls that take no room, and all errors for fcntl, by which SQLite
locks the queue of jobs: that needs no disk. Lies are left out for pwrite64, by which SQLite writes
it: SQLite believes them, and its file is broken then. What must be true each time:

- There is no 2xx unless the identical recording is there, with what was told of it, and its job in
  the queue where there are jobs.
- It survives a power cut, as far as the calls can show: the file was synced after the last write
  and before it got its name, and each folder after its last change. After an fsync that failed no
  later one of the same open file counts, because the kernel takes the pages for clean then. EINTR
  is the exception: such a call did nothing, Python makes it again (PEP 475), and the second counts.
- Nothing partial is visible, and nothing under an unexpected name.
- A recording that was there before is still there, with what was told of it.
- A refusal is a 5xx with one line of text, or, where the worker was killed, no answer (from nginx
  a 502).
- The next upload succeeds, leaves each recording once or more and its metadata beside it, and
  nothing else. Unless the worker was killed, its calls are judged in the same way.

    python tests/proof/faults.py                      as root, about a minute
    python tests/proof/faults.py --kinds form query   only these kinds of uploads
    python tests/proof/faults.py --calls fsync linkat only these calls
"""

import argparse
import base64
import http.client
import json
import os
import random
import re
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from report import tell

from support.clients import Answer, Storing
from support.fronts import Nginx
from support.needs import need
from support.receivers import Receiver
from support.tracing import traced
from support.waiting import wait_for

BODY = random.Random(0).randbytes(300_000)  # more than the receiver's buffer: two writes
OLDER = random.Random(1).randbytes(200_000)
TOLD = {"call_id": "newer", "from": "1001"}
TOLD_BEFORE = {"call_id": "older"}
TARGET = "/kzr/call_recording_X.mp3"
QUERY = "?call_id=newer&from=1001"
FORM = (
    b'\r\n--b\r\ncontent-disposition: form-data; name="X"\r\ncontent-type: application/json\r\n\r\n'
    + json.dumps(TOLD).encode()
    + b'\r\n--b\r\ncontent-disposition: form-data; name="Y"\r\ncontent-type: audio/mpeg\r\n\r\n'
    + base64.b64encode(b"ID3" + BODY)
    + b"\r\n--b--"
)
FORM_TYPE = {"Content-Type": "multipart/form-data; boundary=b"}

TRACE = "trace=%file,%desc"
CALL = re.compile(r"(\w+)\((.*)\) += (-?\w+)(.*)")
FD = re.compile(r"(\d+)<")
PATHS = re.compile(r"\w<(.*?)>")
UNNAMED = re.compile(r'"/proc/self/fd/(\d+)"')
WRITES = {"write", "pwrite64", "writev", "ftruncate", "copy_file_range", "sendfile"}
CHANGES = {"linkat", "renameat", "renameat2", "mkdirat"}  # of a folder
TAKES_ROOM = WRITES | CHANGES | {"openat", "fsync", "fdatasync", "fchmod", "unlinkat"}
NAME = re.compile(r"(A/B/)?(X(~\d+|~new)?\.mp3(\.json)?|\.X(~\d+)?\.mp3\.(keep|gone))")
TRIES = 3  # of an injection that hit another call than it was meant for
MOST_WRONG = 20  # faults, then a kind of upload is given up


@dataclass(frozen=True)
class Kind:
    """A way to upload, and what is stored then."""

    what: str
    send: Callable[[Storing], Answer]
    path: str = "X.mp3"
    body: bytes = BODY
    told: dict[str, str] | None = None
    supersedes: bool = False
    handover: bool = False
    has_jobs: bool = False


KINDS = {
    "put": Kind(
        "PUT with Content-Length, into a new folder",
        lambda client: client.put("/kzr/A/B/call_recording_X.mp3", BODY),
        path="A/B/X.mp3",
    ),
    "chunked": Kind("chunked PUT", lambda client: client.put(TARGET, BODY, chunked=True)),
    "query": Kind(
        "PUT with metadata in its query",
        lambda client: client.put(TARGET + QUERY, BODY),
        told=TOLD,
    ),
    "superseding": Kind(
        "PUT that supersedes, both with metadata",
        lambda client: client.put(TARGET + QUERY, BODY),
        told=TOLD,
        supersedes=True,
    ),
    "form": Kind(
        "POST of a form, in base64",
        lambda client: client.request("POST", TARGET, FORM, headers=FORM_TYPE),
        body=b"ID3" + BODY,
        told=TOLD,
    ),
    "handover": Kind(
        "PUT handed over by nginx",
        lambda client: client.put(TARGET, BODY),
        handover=True,
    ),
    "jobs": Kind(
        "PUT with a job to enqueue",
        lambda client: client.put(TARGET, BODY),
        has_jobs=True,
    ),
}


@dataclass(frozen=True)
class Call:
    """A system call: the `number`th of its name."""

    name: str
    number: int
    arguments: str
    result: str
    rest: str  # of its line

    @property
    def fd(self) -> str:
        match = FD.match(self.arguments)
        return match[1] if match else ""

    @property
    def path(self) -> str:
        """The path of its open file, or of the folder in which it makes a name."""
        return (PATHS.findall(self.arguments) or [""])[-1]

    @property
    def line(self) -> str:
        return f"{self.name}({self.arguments}) = {self.result}{self.rest}"


@dataclass(frozen=True)
class Fault:
    """What happens to a call; `how` is strace's way to say it."""

    call: Call
    name: str
    how: str

    def __str__(self) -> str:
        return f"{self.name} of {self.call.name} {self.call.number}"


def calls_in(trace: str) -> Iterator[Call]:
    numbers: Counter[str] = Counter()
    for line in trace.splitlines():
        if match := CALL.match(line):
            numbers[match[1]] += 1
            yield Call(match[1], numbers[match[1]], match[2], match[3], match[4])


def faults_of(call: Call) -> Iterator[Fault]:
    errors = [] if call.name == "fcntl" else ["EIO", "EINTR"]
    if call.name in TAKES_ROOM:
        errors += ["ENOSPC", "EDQUOT"]
    if call.name == "openat":
        errors.append("EMFILE")
    for error in errors:
        yield Fault(call, error, f"error={error}")
    if call.name in WRITES and call.result.isdigit():
        yield Fault(call, "short", "retval=0")
    if call.name == "write":
        yield Fault(call, "half", f"retval={int(call.result) // 2}")
        yield Fault(call, "lie", f"retval={call.result}")
    yield Fault(call, "SIGKILL", "signal=SIGKILL")


def left_to_chance(trace: str, storage: Path) -> str:
    """What a power cut after these calls could undo of what they stored; "" for nothing."""
    synced: set[str] = set()  # open files that are on disk as they are
    failed: set[str] = set()  # open files of which an fsync failed
    changed: set[str] = set()  # folders, and files with names, that may not be on disk
    for call in calls_in(trace):
        if call.name in ("fsync", "fdatasync"):
            if call.result != "0":
                if "EINTR" not in call.rest:
                    failed.add(call.fd)
            elif call.fd not in failed:
                synced.add(call.fd)
                changed.discard(call.path)
        elif call.name == "openat":
            synced.discard(call.result)
            failed.discard(call.result)
        elif call.name in WRITES:
            synced.discard(call.fd)
            # What SQLite's index of its log says, it makes anew of the log after a crash.
            is_stored = call.path.startswith(f"{storage}/") and not call.path.endswith("-shm")
            if is_stored and "(deleted)" not in call.arguments:
                changed.add(call.path)
            if call.name == "pwrite64":  # SQLite writes what it could not sync once more
                failed.discard(call.fd)
        elif call.name in CHANGES and call.result == "0":
            changed.add(call.path)
            if (unnamed := UNNAMED.search(call.arguments)) and unnamed[1] not in synced:
                return f"it got its name before it was synced: {call.line}"
    return f"not synced: {', '.join(changed)}" if changed else ""


class Figures:
    """What became of one kind of upload."""

    def __init__(self) -> None:
        self.calls = 0
        self.planned = 0
        self.injected = 0
        self.identical = 0  # 2xx, and the recording is there
        self.killed = 0
        self.refusals: Counter[int] = Counter()
        self.wrong = 0

    def __str__(self) -> str:
        refusals = [f"{count} × {status}" for status, count in sorted(self.refusals.items())]
        return (
            f"{self.injected} faults in {self.calls} calls, {self.killed} of them kills: "
            f"{self.identical} × 2xx with the identical recording"
            f"{''.join(f', {each}' for each in refusals)}, {self.wrong} wrong"
        )

    @property
    def passed(self) -> bool:
        everything = self.injected == self.planned > 0
        return everything and not self.wrong and bool(self.refusals and self.killed)


class Matrix:
    """All faults of one kind of upload, at a server whose one worker takes one upload at a time."""

    def __init__(self, kind: Kind, client: Storing, receiver: Receiver) -> None:
        self.kind = kind
        self.client = client
        self.receiver = receiver
        self.log = receiver.folder / "strace"
        self.queue = receiver.storage / ".queue.sqlite"
        self.figures = Figures()

    def run(self, names: list[str], progress: Callable[[str], None]) -> Figures:
        calls = [call for call in self.calls() if not names or call.name in names]
        faults = [fault for call in calls for fault in faults_of(call)]
        self.figures.calls, self.figures.planned = len(calls), len(faults)
        seen = Counter(call.name for call in calls)
        progress(f"{len(faults)} faults in {', '.join(f'{n} {name}' for name, n in seen.items())}")
        for fault in faults:
            for _ in range(TRIES):
                self.prepare()
                if self.play(fault, progress):
                    break
            else:
                progress(f"{fault} was not injected: {self.log.read_text()}")
            if self.figures.wrong >= MOST_WRONG:
                progress("too much is wrong: the rest is left out")
                break
        return self.figures

    def calls(self) -> list[Call]:
        """The calls of an upload that concern the storage, or the log."""
        self.kind.send(self.client)  # so that the worker has all that it loads and opens once
        self.prepare()
        with traced(self.receiver, self.log, "-y", "-s", "200", "-e", TRACE):
            assert self.kind.send(self.client).status in (200, 201)
        return [call for call in calls_in(self.log.read_text()) if self.concerns(call.line)]

    def concerns(self, line: str) -> bool:
        own = self.receiver.storage, self.receiver.log_path, "/proc/self/fd/"
        return any(str(each) in line for each in own)

    def prepare(self) -> None:
        for path in self.client.storage.iterdir():
            if not path.name.startswith("."):  # nginx's folder
                remove(path)
        if self.kind.has_jobs:
            with closing(sqlite3.connect(self.queue)) as database:
                database.execute("delete from kzr_jobs")
                database.commit()
        if self.kind.supersedes:
            assert self.client.put(f"{TARGET}?call_id=older", OLDER).status == 201

    def play(self, fault: Fault, progress: Callable[[str], None]) -> bool:
        """Upload while the fault is injected, and again; return False if it was not."""
        call = fault.call
        inject = f"inject={call.name}:{fault.how}:when={call.number}"
        wrong: list[str] = []
        with traced(self.receiver, self.log, "-y", "-s", "200", "-e", TRACE, "-e", inject):
            try:
                answer = self.kind.send(self.client)
            except (OSError, http.client.HTTPException):
                answer = None
            trace = self.log.read_text()
            status = answer.status if answer else 0
            if status in (200, 201):
                wrong += [*self.check_stored(), left_to_chance(trace, self.receiver.storage)]
            wrong += self.check_visible()
            wrong += self.check_retry()
        whole = self.log.read_text()
        was_killed = "killed by SIGKILL" in whole
        if not (was_killed or any(map(self.concerns, re.findall(".*INJECTED.*", trace)))):
            return False
        if not was_killed:  # the tracer ends with the worker
            wrong.append(left_to_chance(whole, self.receiver.storage))
        wrong.append(self.check_answer(answer, was_killed))

        figures = self.figures
        figures.injected += 1
        figures.killed += was_killed
        if status in (200, 201):
            figures.identical += not any(wrong)
        elif status:
            figures.refusals[status] += 1
        if any(wrong):
            figures.wrong += 1
            progress(f"{fault}: answer {status or 'none'}: {'; '.join(filter(None, wrong))}")
        return True

    def check_answer(self, answer: Answer | None, was_killed: bool) -> str:
        if answer is None:
            return "" if was_killed else "no answer, although the worker lived"
        if answer.status in (200, 201) or was_killed and answer.status == 502:
            return ""
        is_line = answer.text.endswith("\n") and answer.text.count("\n") == 1
        return "" if answer.status in (500, 503, 507) and is_line else f"an answer of {answer.text}"

    def check_stored(self) -> list[str]:
        """What is wrong with the recording that was acknowledged."""
        files = self.files()
        beside = files.get(f"{self.kind.path}.json", b"null")
        wrong = []
        if files.get(self.kind.path) != self.kind.body:
            wrong.append("acknowledged, and not stored as it was sent")
        if self.read(beside) != self.kind.told:
            wrong.append(f"acknowledged, and its metadata is {beside!r}")
        if self.kind.has_jobs:
            with closing(sqlite3.connect(self.queue)) as database:
                if not database.execute("select 1 from kzr_jobs").fetchall():
                    wrong.append("acknowledged, and its job is not in the queue")
        return wrong

    def check_visible(self) -> list[str]:
        """What is partial, unexpected or lost."""
        files = self.files()
        wrong = [f"left over: {path}" for path in files if not NAME.fullmatch(path)]
        for path, data in files.items():
            if path.endswith(".json"):
                if self.read(data) not in (self.kind.told, TOLD_BEFORE):
                    wrong.append(f"not whole: {path}")
            elif data not in (self.kind.body, OLDER):
                wrong.append(f"not whole: {path}, {len(data)} bytes")
        if self.kind.supersedes and (OLDER not in files.values() or self.kind.path not in files):
            wrong.append(f"the older recording is lost, or its name: {', '.join(files)}")
        return wrong

    def check_retry(self) -> list[str]:
        """Upload again, and tell what is wrong then."""
        try:
            answer = self.kind.send(self.client)
        except (OSError, http.client.HTTPException) as error:
            return [f"the next upload failed: {error!r}"]
        if answer.status not in (200, 201):
            return [f"the next upload failed: {answer.status} {answer.text}"]
        wrong = [f"later: {each}" for each in self.check_stored() + self.check_visible()]
        files = self.files()
        for path, data in files.items():
            if path.endswith(".json"):
                if path.removesuffix(".json") not in files:
                    wrong.append(f"later: metadata without a recording: {path}")
            elif data == OLDER and self.read(files.get(f"{path}.json", b"null")) != TOLD_BEFORE:
                wrong.append(f"later: the older recording's metadata is lost: {path}")
            elif "~" in path and data != OLDER:
                wrong.append(f"later: left over: {path}")
        return wrong

    def read(self, text: bytes) -> object:
        try:
            return json.loads(text)
        except ValueError:
            return text

    def files(self) -> dict[str, bytes]:
        """What is stored; of the files that nginx hands over, those that it does not remove."""

        def is_clean() -> bool:
            return not any((self.client.storage / ".handover").rglob("*"))

        wait_for(is_clean, why="nginx to remove its file")
        files = self.client.files()
        return {path: data for path, data in files.items() if not path.startswith(".queue.sqlite")}


def remove(path: Path) -> None:
    if path.is_dir():
        for each in path.iterdir():
            remove(each)
        path.rmdir()
    else:
        path.unlink()


def play_kind(name: str, folder: Path, calls: list[str]) -> Figures:
    def progress(line: str) -> None:
        print(f"{time.monotonic() - began:5.1f} s {name}: {line}", file=sys.stderr, flush=True)

    began = time.monotonic()
    kind = KINDS[name]
    if kind.handover:
        # Without kept connections, so that a call has the same number in each upload. (On those,
        # nginx sends a PUT again by itself when the worker dies.)
        front = Nginx(
            handover=True,
            edit=lambda conf: conf.replace("keepalive 16;", ""),
            options=("--threads=1",),
        )
        client, receiver, stop = front, front.receiver, front.stop
        assert receiver
    else:
        (folder / name).mkdir()
        settings = {"on_stored": "/bin/true"} if kind.has_jobs else {}
        client = receiver = Receiver(folder / name, "--threads=1", min_free="0", **settings)
        stop = receiver.stop
    try:
        figures = Matrix(kind, client, receiver).run(calls, progress)
    finally:
        stop()
    progress(str(figures))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--calls", nargs="+", default=[], metavar="CALL", help="only these")
    parser.add_argument("--jobs", type=int, default=2, help="kinds at a time (2)")
    parser.add_argument("--folder", default="/var/tmp", help="where to store meanwhile, on a disk")
    given = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("tracing needs root")
    need("strace")
    with tempfile.TemporaryDirectory(prefix="faults-", dir=given.folder) as folder:
        with ThreadPoolExecutor(given.jobs) as jobs:
            running = [
                jobs.submit(play_kind, kind, Path(folder), given.calls) for kind in given.kinds
            ]
            results = [each.result() for each in running]
    passed = [
        tell(f"{KINDS[kind].what}: each system call fails", str(figures), figures.passed)
        for kind, figures in zip(given.kinds, results, strict=True)
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
