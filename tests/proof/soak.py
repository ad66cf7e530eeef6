"""Uses every part of the receiver at once, for minutes, and shows that nothing grows.

gunicorn behind nginx, with catalog, page, metrics and jobs, takes recordings (plain, chunked, in
forms, again, superseding, cut off), is read (whole, by ranges), and shows pages (lists, searches,
exports, players, /healthz, /metrics), while the worker of jobs runs a command for each recording
and `flask erase` removes old ones, so that the disk does not fill. Beside that, `purge`, `hold`,
`erase`, `reindex`, `verify` and `copy` run all the time, each in a loop: `beside.py`. It goes as
fast as all of this goes together: uploads wait while the worker or the erasure is far behind.

Once a second, gunicorn's processes and the worker of jobs are looked at: their own memory (what is
anonymous of their proportional set size), file descriptors, threads; and the temporary files, which
are unlinked files that are open and everything in the folders for such files. The median of the
last quarter of the time is compared with that of the second. It may be higher by

    memory        5 % and 4 MB
    descriptors   the number of clients: a connection has one, and an upload in it another
    threads       2
    files         twice the number of clients

Also, no answer may be an error, every recording must have its job done, once, and what is read and
what is there at the end must be whole: all that was acknowledged and nothing that was erased or
purged, what is held, in the catalog just what is stored, and in the copy all of it. No command may
fail, but the erasure of what is held.

    python tests/proof/soak.py --picture soak.svg      ten minutes
    python tests/proof/soak.py --minutes 2

In a few minutes, the buffers that the workers keep may still be filling, which counts as growth.
"""

import argparse
import http.client
import json
import math
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parent.parent))

from beside import Beside, digest_of
from races import READER, log, recording
from report import tell

from support.clients import Answer, Client
from support.forms import TYPE, B, form
from support.fronts import Nginx
from support.killing import is_whole
from support.paths import PROJECT
from support.queues import Worker
from support.waiting import wait_for

CLIENTS = 14
THREADS = 6  # of each of the two workers
GENERATION = 5.0  # seconds of uploads that are erased together
MOST_WAITING = 300  # jobs; uploads wait while there are more
MOST_OLD = 6  # generations that are to be erased; the same
MOST_RECENT = 200  # recordings to choose from for reading and superseding
SIZES = (0, 500, 20_000, 20_000, 200_000, 1_000_000)  # bytes
COMMANDS = ("copy", "purge", "hold", "erase", "hold --release", "reindex", "verify")
MB = 1e6


class Soak:
    """What the clients know of each other: what they sent, and what came of it."""

    def __init__(self, server: Nginx, seed: str) -> None:
        self.server = server
        self.seed = seed
        self.figures: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.may_upload = threading.Event()
        self.generation = 0
        self.numbers = count()
        self.acknowledged: list[tuple[str, str, float]] = []  # paths, digests, and when
        self.erasing: dict[int, float] = {}  # by generation, when its erasure began
        self.recent: deque[str] = deque(maxlen=MOST_RECENT)  # paths, of the newest generation

    def note(self, figure: str) -> None:
        with self.lock:
            self.figures[figure] += 1

    def complain(self, text: str) -> None:
        with self.lock:
            self.wrong.append(text)


class User:
    """Does one thing after the other until it is told to stop."""

    def __init__(self, soak: Soak, number: int) -> None:
        self.soak = soak
        self.random = random.Random(f"{soak.seed} {number}")
        self.sent: deque[tuple[str, bytes]] = deque(maxlen=5)  # to be sent again
        self.gunicorn = soak.server.receiver  # without nginx, which keeps cut uploads to itself

    def run(self) -> None:
        while not self.soak.stop.is_set():
            work = self.random.choices((self.upload, self.cut, self.read, self.page), (9, 1, 7, 3))
            try:
                work[0]()
            except (OSError, http.client.HTTPException) as error:
                self.soak.complain(f"{work[0].__name__}: {error!r}")

    def expect(self, answer: Answer, *statuses: int) -> bool:
        if answer.status not in statuses:
            self.soak.complain(f"{answer.status} {answer.text[:200]!r}")
        return answer.status in statuses

    def upload(self) -> None:
        if not self.soak.may_upload.wait(0.1):
            return
        generation = self.soak.generation
        path, body = self.choose(generation)
        url = f"/kzr/{path}?{urlencode(told(generation))}"
        how = self.random.choice(("plain", "chunked", "form"))
        if how == "form":
            data = form(body, {"caller_id_name": "Jörg Ångström"} | told(generation))
            headers = {"Content-Type": TYPE + B}
            answer = self.soak.server.request("POST", f"/kzr/{path}", data, headers=headers)
        else:
            answer = self.soak.server.put(url, body, chunked=how == "chunked")
        if self.expect(answer, 200, 201):
            self.soak.note(answer.text.partition(":")[0])
            if generation == self.soak.generation:  # others are erased soon
                self.soak.recent.append(path)
            self.sent.append((path, body))
            self.soak.acknowledged.append((path, digest_of(body), time.monotonic()))

    def choose(self, generation: int) -> tuple[str, bytes]:
        """A new recording; or one that takes another's name; or one that was sent before."""
        folder, kind = f"{generation}/{self.random.randrange(3)}", self.random.random()
        if kind < 0.1 and self.sent and self.sent[0][0].startswith(f"{generation}/"):
            return self.random.choice(self.sent)
        path = f"{folder}/{next(self.soak.numbers)}.mp3"
        if kind < 0.4 and self.soak.recent:
            recent = self.random.choice(self.soak.recent)
            path = recent if recent.startswith(f"{generation}/") else path
        return path, recording(self.random, self.random.choice(SIZES))

    def cut(self) -> None:
        """Send a part of an upload, and go away."""
        server: Client = self.random.choice((self.soak.server, self.gunicorn))
        head = f"PUT /kzr/cut/{next(self.soak.numbers)}.mp3 HTTP/1.1\r\nHost: x\r\n"
        body = self.random.randbytes(self.random.choice((10, 50_000)))
        with server.connect() as sock:
            sock.sendall(f"{head}Content-Length: {len(body) + 1}\r\n\r\n".encode() + body)
        self.soak.note("cut")

    def read(self) -> None:
        if not self.soak.recent:
            return
        url, headers = f"/kzr/{self.random.choice(self.soak.recent)}", dict(READER)
        if self.random.random() < 0.5:
            answer = self.soak.server.request("GET", url, headers=headers)
            if self.expect(answer, 200) and not is_whole(answer.body):
                self.soak.complain(f"{url}: {len(answer.body)} bytes that are not whole")
        else:
            headers["Range"] = f"bytes=10-{self.random.randrange(10, 500_000)}"
            answer = self.soak.server.request("GET", url, headers=headers)
            if self.expect(answer, 206):
                start, end, _ = map(int, re.findall("[0-9]+", answer.headers["Content-Range"]))
                if len(answer.body) != end + 1 - start:
                    self.soak.complain(f"{url}: {len(answer.body)} bytes of {start} to {end}")
        self.soak.note("reads")

    def page(self) -> None:
        page = self.random.choice(("healthz", "metrics", "list", "search", "csv", "play"))
        get = partial(self.soak.server.request, "GET", headers=READER)
        if page in ("healthz", "metrics"):
            answer = get(f"/{page}")
        elif page == "search":
            word = self.random.choice(("jorg", "5550", "nobody", str(number(self.soak.generation))))
            answer = get(f"/browse/?text={word}")
        elif page == "csv":
            answer = get("/browse/?text=nobody&format=csv")
        else:
            answer = get("/browse/?format=json" if page == "play" else "/browse/")
            if page == "play" and answer.status == 200:
                if found := json.loads(answer.body)["recordings"]:
                    answer = get(f"/browse/?{urlencode({'play': found[0]['path']})}")
        if self.expect(answer, 200):
            self.soak.note("pages")


def number(generation: int) -> int:
    """The caller's number of a generation's recordings."""
    return 15_550_000_000 + generation


def told(generation: int) -> dict[str, object]:
    return {"caller_id_number": f"+{number(generation)}", "callee_id_number": "1001"}


class Governor(threading.Thread):
    """Begins generations of recordings, erases old ones, and lets uploads wait meanwhile."""

    def __init__(self, soak: Soak, queue: Path, environ: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.soak = soak
        self.queue = queue
        self.environ = environ
        self.erased = 0  # generations

    def run(self) -> None:
        eraser = threading.Thread(target=self.erase_old, daemon=True)
        eraser.start()
        uploading = 0.0  # seconds
        while not self.soak.stop.wait(0.2):
            behind = self.soak.generation - self.erased > 1 + MOST_OLD
            if behind or waiting(self.queue) > MOST_WAITING:
                self.soak.may_upload.clear()
                self.soak.note("waits")
                continue
            self.soak.may_upload.set()
            uploading += 0.2
            if uploading > GENERATION:
                uploading = 0.0
                self.soak.generation += 1
                self.soak.recent.clear()
        eraser.join()

    def erase_old(self) -> None:
        """Erase what nobody reads any more, by the caller's number."""
        while not self.soak.stop.wait(0.2):
            if self.soak.generation - self.erased > 1:
                caller = ["--caller", str(number(self.erased)), "--yes"]
                self.soak.erasing[self.erased] = time.monotonic()
                ran = flask("erase", *caller, environ=self.environ)
                self.soak.figures["erased"] += ran.stdout.count(" erased ")
                if ran.returncode:
                    self.soak.complain(f"erase: {ran.stderr[-500:]}")
                self.erased += 1


def flask(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flask", "--app", "app", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environ, capture_output=True, text=True)


def with_settings(
    environ: dict[str, str], *arguments: str, **changed: str
) -> subprocess.CompletedProcess[str]:
    return flask(*arguments, environ=environ | changed)


def waiting(queue: Path) -> int:
    """The jobs that a queue in a file holds."""
    with closing(sqlite3.connect(f"file:{queue}?mode=ro", uri=True)) as connection:
        query = "select count(*) from kzr_jobs where state in ('waiting', 'taken')"
        return connection.execute(query).fetchone()[0]


# What is looked at


class Samples:
    """What was seen each second: seconds since the start, and figures by plot and process."""

    PLOTS = {
        "memory": "Memory of its own, MB",
        "descriptors": "File descriptors",
        "threads": "Threads",
        "files": "Temporary files",
    }

    def __init__(self, processes: dict[str, int], folders: list[Path]) -> None:
        self.processes = processes
        self.folders = folders  # for temporary files
        self.times: list[float] = []
        self.values: dict[str, dict[str, list[float]]] = {plot: {} for plot in self.PLOTS}

    def take(self, seconds: float) -> None:
        self.times.append(seconds)
        files = sum(len(list(folder.iterdir())) for folder in self.folders)
        for name, pid in self.processes.items():
            process = Path(f"/proc/{pid}")
            rollup = (process / "smaps_rollup").read_text()
            descriptors = list((process / "fd").iterdir())
            self.add("memory", name, int(re.search(r"Pss_Anon: +(\d+)", rollup)[1]) * 1024 / MB)
            self.add("descriptors", name, len(descriptors))
            self.add("threads", name, len(list((process / "task").iterdir())))
            for each in descriptors:
                with suppress(FileNotFoundError):  # it was closed
                    target = os.readlink(each)
                    files += target.endswith("(deleted)") and not target.startswith("/dev/")
        self.add("files", "all", files)

    def add(self, plot: str, name: str, value: float) -> None:
        self.values[plot].setdefault(name, []).append(value)

    def growth(self, plot: str, name: str) -> tuple[float, float]:
        """The medians of the second and of the last quarter."""
        values = self.values[plot][name]
        quarter = len(values) // 4
        return median(values[quarter : 2 * quarter]), median(values[3 * quarter :])

    def tell(self, plot: str) -> bool:
        told, flat = [], True
        for name in self.values[plot]:
            before, after = self.growth(plot, name)
            told.append(f"{name} {before:,.1f} to {after:,.1f}".replace(".0", ""))
            flat &= (
                after - before
                <= {
                    "memory": before * 0.05 + 4,
                    "descriptors": CLIENTS,
                    "threads": 2,
                    "files": 2 * CLIENTS,
                }[plot]
            )
        tried = f"{self.PLOTS[plot]}, second and last quarter of the time"
        return tell(tried, "; ".join(told), flat)


def draw(samples: Samples) -> str:
    """The samples as a picture (SVG): a plot for each kind of figure."""
    minutes = [seconds / 60 for seconds in samples.times]
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 580" width="960" height="580" '
        'font-family="sans-serif" font-size="12" fill="#333">',
        '<rect width="960" height="580" fill="#fff"/>',
    ]
    for at, (plot, title) in enumerate(samples.PLOTS.items()):
        x, y = at % 2 * 480 + 50, at // 2 * 285 + 40
        parts.append(f'<g transform="translate({x},{y})">')
        parts += draw_plot(title, minutes, samples.values[plot])
        parts.append("</g>")
    return "\n".join([*parts, "</svg>\n"])


def draw_plot(title: str, minutes: list[float], curves: dict[str, list[float]]) -> Iterator[str]:
    """One plot, with its origin at the upper left corner of its area."""
    width, height, right = 405, 190, max(minutes)
    step = nice(max(max(values) for values in curves.values()) / 5)
    upper = step * math.ceil(max(max(values) for values in curves.values()) / step)
    yield f'<text y="-16" font-weight="bold">{title}</text>'
    for line in range(round(upper / step) + 1):
        y = height * (1 - line * step / upper)
        yield f'<path d="M0,{y:.1f}h{width}" stroke="#ddd"/>'
        yield f'<text x="-8" y="{y + 4:.1f}" text-anchor="end">{line * step:g}</text>'
    tick = nice(right / 6)
    for number in range(math.floor(right / tick + 0.05) + 1):
        x = min(width, width * number * tick / right)
        yield f'<text x="{x:.1f}" y="{height + 18}" text-anchor="middle">{number * tick:g}</text>'
    yield f'<text x="{width}" y="{height + 38}" text-anchor="end">minutes</text>'
    for at, ((name, values), colour) in enumerate(zip(curves.items(), COLOURS, strict=False)):
        points = " ".join(
            f"{width * x / right:.1f},{height * (1 - y / upper):.1f}"
            for x, y in zip(minutes, values, strict=True)
        )
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        if len(curves) > 1:
            yield f'<path d="M{at * 85},{height + 34}h14" stroke="{colour}" stroke-width="3"/>'
            yield f'<text x="{at * 85 + 18}" y="{height + 38}">{name}</text>'


COLOURS = ("#777777", "#0072b2", "#d55e00", "#009e73")  # can be told apart by everybody


def nice(step: float) -> float:
    """The next larger of 1, 2, 5, 10, ... or of their tenths."""
    power = 10 ** math.floor(math.log10(step))
    return next(power * each for each in (1, 2, 5, 10) if power * each >= step * 0.999)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="of use (10)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="SVG of the four figures")
    parser.add_argument("--folder", default="/var/tmp", help="for the storage, on a disk")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of the clients' choices")
    given = parser.parse_args()
    log(f"--seed {given.seed}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given.folder)))
        folder.chmod(0o755)
        return 0 if soak(given, folder, stack) else 1


def soak(given: argparse.Namespace, folder: Path, stack: ExitStack) -> bool:
    storage, temporary = folder / "recordings", folder / "tmp"
    storage.mkdir()
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    settings = {
        "storage": storage,
        "readers": "reader:secret",
        "catalog": "yes",
        "metrics_allow": "127.0.0.1",
        "on_stored": "true",
        "checksums": "yes",
        "keep_days": "30",
    }
    # Fewer threads than clients, so that all are in use from the start: each keeps buffers, and
    # its connection to the catalog, which are only filled once it has done work of every kind.
    server = Nginx(options=("--workers=2", f"--threads={THREADS}"), **settings)
    stack.callback(server.stop)
    worker = Worker(folder, **settings)
    stack.callback(worker.stop)
    queue = storage / ".queue.sqlite"
    environ = os.environ | {f"KZR_{name.upper()}": str(each) for name, each in settings.items()}

    workers = wait_for(lambda: server.receiver.workers[1:] and server.receiver.workers)
    processes = {"master": server.receiver.process.pid}
    processes |= {f"worker {n}": pid for n, pid in enumerate(workers, 1)}
    processes["jobs"] = worker.process.pid
    bodies = [server.folder / name for name in ("bodies", "proxied")]
    samples = Samples(processes, [temporary, *bodies])

    state = Soak(server, given.seed)
    governor = Governor(state, queue, environ)
    governor.start()
    beside = Beside(state, partial(with_settings, environ), storage, folder)
    beside.start()
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as threads:
        try:
            running = [threads.submit(User(state, number).run) for number in range(CLIENTS)]
            while (seconds := time.monotonic() - began) < given.minutes * 60:
                samples.take(seconds)
                if len(samples.times) % 10 == 0:
                    log(f"{seconds:.0f} s: {dict(state.figures)}, {waiting(queue)} jobs wait")
                state.stop.wait(1 - (time.monotonic() - began) % 1)
        finally:
            state.stop.set()
        for each in running:
            each.result()
    governor.join()
    beside.join()
    if given.picture:
        given.picture.write_text(draw(samples))
    return conclude(state, samples, given.minutes, storage, worker, environ, beside)


def conclude(
    state: Soak,
    samples: Samples,
    minutes: float,
    storage: Path,
    worker: Worker,
    environ: dict[str, str],
    beside: Beside,
) -> bool:
    """Wait for the last jobs, compare all with what was promised, and print the rows."""
    figures, wrong = state.figures, state.wrong
    wait_for(lambda: not waiting(storage / ".queue.sqlite"), 120, "the last jobs")
    jobs = flask("jobs", environ=environ)
    if jobs.returncode or not jobs.stdout.startswith("0 waiting"):
        wrong.append(f"jobs: {jobs.stdout[:300]} {jobs.stderr[:300]}")
    done = len(re.findall(r"job command of .* done", worker.log))
    expected = figures["created"] + figures["superseded"]
    for name, pid in samples.processes.items():
        if not Path(f"/proc/{pid}").exists():
            wrong.append(f"{name} has ended")
    if figures["cut"] and list(storage.glob("cut/*")):
        wrong.append("an upload was stored that had been cut off")
    wrong += beside.judge(storage / ".catalog.sqlite")
    for line in wrong[:10]:
        log(f"  {line}")
    uploads = expected + figures["identical"]
    passed = tell(
        f"{minutes:g} minutes of everything at once, behind nginx",
        f"{uploads:,} uploads ({figures['superseded']:,} superseding, {figures['identical']:,} "
        f"again) and {figures['cut']:,} cut off, {figures['reads']:,} reads, "
        f"{figures['pages']:,} pages, {figures['erased']:,} erased; {len(wrong)} wrong",
        not wrong and all(figures[each] for each in ("created", "cut", "reads", "pages")),
    )
    ran = [f"{figures[each]:,} × {each}" for each in COMMANDS]
    passed &= tell("commands meanwhile", ", ".join(ran), all(figures[each] for each in COMMANDS))
    passed &= tell(
        "a job for each new recording meanwhile", f"{done:,} done of {expected:,}", done == expected
    )
    for plot in samples.PLOTS:
        passed &= samples.tell(plot)
    return passed


if __name__ == "__main__":
    sys.exit(main())
