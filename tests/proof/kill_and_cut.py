"""Kills the receiver's workers and cuts its clients' connections, and counts what that does.

Clients upload through each of the ways to run the receiver: gunicorn alone, nginx in its three
ways, Apache's mod_proxy, mod_wsgi. As Kazoo does, they send each recording again until they see a
2xx. Meanwhile a worker gets a SIGKILL a few times a second, every third upload is cut off at any
byte (FIN, RST, or only the sending side, with Content-Length and chunked), and a scanner reads
every file that appears in the storage. Most recordings are small and have new names; some take a
name that another has, so that they supersede it; half bring metadata.

Then all of gunicorn is killed, the receiver is started on the storage once more, and all that is
there is compared with what was acknowledged. It passes with:

    0 lost            acknowledged, but not there with the same bytes, or only under another name
    0 partial         not whole, at any time that the scanner looked, and in the end
    0 never sent      under a name that it was not sent to
    0 left over       hidden files, unfinished steps, files that a process holds without a name
    0 wrong metadata  of another recording, or missing
    0 wrong answers   a 2xx for what was cut off, or no 2xx in 12 tries

    python tests/proof/kill_and_cut.py                     as root, about three minutes
    python tests/proof/kill_and_cut.py --seconds 5         a short look
    python tests/proof/kill_and_cut.py --only nginx --only "mod_wsgi daemon"
"""

import argparse
import os
import shutil
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from report import tell

from support.fronts import Front, installed
from support.killed_fronts import SERVERS, pause_between_kills, settle, unfinished, workers
from support.killing import CUTS, TRIES, Scanner, Sender, compare, upload_cut_and_kill
from support.receivers import Receiver

SECONDS = 25.0
CLIENTS = 12
LEAST = {"acknowledged": 20_000, "cut": 5_000, "kills": 200}  # of all fronts, in these seconds


@dataclass
class Figures:
    """What one front, or all of them, showed."""

    acknowledged: int = 0
    superseding: int = 0  # stored under a name that another recording had
    kills: int = 0
    most_tries: int = 0
    scans: int = 0
    scanned: int = 0  # files
    cuts: Counter[tuple[str, bool]] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Figures") -> None:
        for each in fields(self):
            ours, theirs = getattr(self, each.name), getattr(other, each.name)
            both = max(ours, theirs) if each.name == "most_tries" else ours + theirs
            if isinstance(ours, Counter):  # whose sum leaves out what is 0
                both = Counter({key: ours[key] + theirs[key] for key in {**ours, **theirs}})
            setattr(self, each.name, both)

    @property
    def passed(self) -> bool:
        return bool(
            self.acknowledged
            and self.cuts
            and self.kills
            and self.scans
            and self.most_tries <= TRIES
            and not self.wrong.total()
        )

    def __str__(self) -> str:
        kinds = [
            f"{sum(self.cuts[kind, chunked] for chunked in (False, True)):,} {kind}"
            for kind in CUTS
        ]
        chunked = sum(count for (_, chunked), count in self.cuts.items() if chunked)
        return (
            f"{self.acknowledged:,} acknowledged, {self.superseding:,} of them superseding; "
            f"{self.cuts.total():,} cut ({', '.join(kinds)}; {chunked:,} chunked); "
            f"{self.kills:,} SIGKILLs; at most {self.most_tries} tries; "
            f"{self.scanned:,} files read in {self.scans:,} scans; "
            + ", ".join(f"{count:,} {kind}" for kind, count in self.wrong.items())
        )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def start_again(front: Front) -> None:
    """Kill all of gunicorn, stop what is in front, and start a receiver there, which sweeps."""
    if front.receiver:
        processes = [front.receiver.process.pid, *front.receiver.workers]
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        front.receiver.process.wait()
    front.process.terminate()
    front.process.wait(30)
    folder = front.folder / "again"
    folder.mkdir()
    receiver = Receiver(folder, storage=front.storage, min_free=0)
    receiver.request("GET", "/")  # gunicorn can lose a SIGTERM while its worker is starting
    receiver.stop()


def measure(
    front: Front, seconds: float, seed: str, full: bool
) -> tuple[Figures, dict[str, list[str]]]:
    """Load a front, for up to twice the seconds where the full figures need that; then look."""
    scanner = Scanner(front.storage)
    limit = time.monotonic() + 2 * seconds

    def has_less_than_its_share(senders: list[Sender], kills: int) -> bool:
        acknowledged = sum(len(sender.acknowledged) for sender in senders)
        few = acknowledged * len(SERVERS) < LEAST["acknowledged"]
        few |= total(senders, "cuts").total() * len(SERVERS) < LEAST["cut"]
        return full and few and time.monotonic() < limit

    senders, kills = upload_cut_and_kill(
        front,
        partial(workers, front),
        scanner,
        seconds,
        pause_between_kills(front),
        seed,
        CLIENTS,
        has_less_than_its_share,
    )
    with suppress(AssertionError):  # what is still there is counted below
        settle(front)
    held = unfinished(front.storage)
    start_again(front)
    files = front.files()
    wrong = compare(files, senders)
    wrong["partial"] += scanner.partial
    wrong["left over"] += held
    acknowledged = [each for sender in senders for each in sender.acknowledged]
    figures = Figures(
        acknowledged=len(acknowledged),
        superseding=len(acknowledged) - len({name for name, _ in acknowledged}),
        kills=kills,
        most_tries=max(max(sender.tries, default=0) for sender in senders),
        scans=scanner.scans,
        scanned=len(scanner.seen),
        cuts=total(senders, "cuts"),
        wrong=Counter({kind: len(found) for kind, found in wrong.items()}),
    )
    say(f"  refused or broken off, though sent whole: {dict(total(senders, 'refusals'))}")
    return figures, wrong


def total(senders: list[Sender], name: str) -> Counter:
    return sum((getattr(sender, name) for sender in senders), Counter())


def try_front(title: str, given: argparse.Namespace, full: bool) -> Figures:
    say(f"{title}: {given.seconds:g} s ...")
    began = time.monotonic()
    front = SERVERS[title]()
    try:
        figures, wrong = measure(front, given.seconds, f"{given.seed} {title}", full)
    finally:
        front.stop()
    say(f"  {figures} ({time.monotonic() - began:.1f} s)")
    for kind, found in wrong.items():
        for each in found[:5]:
            say(f"  {kind}: {each}")
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    least = ", ".join(f"{number:,} {name}" for name, number in LEAST.items())
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        metavar="N",
        help=f"of uploads through each front ({SECONDS:g}); with that many, or more, and all "
        f"fronts, the total has to reach {least}, "
        "for which each front takes up to twice as long",
    )
    parser.add_argument("--only", action="append", choices=SERVERS, help="this front; repeatable")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of the clients' choices")
    given = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("this needs root: nginx and Apache change to their own users")
    chosen = given.only or list(SERVERS)
    full = given.seconds >= SECONDS and not given.only
    say(f"--seed {given.seed}")
    every = Figures()
    results = {}
    try:
        for title in chosen:
            results[title] = try_front(title, given, full)
            every.add(results[title])
    finally:
        if hasattr(installed, "folder"):
            shutil.rmtree(installed.folder)
    passed = [
        tell(f"workers killed and connections cut: {title}", str(figures), figures.passed)
        for title, figures in results.items()
    ]
    counted = {"acknowledged": every.acknowledged, "cut": every.cuts.total(), "kills": every.kills}
    enough = not full or all(counted[name] >= number for name, number in LEAST.items())
    passed.append(
        tell("workers killed and connections cut: all", str(every), every.passed and enough)
    )
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
