"""Cuts the power while clients upload, and compares what is on the disk with what was promised.

Each round makes an ext4 or XFS file system in an image, mounts it, starts a receiver that stores
there, and uploads: with one client in every second round, because many hide a missing fsync of a
folder behind each other's; in every fourth, the cut comes right after an answer. The cut is the
ioctl that shuts the file system down without writing its journal's last part (nor anything else
that is only in memory). Then the image is mounted again, and each recording that was acknowledged
has to be there, whole, with what was told of it; nothing partial may have a name.

First come control rounds without an fsync: if they lose nothing, the test itself is broken.

    python tests/proof/power_cut.py                        as root, about eight minutes
    python tests/proof/power_cut.py --without-fsync folder see what that fsync is for

What this cannot show is whether the disk itself keeps what it says it has written.
"""

import argparse
import fcntl
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from mutations import MUTATIONS, copy_project
from report import tell

from receiver.storage.versions import NOTHING
from support import receivers
from support.killing import is_whole, recording
from support.notes import is_note
from support.receivers import Receiver
from support.waiting import wait_for

SHUTDOWN = 0x8004587D  # XFS_IOC_GOINGDOWN and EXT4_IOC_SHUTDOWN
NO_LOG_FLUSH = 2
IMAGE_BYTES = 1 << 30  # sparse
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
WITHOUT = {
    "file": "fsync of the file",
    "folder": "fsync of the folder",
    "metadata": "fsync of the metadata",
    "parent": "fsync of a new folder's parent",
    "retry": "fsync of a retry's file",
    "superseding": "fsync before a superseding recording takes the name",
}
CONTROLS = ("file", "folder", "metadata")  # whose absence a few cuts have to show


@dataclass
class Upload:
    """A recording that was sent; `outcome` is what a 2xx answer said, "" without one."""

    name: str
    body: bytes
    told: bool  # metadata
    outcome: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.name, hashlib.sha256(self.body).hexdigest()

    @property
    def target(self) -> str:
        folder, _, last = self.name.rpartition("/")
        query = f"?call_id={self.key[1]}" if self.told else ""
        return f"/kzr/{folder}/call_recording_{last}.mp3{query}"


class Uploader(threading.Thread):
    """Uploads one recording after the other until it is told to stop.

    Few names, so that recordings supersede each other's; some are sent again, as after a lost
    answer, also while another client is still sending the first.
    """

    def __init__(self, receiver: Receiver, seed: str, sent: list[Upload], alone: bool) -> None:
        super().__init__(daemon=True)
        self.receiver = receiver
        self.random = random.Random(seed)
        self.sent = sent  # by all clients
        self.alone = alone
        self.stop = threading.Event()
        self.at_answer: Callable[[], None] | None = None  # to do right after the next one

    def run(self) -> None:
        while not self.stop.is_set():
            upload = self.next()
            self.sent.append(upload)
            chunked = self.random.random() < 0.3
            with suppress(OSError, http.client.HTTPException):  # it is down
                answer = self.receiver.put(upload.target, upload.body, chunked=chunked)
                if answer.status in (200, 201):
                    upload.outcome = answer.text.partition(":")[0]
            if upload.outcome and self.at_answer:
                self.at_answer()
                return
            if self.alone and self.random.random() < 0.5:  # nobody else's fsync helps meanwhile
                time.sleep(self.random.uniform(0, 0.02))

    def next(self) -> Upload:
        told = self.random.random() < 0.5
        if self.sent and self.random.random() < 0.1:
            last = self.random.choice(self.sent[-4:])
            return Upload(last.name, last.body, told)
        folder = self.random.choice(["", "A/", "A/B/", f"A/{self.random.randrange(300)}/"])
        return Upload(f"{folder}{self.random.randrange(30)}", recording(self.random), told)


@dataclass
class Figures:
    """What some rounds showed. A promise is broken by `lost`, `partial` and `metadata`."""

    rounds: int = 0
    acknowledged: int = 0
    lost: int = 0
    partial: int = 0
    metadata: int = 0  # of acknowledged recordings: absent, or another recording's
    unacknowledged: int = 0  # recordings that are there, whole, although no answer arrived
    bare: int = 0  # of these, without the metadata that was sent with them
    orphans: int = 0  # metadata without a recording
    steps: int = 0  # recordings that were about to take a name
    ahead: int = 0  # metadata of these that has its name already

    def add(self, other: "Figures") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def broken(self) -> bool:
        return bool(self.lost or self.partial or self.metadata)


@contextmanager
def mounted(image: Path, mount: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        yield
    finally:
        wait_for(lambda: not subprocess.run(["umount", mount], capture_output=True).returncode)


def cut_power(mount: Path) -> None:
    root = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(root, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(root)


def is_down(mount: Path) -> bool:
    try:
        os.mkdir(mount / "up")
    except OSError:
        return True
    return False


def kill(receiver: Receiver) -> None:
    """End the receiver and its workers as a power cut does."""
    with suppress(FileNotFoundError):
        workers = receiver.workers
        receiver.process.kill()
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    receiver.process.wait()


def upload_until_cut(
    mount: Path, folder: Path, number: int, seed: str, seconds: float
) -> list[Upload]:
    """Start a receiver and its clients, cut the power, and return all that was sent."""
    alone, at_answer = number % 2 == 0, number % 4 == 0
    rng = random.Random(seed)
    receiver = Receiver(folder, "--workers=2", storage=mount / "new" / "recordings", min_free="0")
    sent: list[Upload] = []
    clients = [
        Uploader(receiver, f"{seed} {client}", sent, alone) for client in range(1 if alone else 8)
    ]
    try:
        for client in clients:
            client.start()
        time.sleep(seconds * rng.uniform(0.3, 1.7))
        if at_answer:
            clients[0].at_answer = lambda: cut_power(mount)
            clients[0].join(20)
        else:
            cut_power(mount)
        if not is_down(mount):
            raise SystemExit(f"the power was not cut: {receiver.log}")
    finally:
        for client in clients:
            client.stop.set()
        kill(receiver)
        for client in clients:
            client.join(60)
    return sent


def compare(root: Path, sent: list[Upload]) -> tuple[Figures, list[str]]:
    """Compare what is stored below `root` with what was sent, and say what is wrong."""
    figures, wrong = Figures(rounds=1), []
    files = {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".incoming" not in path.parts and not is_note(path.name)
    }
    recordings = {path: data for path, data in files.items() if path.endswith(".mp3")}
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in recordings.items()}
    tells: dict[str, str] = {}  # what lies beside a recording

    for path, data in files.items():
        is_step = path.endswith((".keep", ".gone"))  # a recording by a hidden name, meanwhile
        if path in recordings or is_step:
            if not is_whole(data):
                figures.partial += 1
                wrong.append(f"not whole: {path}, {len(data)} bytes")
            figures.steps += "~new" in path or is_step
            continue
        if data == NOTHING:  # a step to a recording without metadata
            continue
        try:
            beside = path.removesuffix(".json")
            tells[beside] = json.loads(data)["call_id"]
        except (ValueError, KeyError):
            figures.partial += 1
            wrong.append(f"not whole: {path}, {len(data)} bytes")
            continue
        if beside not in recordings:
            figures.orphans += 1
        # Between the last two steps of superseding, the next upload finishes them.
        elif tells[beside] != digests[beside]:
            if tells[beside] == digests.get(beside.replace(".mp3", "~new.mp3")):
                figures.ahead += 1
            else:
                figures.metadata += 1
                wrong.append(f"another recording's metadata: {path}")

    stored: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, digest in digests.items():
        if "~new" not in path:
            stored[path.removesuffix(".mp3").partition("~")[0], digest].append(path)

    told: dict[tuple[str, str], bool] = defaultdict(lambda: True)  # each time it was sent
    for upload in sent:
        told[upload.key] &= upload.told
        paths = stored.get(upload.key, [])
        has_metadata = any(tells.get(path) == upload.key[1] for path in paths)
        if upload.outcome:
            figures.acknowledged += 1
            if not paths:
                figures.lost += 1
                wrong.append(f"lost: {upload.name}, {len(upload.body)} bytes, {upload.outcome}")
            # A retry's metadata is not kept: that of the first, if any, is there.
            elif upload.told and upload.outcome != "identical" and not has_metadata:
                figures.metadata += 1
                wrong.append(f"without its metadata: {paths}, {upload.outcome}")
    acknowledged = {upload.key for upload in sent if upload.outcome}
    for key, paths in stored.items():
        if key not in told and is_whole(recordings[paths[0]]):
            figures.partial += 1
            wrong.append(f"never sent: {paths}")
        elif key in told and key not in acknowledged:
            figures.unacknowledged += 1
            figures.bare += told[key] and not any(tells.get(path) == key[1] for path in paths)
    return figures, wrong


def play_round(kind: str, number: int, seed: str, given: argparse.Namespace) -> Figures:
    """Make a file system, cut its power and look; print a line, and one for each thing wrong."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="power-cut-", dir=given.images) as name:
        folder = Path(name)
        image, mount = folder / "image", folder / "mount"
        mount.mkdir()
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.run([*MAKE[kind], image], check=True, env=environ())
        with mounted(image, mount):
            sent = upload_until_cut(mount, folder, number, seed, given.seconds)
        with mounted(image, mount):
            figures, wrong = compare(mount / "new" / "recordings", sent)
    print(
        f"{kind} {number + 1}: {figures.acknowledged} acknowledged, {figures.lost} lost, "
        f"{figures.partial} not whole, {figures.metadata} without their metadata "
        f"({time.monotonic() - began:.1f} s)",
        flush=True,
    )
    for line in wrong[:5]:
        print(f"  {line}", flush=True)
    return figures


def environ() -> dict[str, str]:
    return os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}


@contextmanager
def without(fsync: str | None) -> Iterator[None]:
    """Start receivers from a copy of the project that lacks an fsync."""
    if not fsync:
        yield
        return
    (mutation,) = [each for each in MUTATIONS if each.name == WITHOUT[fsync]]
    original = receivers.PROJECT
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:
        receivers.PROJECT = copy_project(Path(folder), mutation)
        try:
            yield
        finally:
            receivers.PROJECT = original


def play(
    kind: str, rounds: int, fsync: str | None, given: argparse.Namespace, stride: int = 1
) -> Figures:
    total = Figures()
    with without(fsync):
        for number in range(0, rounds * stride, stride):
            seed = f"{given.seed} {kind} {fsync} {number}"
            total.add(play_round(kind, number, seed, given))
    return total


def table(results: list[tuple[str, str | None, Figures]]) -> str:
    heads = [
        "file system",
        "without the fsync of",
        "cuts",
        "acknowledged",
        "lost",
        "not whole",
        "metadata lost or wrong",
        "there without an answer",
        "of these without metadata",
        "metadata alone",
        "unfinished steps",
        "with metadata ahead",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---|---|" + "--:|" * (len(heads) - 2)]
    for kind, fsync, figures in results:
        values = [str(getattr(figures, field.name)) for field in fields(figures)]
        lines.append(f"| {' | '.join([kind, fsync or '-', *values])} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds-ext4", type=int, default=100, metavar="N")
    parser.add_argument("--rounds-xfs", type=int, default=50, metavar="N")
    parser.add_argument("--controls", type=int, default=4, metavar="N", help="of each kind (4)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of uploads in a round (1)")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of the clients' choices")
    parser.add_argument("--images", default="/var/tmp", help="folder for the images, on a disk")
    parser.add_argument(
        "--without-fsync", choices=WITHOUT, help="leave that out in all rounds; no controls"
    )
    given = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("mounting needs root")
    rounds = {"ext4": given.rounds_ext4, "xfs": given.rounds_xfs}
    for program in [MAKE[kind][0] for kind, number in rounds.items() if number]:
        if not shutil.which(program, path=environ()["PATH"]):
            parser.error(f"{program} is not installed: see the list of packages in tests/run.sh")
    print(f"--seed {given.seed}", flush=True)

    results: list[tuple[str, str | None, Figures]] = []
    blind = []
    controls = CONTROLS if given.controls and not given.without_fsync else ()
    for kind in [kind for kind, number in rounds.items() if number]:
        for fsync in controls:
            print(f"Control rounds, without the fsync of the {fsync}:", flush=True)
            results.append((kind, fsync, play(kind, given.controls, fsync, given, 2)))
            if not results[-1][2].broken:
                blind.append(f"{kind} without the fsync of the {fsync}")
    broken = False
    for kind, number in rounds.items():
        if number:
            figures = play(kind, number, given.without_fsync, given)
            results.append((kind, given.without_fsync, figures))
            broken |= figures.broken
    print(f"\n{table(results)}\n")
    for kind, fsync, figures in results:
        is_control = fsync in controls
        tell(
            f"power cuts, {kind}{f', without the fsync of the {fsync}' if fsync else ''}",
            f"{figures.rounds} cuts, {figures.acknowledged:,} acknowledged, {figures.lost} lost, "
            f"{figures.partial} not whole, {figures.metadata} without their metadata"
            f"{': the test sees what it should' if is_control and figures.broken else ''}",
            figures.broken == is_control,
        )
    if blind:
        print(f"The test is broken: it saw no losses on {' or '.join(blind)}.")
    print("A promise was broken." if broken else "Nothing that was acknowledged was lost.")
    return 1 if broken or blind else 0


if __name__ == "__main__":
    sys.exit(main())
