"""Compares the receiver's speed with that of others, in one run.

    python tests/bench servers     the PHP receiver and nginx's own upload
    python tests/bench storages    a plain client of each storage
    python tests/bench extras      the receiver without its catalog, metrics and jobs
    python tests/bench jobs        uploads with a job each, on new file systems (as root)
    python tests/bench catalog     searches among a million recordings
    python tests/bench --help

Prints a Markdown table. The receiver has synced each upload before it answers; other servers sync
nothing. Rounds are interleaved, so that what else the machine does meets all alike.
"""

import argparse
import datetime
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.clients import Storing
from support.folders import world_readable_folder
from support.fronts import ApacheProxy, ModWsgi, Nginx, installed
from support.needs import need
from support.php import ModPhp, NginxDav, NginxPhpFpm, newest
from support.receivers import Receiver

CLIENTS = 8
LARGE = 100_000_000  # bytes
LOADS = {"1 MB": 1_000_000, "20 KB": 20_000}  # bytes, by name
DISK_PER_SECOND = 800_000_000  # bytes that a load writes at most, by far
SHAPE = ("--workers=2",)  # the tests' servers have one worker, for order; this is the default's

# Each thread of wrk has a state of its own. A name is never sent twice.
WRK = """
local threads = {}
function setup(thread)
    table.insert(threads, thread)
    thread:set("id", #threads)
end
function init(args)
    wrk.method, wrk.body = "PUT", string.rep("x", tonumber(args[1]))
    run, count, bad = args[2], 0, 0
end
function request()
    count = count + 1
    return wrk.format(nil, "/kzr/call_recording_" .. run .. "-" .. id .. "-" .. count .. ".mp3")
end
function response(status)
    if status < 200 or status > 299 then bad = bad + 1 end
end
function done(summary)
    local errors = summary.errors
    local bad = errors.connect + errors.read + errors.write + errors.timeout
    for _, thread in ipairs(threads) do bad = bad + thread:get("bad") end
    io.write("RESULT ", summary.requests, " ", summary.duration, " ", bad, "\\n")
end
"""


class Contestant(NamedTuple):
    """A server to measure, and the PHP receiver under the same kind of server."""

    name: str
    start: Callable[[], Storing]
    rival: str | None


def gunicorn_alone() -> Receiver:
    return Receiver(world_readable_folder(), *SHAPE)


def embedded(site: str) -> str:
    """deploy/apache-wsgi.conf without processes of its own: Apache's serve the receiver."""
    site, lines = re.subn(r"^ +WSGI(DaemonProcess.*\\\n|ProcessGroup).*\n", "", site, flags=re.M)
    assert lines == 2, site
    home = installed()
    return f"WSGIPythonHome {home}/.venv\nWSGIPythonPath {home}\n{site}"


MOD_PHP, PHP_FPM = "PHP, Apache mod_php", "PHP, nginx and php-fpm"
CONTESTANTS = (
    Contestant(MOD_PHP, ModPhp, MOD_PHP),
    Contestant(PHP_FPM, NginxPhpFpm, PHP_FPM),
    Contestant("nginx's own DAV PUT", NginxDav, PHP_FPM),
    Contestant("receiver, gunicorn alone", gunicorn_alone, None),
    Contestant("receiver, nginx", lambda: Nginx(options=SHAPE), PHP_FPM),
    Contestant(
        "receiver, nginx with handover", lambda: Nginx(handover=True, options=SHAPE), PHP_FPM
    ),
    Contestant("receiver, Apache mod_proxy", lambda: ApacheProxy(options=SHAPE), MOD_PHP),
    Contestant("receiver, mod_wsgi daemon", ModWsgi, MOD_PHP),
    Contestant("receiver, mod_wsgi embedded", lambda: ModWsgi(edit=embedded), MOD_PHP),
)


class Figures:
    """What the rounds measured of one contestant; medians come out."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {load: [] for load in LOADS}  # uploads per second
        self.costs: dict[str, list[float]] = {load: [] for load in LOADS}  # CPU seconds per GB
        self.large: list[float] = []  # seconds

    def rate(self, load: str) -> float:
        return median(self.rates[load])


def cpu_seconds(server: Storing) -> float:
    """CPU time of the server's processes so far, with that of children that have ended."""
    roots = [getattr(server, name, None) for name in ("process", "fpm")]
    behind = getattr(server, "receiver", None)
    pids = [root.pid for root in [*roots, behind and behind.process] if root]
    ticks = 0
    while pids:
        process = Path("/proc", str(pids.pop()))
        try:
            # utime, stime and those of waited-for children; the name before may hold spaces.
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            for task in (process / "task").iterdir():  # a thread may have children too
                pids += map(int, (task / "children").read_text().split())
        except FileNotFoundError:  # ended meanwhile
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def empty(server: Storing) -> None:
    """Remove what was stored, and let the disk rest: what one wrote must not slow the next."""
    for path in list(server.storage.rglob("*.mp3")):
        path.unlink(missing_ok=True)
    os.sync()


def check_stored(server: Storing, size: int, uploads: int) -> None:
    """See that every upload that was answered is there, whole."""
    whole = sum(path.stat().st_size == size for path in server.storage.rglob("*.mp3"))
    if whole < uploads:
        sys.exit(f"{uploads} uploads of {size} bytes were answered, {whole} are stored")


def measure_load(server: Storing, size: int, seconds: int, script: Path) -> tuple[float, float]:
    """Return the uploads per second and the CPU seconds per GB."""
    if shutil.disk_usage(server.storage).free < seconds * DISK_PER_SECOND:
        sys.exit("the disk may become full: choose another --folder or fewer --seconds")
    options = ["-t2", f"-c{CLIENTS}", f"-d{seconds}s", "--timeout=30s", f"-s{script}"]
    url = f"http://127.0.0.1:{server.port}/"
    command = [need("wrk"), *options, url, "--", str(size), os.urandom(6).hex()]
    before = cpu_seconds(server)
    wrk = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    spent = cpu_seconds(server) - before
    result = re.search(r"^RESULT (\d+) (\d+) (\d+)$", wrk.stdout, re.M)
    if not result:
        sys.exit(f"wrk failed: {wrk.stdout} {wrk.stderr}")
    uploads, microseconds, bad = map(int, result.groups())
    if bad or not uploads:
        sys.exit(f"{bad} uploads failed, {uploads} were answered: {wrk.stdout}")
    check_stored(server, size, uploads)
    return uploads / microseconds * 1e6, spent / (uploads * size / 1e9)


def measure_large(server: Storing, body: bytes) -> float:
    """Return the seconds from connecting until the answer to one large upload."""
    started = time.monotonic()
    answer = server.put(f"/kzr/call_recording_{os.urandom(6).hex()}.mp3", body)
    seconds = time.monotonic() - started
    if answer.status not in (200, 201, 204):
        sys.exit(f"the large upload was answered {answer.status}: {answer.text}")
    check_stored(server, len(body), 1)
    return seconds


def measure(
    servers: dict[str, Storing], rounds: int, seconds: int, script: Path
) -> dict[str, Figures]:
    figures = {name: Figures() for name in servers}
    large = os.urandom(LARGE)
    for number in range(1, rounds + 1):
        for name, server in servers.items():
            for load, size in LOADS.items():
                rate, cost = measure_load(server, size, seconds, script)
                empty(server)
                figures[name].rates[load].append(rate)
                figures[name].costs[load].append(cost)
                print(f"round {number}, {name}: {load} {rate:.0f}/s", file=sys.stderr)
            figures[name].large.append(measure_large(server, large))
            empty(server)
    return figures


def table(figures: dict[str, Figures]) -> Iterator[str]:
    head = ["server"]
    for load in LOADS:
        head += [f"{load}: uploads/s", "MB/s", "CPU s/GB", "× mod_php", "× PHP there"]
    head += ["100 MB: s", "× mod_php", "× PHP there"]
    yield row(head)
    yield row(["---"] + ["---:"] * (len(head) - 1))
    for name, _, rival_name in CONTESTANTS:
        mine = figures[name]
        rivals = [figures[MOD_PHP], figures[rival_name] if rival_name else None]
        cells = [name]
        for load, size in LOADS.items():
            rate = mine.rate(load)
            cells += [f"{rate:.0f}", f"{rate * size / 1e6:.1f}", f"{median(mine.costs[load]):.2f}"]
            cells += [f"{rate / rival.rate(load):.2f}" if rival else "" for rival in rivals]
        time_taken = median(mine.large)
        cells += [f"{time_taken:.2f}"]
        cells += [f"{median(rival.large) / time_taken:.2f}" if rival else "" for rival in rivals]
        yield row(cells)


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def heading(folder: Path) -> str:
    """Where and with what this was measured."""
    versions = [f"gunicorn {importlib.metadata.version('gunicorn')}"]
    fpm = newest(Path("/usr/sbin"), "php-fpm*")
    for command in ([need("nginx"), "-v"], [need("apache2"), "-v"], [fpm, "-v"]):
        told = subprocess.run(command, capture_output=True, text=True)
        product, version = re.search(r"(\w+)[/ ](\d[\w.]+)", told.stdout + told.stderr).groups()
        versions.append(f"{product} {version}")
    return (
        f"{datetime.date.today()}, {os.cpu_count()} CPUs, Linux {os.uname().release}, "
        f"{file_system(folder)}, {', '.join(versions)}"
    )


def file_system(folder: Path) -> str:
    command = [need("findmnt"), "-no", "FSTYPE", "-T", folder]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder for all that is written, storages as well; every server user can enter it."""
    if file_system(parent) in ("tmpfs", "ramfs", "overlay"):
        sys.exit(f"{parent} is on no real disk: choose another --folder")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as folder:
        os.chmod(folder, 0o755)
        tempfile.tempdir = folder
        yield Path(folder)


def storages(folder: Path, rounds: int, seconds: int) -> Iterator[str]:
    import storages  # which needs all of their clients

    head, *cells = storages.rows(folder, rounds, seconds)
    yield row(head)
    yield row(["---"] + ["---:"] * (len(head) - 1))
    yield from map(row, cells)


def servers(folder: Path, rounds: int, seconds: int) -> Iterator[str]:
    with ExitStack() as stack:
        script = folder / "wrk.lua"
        script.write_text(WRK)
        started: dict[str, Storing] = {}
        for name, start, _ in CONTESTANTS:
            print(f"starting {name}", file=sys.stderr)
            started[name] = start()
            stack.callback(started[name].stop)
        yield from table(measure(started, rounds, seconds, script))


EXTRAS: dict[str, dict[str, object]] = {
    "nothing": {},
    "metrics": {"metrics_allow": "127.0.0.1"},
    "catalog": {"catalog": "yes"},
    "jobs, one for each recording": {"on_stored": "true"},
}


def extras(folder: Path, rounds: int, seconds: int) -> Iterator[str]:
    """The receiver with what is optional, beside the same without."""
    script = folder / "wrk.lua"
    script.write_text(WRK)
    rates: dict[str, list[float]] = {name: [] for name in EXTRAS}
    with ExitStack() as stack:
        started = {}
        for name, settings in EXTRAS.items():
            started[name] = Receiver(world_readable_folder(), *SHAPE, **settings)
            stack.callback(started[name].stop)
        for number in range(1, rounds + 1):
            for name, server in started.items():
                rate, _ = measure_load(server, LOADS["1 MB"], seconds, script)
                empty(server)
                rates[name].append(rate)
                print(f"round {number}, {name}: {rate:.0f}/s", file=sys.stderr)
    yield row(["with", "1 MB: uploads/s", "ratio"])
    yield row(["---", "---:", "---:"])
    for name, mine in rates.items():
        ratios = [one / other for one, other in zip(mine, rates["nothing"], strict=True)]
        yield row([name, f"{median(mine):.0f}", f"{median(ratios):.2f}"])


def jobs(folder: Path, rounds: int, seconds: int) -> Iterator[str]:
    import jobs

    script = folder / "wrk.lua"
    script.write_text(WRK)
    head, *cells = jobs.rows(folder, rounds, seconds, SHAPE, measure_load, script)
    yield row(head)
    yield row(["---"] + ["---:"] * (len(head) - 1))
    yield from map(row, cells)


def catalog(folder: Path, rounds: int, seconds: int) -> Iterator[str]:
    import catalog

    head, *cells = catalog.rows(folder)
    yield row(head)
    yield row(["---"] + ["---:"] * (len(head) - 1))
    yield from map(row, cells)


PARTS = {
    "servers": servers,
    "storages": storages,
    "extras": extras,
    "jobs": jobs,
    "catalog": catalog,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3, help="not of the catalog's searches")
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args()
    with scratch(options.folder) as folder:
        rounds = f"; medians of {options.rounds} rounds of {options.seconds} s, {CLIENTS} clients"
        print(heading(folder) + ("" if options.part == "catalog" else rounds), end="\n\n")
        for line in PARTS[options.part](folder, options.rounds, options.seconds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
