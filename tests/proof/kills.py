"""Kills commands at each of their system calls, runs them again, and looks at what is there.

A folder is filled with recordings: many versions of a name, held ones, some without metadata or
extension, with transcripts, with those of others. Then in it, each time anew, a process

- erases a number, purges, supersedes, holds, attaches checksums and a transcript, or copies, once
  into an empty folder and once into one that has an older copy,
- and is killed with SIGKILL before one of its calls that change or sync anything, of any thread:
  the first, the second, and so on, until it gets to its end.

The same is done again, and then nothing that was acknowledged may be lost, and nothing that was to
go be left: no audio, transcript, metadata, step of what broke off, or row in the catalog. `verify`
must find all as it should be. After superseding and attaching, everything is erased besides; once
by somebody else than the sender, who never came back.

Then some are killed twice, at calls that were drawn: what is done again, too, before it is through;
and it may be the purge that is done after an erasure was killed, or the other way round.

    python tests/proof/kills.py                  four minutes
    python tests/proof/kills.py --step 5         only each fifth call
    python tests/proof/kills.py --only erase

Processes are forked from one that has imported everything, and run what `kazoo-receiver` runs.
"""

import argparse
import ctypes
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from report import tell

from commands import (
    ALL,
    OLDER,
    Files,
    Operation,
    command,
    differences,
    fill,
    in_process,
    operations,
    upload,
    wrong_in_catalog,
)

# On x86-64: what changes or syncs files, by the calls' numbers.
CALLS = {
    1: "write", 18: "pwrite64", 20: "writev", 74: "fsync", 75: "fdatasync", 76: "truncate",
    77: "ftruncate", 82: "rename", 83: "mkdir", 84: "rmdir", 86: "link", 87: "unlink",
    90: "chmod", 91: "fchmod", 257: "openat", 258: "mkdirat", 263: "unlinkat", 264: "renameat",
    265: "linkat", 268: "fchmodat", 280: "utimensat", 316: "renameat2",
}  # fmt: skip
OPENAT, CREATES = 257, os.O_CREAT | os.O_TRUNC
TRACEME, CONT, SETOPTIONS, SYSCALL, SYSCALL_INFO = 0, 7, 0x4200, 24, 0x420E  # see ptrace(2)
SYSGOOD, TRACECLONE, EXITKILL = 1, 8, 0x100000
ALL_THREADS = 0x40000000  # __WALL


class SyscallInfo(ctypes.Structure):
    """What PTRACE_GET_SYSCALL_INFO tells of a call that is entered (`op` 1) or left."""

    _fields_ = [
        ("op", ctypes.c_uint8),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    ]


libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Ran:
    """How a process ended, and how many of the calls it made."""

    status: int  # -SIGKILL if it was killed
    calls: int
    output: str
    last: str = ""  # the call that it was killed at

    @property
    def was_killed(self) -> bool:
        return self.status == -signal.SIGKILL


def run(work: Callable[[], object], environ: dict[str, str], kill_at: int = 0) -> Ran:
    """Do work in a process of its own, which is killed before that call of its, the first is 1."""
    output = Path(tempfile.gettempdir()) / f"output-{os.getpid()}"
    child = os.fork()
    if not child:
        if kill_at:
            libc.ptrace(TRACEME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
        in_process(work, environ, output)
    calls, last = 0, ""
    if kill_at:
        os.waitpid(child, 0)
        libc.ptrace(SETOPTIONS, child, None, SYSGOOD | TRACECLONE | EXITKILL)
        calls, last = follow(child, kill_at)
    _, status = os.waitpid(child, 0)
    text = output.read_text(errors="replace") if output.exists() else ""
    return Ran(os.waitstatus_to_exitcode(status), calls, text, last)


def follow(child: int, kill_at: int) -> tuple[int, str]:
    """Count a process's calls until it ends, or gets to that one and is killed."""
    info, calls = SyscallInfo(), 0
    known = {child}
    libc.ptrace(SYSCALL, child, None, None)
    while True:
        # Its end is left to who waits for it.
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | ALL_THREADS | os.WNOWAIT)
        thread = found.si_pid
        if found.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
            if thread == child:
                return calls, ""
            os.waitpid(thread, ALL_THREADS)
            continue
        _, status = os.waitpid(thread, ALL_THREADS)
        if not os.WIFSTOPPED(status):
            continue
        number, event = os.WSTOPSIG(status), status >> 16
        passed_on = 0
        if number == signal.SIGTRAP | 0x80:
            size = ctypes.sizeof(info)
            libc.ptrace(SYSCALL_INFO, thread, size, ctypes.addressof(info))
            is_entry = info.op == 1 and info.number in CALLS
            if is_entry and (info.number != OPENAT or info.arguments[2] & CREATES):
                calls += 1
                if calls == kill_at:
                    os.kill(child, signal.SIGKILL)
                    reap_threads(child)
                    return calls, CALLS[info.number]
        elif not event and not (number == signal.SIGSTOP and thread not in known):
            passed_on = number
        known.add(thread)
        libc.ptrace(SYSCALL, thread, None, passed_on)


def reap_threads(child: int) -> None:
    """Wait until nothing but the end of the process itself is left to be waited for."""
    while True:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | ALL_THREADS | os.WNOWAIT)
        if found.si_pid == child:
            return
        os.waitpid(found.si_pid, ALL_THREADS)


class Storage:
    """A folder with a catalog, and the copy of it, which are made anew from templates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.templates = {}
        self.root, self.copy = folder / "storage", folder / "copy"
        self.environ = {
            "KZR_STORAGE": str(self.root),
            "KZR_CATALOG": "yes",
            "KZR_CHECKSUMS": "yes",
            "KZR_KEEP_DAYS": "30",
        }
        for name, numbers in {"all": ALL, "older": OLDER, "none": []}.items():
            self.templates[name] = folder / name
            self.root.mkdir()
            work = partial(fill, str(self.root), numbers)
            for each in (work, command("reindex"))[: 2 if numbers else 0]:
                ran = run(each, self.environ)
                assert ran.status == 0, ran.output
            self.root.rename(self.templates[name])

    def begin(self, operation: Operation) -> None:
        """Fill the folder, and the copy with what it had before."""
        for path in (self.root, self.copy):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.templates["all"], self.root)
        shutil.copytree(self.templates["older" if operation.numbers else "none"], self.copy)
        for path in self.copy.glob(".catalog*"):
            path.unlink()

    def files(self, root: Path) -> Files:
        files = (path for path in root.rglob("*") if path.is_file())
        return {str(path.relative_to(root)): path.read_bytes() for path in files}


class Trial:
    """All kills of one operation."""

    def __init__(self, storage: Storage, operation: Operation) -> None:
        self.storage = storage
        self.operation = operation
        self.calls = self.kills = self.again = 0
        self.kinds: Counter[str] = Counter()  # of the calls at which it was killed
        self.wrong: list[str] = []

    def everywhere(self, step: int, first: int) -> None:
        """Kill it at each call, or each few of them."""
        at = first
        while True:
            self.storage.begin(self.operation)
            ran = self.run(self.operation.work, at)
            self.finish(self.operation, f"killed at {ran.calls} ({ran.last})", ran)
            if not ran.was_killed:
                self.calls = max(self.calls, ran.calls)
                return
            at += step

    def twice(self, others: list[Operation], rng: random.Random) -> None:
        """Kill it at a call, kill it or another at one, and let both get through.

        Where one has removed a part, the other cannot tell any more whose the rest is.
        """
        second = rng.choice([self.operation, *others])
        at = [rng.randrange(1, self.calls + 1) for _ in range(2)]
        self.storage.begin(self.operation)
        self.run(self.operation.work, at[0])
        ran = self.run(second.work, at[1])
        if second is not self.operation:
            self.run(self.operation.work)
        self.finish(second, f"{self.operation.what} killed at {at[0]}, it at {at[1]}", ran)

    def run(self, work: Callable[[], object], kill_at: int = 0) -> Ran:
        ran = run(work, self.storage.environ, kill_at)
        self.kills += ran.was_killed
        self.kinds[ran.last] += ran.was_killed
        return ran

    def finish(self, operation: Operation, where: str, ran: Ran) -> None:
        """Do an operation again, unless it is through, and judge what is there."""
        wrong = []
        if ran.was_killed and operation.retry:
            self.again += 1
            ran = self.run(operation.work)
        if operation.retry and ran.status != operation.status:
            wrong.append(f"ended with {ran.status}: {ran.output[-300:]}")
        if operation.retry:
            wrong += self.judge(operation, operation.files())
        if operation.then:
            ran = self.run(operation.then)
            wrong += self.judge(
                operation, operation.finally_() if operation.retry else operation.files()
            )
        self.wrong += [f"{operation.what}, {where}: {each}" for each in wrong]

    def judge(self, operation: Operation, expected: Files) -> list[str]:
        storage = self.storage
        found = storage.files(storage.root)
        if operation.copies:
            wrong = differences(storage.files(storage.copy), expected, operation.exact)
            wrong += differences(found, expected)
            environ = storage.environ | {"KZR_STORAGE": str(storage.copy), "KZR_CATALOG": "no"}
        else:
            wrong = differences(found, expected)
            # What a killed receiver had not told the catalog yet, reindex does.
            may_lack = operation.work is upload
            wrong += wrong_in_catalog(storage.root / ".catalog.sqlite", expected, may_lack)
            environ = storage.environ
            if may_lack:
                run(command("reindex"), environ)
        ran = run(command("verify"), environ)
        # Where no checksum was kept, it says so, and ends with 1.
        if not ran.output.endswith((" 0 wrong\n", ", see KZR_CHECKSUMS\n")):
            wrong.append(f"verify: {ran.output[-300:]}")
        return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", type=int, default=1, help="from one call to the next (1)")
    parser.add_argument("--twice", type=int, default=20, help="times to kill each twice (20)")
    parser.add_argument("--only", nargs="*", help="operations whose names begin so")
    parser.add_argument("--folder", default="/dev/shm", help="for the storage, in memory")
    parser.add_argument("--seed", default=str(time.time_ns()), help="of the calls that are drawn")
    given = parser.parse_args()
    print(f"--seed {given.seed}", file=sys.stderr)
    rng, passed = random.Random(given.seed), True
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        tempfile.tempdir = folder
        storage = Storage(Path(folder))
        all_of_them = operations(str(storage.copy), ALL)
        alike = [each for each in all_of_them if each.what in ("erase", "purge")]
        for operation in all_of_them:
            if given.only and not operation.what.startswith(tuple(given.only)):
                continue
            trial = Trial(storage, operation)
            trial.everywhere(given.step, rng.randrange(1, given.step + 1))
            if operation.retry:
                for _ in range(given.twice):
                    trial.twice(alike if operation in alike else [], rng)
            for line in trial.wrong[:10]:
                print(f"  {line}", file=sys.stderr)
            passed &= tell(
                f"Killed at its system calls, and done again: {operation.what}",
                f"{trial.calls} calls, {trial.kills} kills, {trial.again} times again; "
                f"{len(trial.wrong)} wrong",
                not trial.wrong and trial.kills > 2,
            )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
