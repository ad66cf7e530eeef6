"""What administrators do beside the soak's uploads, each in a loop of its own; and what is left.

Families of names keep it plain what must be there. `GENERATION/` is uploaded to, superseded, and
erased once it is old. `old/` is copied in, as from a backup, with times of long ago, and purged,
but for those that are held. `held/` is uploaded and held, must then be refused to be erased, and is
released and erased, but for each third. All of it is copied to another folder again and again.
"""

import json
import os
import random
import re
import shutil
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from itertools import count
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

from races import recording

from receiver.catalog.tables import recordings
from support.killing import is_whole
from support.notes import is_note
from support.waiting import wait_for

if TYPE_CHECKING:
    from soak import Soak

Run = Callable[..., CompletedProcess[str]]
OLD = 1_600_000_000
BATCH = 8  # recordings that are copied in at once; each fourth of them is held
PAUSE = 1.0  # seconds between two commands of a loop, which leaves something to the uploads
ENOUGH = 60  # uploads before the first purge: it refuses to remove most of what is there
KINDS = (".json", ".txt", ".vtt", ".hold")
Names = dict[str, set[str]]  # the digests of the recordings of each name


class Beside:
    """Loops that go on until the soak stops; `run` runs a command on its storage."""

    def __init__(self, soak: "Soak", run: Run, storage: Path, folder: Path) -> None:
        self.soak = soak
        self.run = run
        self.storage = storage
        self.backup, self.copied = folder / "backup", folder / "copied"
        self.copied.mkdir()
        self.random = random.Random(f"{soak.seed} beside")
        self.held: Names = defaultdict(set)
        self.gone: Names = defaultdict(set)  # purged, or released and erased
        loops = (self.purge, self.hold, self.copy, self.reindex, self.verify)
        self.threads = [threading.Thread(target=self.loop, args=[each]) for each in loops]

    def start(self) -> None:
        for each in self.threads:
            each.start()

    def join(self) -> None:
        for each in self.threads:
            each.join()

    def loop(self, work: Callable[[int], None]) -> None:
        for number in count():
            if self.soak.stop.wait(PAUSE):
                return
            try:
                work(number)
            except Exception as error:
                self.soak.complain(f"{work.__name__}: {error!r}")

    def command(self, *arguments: str, status: int = 0) -> str:
        """Run a command, which must end with that; return what it prints."""
        ran = self.run(*arguments)
        self.soak.note(arguments[0] + (" --release" if "--release" in arguments else ""))
        if ran.returncode != status:
            said = f"{ran.stdout[-300:]} {ran.stderr[-500:]}"
            self.soak.complain(f"{' '.join(arguments)} ended with {ran.returncode}: {said}")
        return ran.stdout + ran.stderr

    def purge(self, number: int) -> None:
        if self.soak.figures["created"] < ENOUGH:
            return
        shutil.rmtree(self.backup, ignore_errors=True)
        (self.backup / "old").mkdir(parents=True)
        for index in range(BATCH):
            path = f"old/{number}-{index}.mp3"
            body = recording(self.random, 5_000)
            files = {path: body, f"{path}.json": json.dumps({"call_id": path}).encode()}
            if index % 4 == 0:
                files[f"{path}.hold"] = b'{"reason": "soak"}'
            for name, data in files.items():
                (self.backup / name).write_bytes(data)
                os.utime(self.backup / name, (OLD, OLD))
            (self.gone if index % 4 else self.held)[path].add(digest_of(body))
        self.command("copy", str(self.backup), str(self.storage))
        self.command("purge")

    def hold(self, number: int) -> None:
        path, body = f"held/{number}.mp3", recording(self.random, 5_000)
        caller = f"+1666{number:07}"
        answer = self.soak.server.put(f"/kzr/{path}?caller_id_number=%2B{caller[1:]}", body)
        if answer.status not in (200, 201):
            self.soak.complain(f"{answer.status} {answer.text[:200]!r}")
            return
        self.soak.note(answer.text.partition(":")[0])
        self.command("hold", path, "--reason", "soak")
        erase = ("erase", "--caller", caller, "--yes")
        if "not erased: on legal hold" not in self.command(*erase, status=1):
            self.soak.complain(f"{path} is held, and its erasure was not refused")
        if not (self.storage / path).exists():
            self.soak.complain(f"{path} is held, and is gone")
        if number % 3 == 0:
            self.held[path].add(digest_of(body))
            return
        self.command("hold", path, "--release")
        self.command(*erase)
        self.gone[path].add(digest_of(body))

    def copy(self, number: int) -> None:
        self.command("copy", str(self.storage), str(self.copied))

    def reindex(self, number: int) -> None:
        self.command("reindex")

    def verify(self, number: int) -> None:
        ran = self.run("verify")
        self.soak.note("verify")
        # What is copied in has an old time, and is in the catalog after the next reindex.
        told = re.findall(r"^(?!extra: old/)\w+: .*", ran.stdout, re.MULTILINE)
        is_expected = "extra: old/" in ran.stdout or "see KZR_CHECKSUMS" in ran.stdout
        if told or ran.returncode and not is_expected:
            self.soak.complain(f"verify: {told[:5]} {ran.stdout[-200:]} {ran.stderr[-300:]}")

    # What is left

    def judge(self, catalog: Path) -> Iterator[str]:
        """What is wrong, once nothing runs any more."""
        found = files_in(self.storage)
        names = names_in(found)
        erased, sent = self.soak.erasing, self.soak.acknowledged
        for path, digest, _ in sent:
            if of(path) not in erased and digest not in names[path]:
                yield f"lost: {path}"
        late = {path for path, _, when in sent if when > erased.get(of(path), when)}
        for path in names:
            if of(path) in erased and path not in late:
                yield f"erased, and still there: {path}"
        for path, digests in self.held.items():
            if not digests <= names[path] or f"{path}.hold" not in found:
                yield f"held, and lost: {path}"
        for path, digests in self.gone.items():
            if digests & names[path] or f"{path}.json" in found:
                yield f"purged or erased, and still there: {path}"
        for path in found:
            filename = path.rpartition("/")[2]
            if filename.startswith(".") or "~new" in filename:
                yield f"left over: {path}"
            about = re.sub(rf"({'|'.join(KINDS)})$".replace(".", r"\."), "", path)
            if about not in found:
                yield f"beside nothing: {path}"
            elif about == path and not is_whole(found[path]):
                yield f"not whole: {path}"
        yield from self.judge_catalog(catalog, found)
        yield from self.judge_copy(found)

    def judge_catalog(self, catalog: Path, found: dict[str, bytes]) -> Iterator[str]:
        wanted = {path for path in found if not path.endswith(KINDS)}

        def rows() -> set[str]:
            with closing(sqlite3.connect(catalog)) as database:
                return {path for (path,) in database.execute(f"select path from {recordings}")}

        def missing() -> set[str]:
            return {path for path in wanted - rows() if not path.startswith("old/")}

        wait_for(lambda: not missing(), 60, f"rows of {sorted(missing())[:5]} in the catalog")
        for path in rows() - wanted:
            yield f"in the catalog, and not stored: {path}"
        self.command("reindex")
        if rows() != wanted:
            yield f"in the catalog after reindex: {sorted(rows() ^ wanted)[:5]}"

    def judge_copy(self, found: dict[str, bytes]) -> Iterator[str]:
        self.command("copy", str(self.storage), str(self.copied))
        copied = files_in(self.copied)
        there = names_in(copied)
        for path, digests in names_in(found).items():
            if not digests <= there[path]:
                yield f"not copied: {path}"
            elif path in found and digest_of(copied[path]) != digest_of(found[path]):
                yield f"the copy's newest is another: {path}"
        for path in found:
            if path.endswith(".hold") and path not in copied:
                yield f"hold not copied: {path}"
        for path, data in copied.items():
            if not path.endswith(KINDS) and not is_whole(data):
                yield f"copied, not whole: {path}"
        if self.run("verify", KZR_STORAGE=str(self.copied), KZR_CATALOG="no").returncode:
            yield "verify of the copy"


def of(path: str) -> int:
    """The generation of a recording; -1 of the other families."""
    first = path.partition("/")[0]
    return int(first) if first.isdigit() else -1


def digest_of(body: bytes) -> str:
    return sha256(body).hexdigest()


def files_in(root: Path) -> dict[str, bytes]:
    """What is stored, and steps of what broke off; without what the storage keeps for itself."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
        and not is_note(path.name)
        and not path.name.startswith((".catalog.sqlite", ".queue.sqlite", ".purges"))
    }


def names_in(files: dict[str, bytes]) -> Names:
    names: Names = defaultdict(set)
    for path, data in files.items():
        if not path.endswith(KINDS):
            names[re.sub(r"~\d+(?=\.mp3$)", "", path)].add(digest_of(data))
    return names
