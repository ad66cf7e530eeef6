"""Tries to break the receiver's promise in every way there is, and prints a table of what happened.

    sh tests/run.sh --proof            within 30 minutes
    sh tests/run.sh --proof --full     the README's figures, with no limit of time
    sh tests/run.sh --proof races      only that part

Every part is also a script of its own, with options: `python tests/proof/races.py --help`.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from report import HEAD, ROW

MOST_MINUTES = 30
LANES = 2  # parts that run at a time, where the time is short


@dataclass(frozen=True)
class Part:
    """A script, and the arguments that make it fit into 30 minutes together with the others."""

    name: str
    short: tuple[str, ...] = ()


# The longest ones first, so that the lanes end together.
PARTS = (
    Part("kill_and_cut"),
    Part("mutations", ("--no-baseline",)),
    Part("kills", ("--step=15", "--twice=3")),
    Part("cuts", ("--most=2",)),
    Part("power_cut", ("--rounds-ext4=20", "--rounds-xfs=10", "--controls=2")),
    Part("faults"),
    Part("soak", ("--minutes=2",)),
    Part("fuzz", ("--examples=20000",)),
    Part("races"),
    Part("fuzz_parsers", ("--minutes=1",)),
    Part("full"),
    Part("jobs", ("--seconds=10", "--rounds=5")),
    Part("timing"),
    Part("doubling"),
    Part("abuse", ("--seconds=15",)),
    Part("audit"),
)


class Runner:
    """Runs parts until the time is over; `rows` are what they told."""

    def __init__(self, folder: Path, deadline: float, full: bool) -> None:
        self.folder = folder
        self.deadline = deadline
        self.full = full
        self.began = time.monotonic()
        self.rows: dict[str, list[str]] = {}
        self.failed: list[str] = []
        self._lock = threading.Lock()

    def run(self, part: Part) -> None:
        """Run one part, its output in a file of its own."""
        log = self.folder / f"{part.name}.log"
        arguments = () if self.full else part.short
        command = [sys.executable, str(Path(__file__).parent / f"{part.name}.py"), *arguments]
        if (left := self.deadline - time.monotonic()) <= 0:
            self.fail(part, "not begun: the time was over")
            return
        self.say(f"{part.name} begins: {log}")
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                status = process.wait(left)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                for kind in (signal.SIGINT, signal.SIGKILL):  # also what it left running
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, kind)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(10)
        text = log.read_text(errors="replace")
        lines = text.splitlines()
        self.rows[part.name] = [line for line in lines if ROW.fullmatch(line)]
        if status is None:
            self.fail(part, "not finished: the time was over")
        elif status:
            last = "\n    ".join(lines[-15:])
            self.fail(part, f"ended with {status}\n    {last}")
        elif not self.rows[part.name]:  # it says why
            self.rows[part.name] = [f"| {part.name} | {lines[-1]} | not possible |"]
        else:
            self.say(f"{part.name} passed")

    def fail(self, part: Part, why: str) -> None:
        self.failed.append(part.name)
        self.say(f"{part.name} FAILED: {why}")

    def say(self, line: str) -> None:
        seconds = int(time.monotonic() - self.began)
        with self._lock:
            print(f"{seconds // 60:3}:{seconds % 60:02} {line}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="sh tests/run.sh --proof",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(names)}")
    parser.add_argument("--full", action="store_true", help="all figures, one part at a time")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(names):
        parser.error(f"no part is called {', '.join(unknown)}: there are {', '.join(names)}")
    if os.geteuid() != 0:
        parser.error("mounting and tracing need root")
    chosen = [part for part in PARTS if not given.parts or part.name in given.parts]
    folder = Path(tempfile.mkdtemp(prefix="proof-"))
    minutes = float("inf") if given.full else MOST_MINUTES
    runner = Runner(folder, time.monotonic() + 60 * minutes, given.full)
    with ThreadPoolExecutor(1 if given.full else LANES) as lanes:
        list(lanes.map(runner.run, chosen))

    cpus = len(os.sched_getaffinity(0))
    print(f"\n{time.strftime('%Y-%m-%d')}, Linux {platform.release()}, {cpus} CPUs\n\n{HEAD}")
    for part in chosen:
        print("\n".join(runner.rows.get(part.name) or [f"| {part.name} | none | FAILED |"]))
    if runner.failed:
        print(f"\nFAILED: {', '.join(runner.failed)}. What they printed is in {folder}")
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
