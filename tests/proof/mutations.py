"""Takes the receiver's safeguards out, one at a time, and shows that a test turns red for each.

Every mutation is applied to a copy of the project in a temporary folder, where the tests that
should catch it are run. A mutation that no test catches breaks the proof, and so does one whose
old text is not in the code just once: it has to be brought up to date with the code.

    python tests/proof/mutations.py              all of them, some minutes
    python tests/proof/mutations.py -k fsync     those with "fsync" in their names
    python tests/proof/mutations.py --list
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from report import tell

PROJECT = Path(__file__).parent.parent.parent
IGNORED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "recordings", "proof")
MOST_SECONDS = 600.0  # for the tests of all mutations together
UNTOUCHED = "untouched"


@dataclass(frozen=True)
class Mutation:
    """`old`, which is in `file` just once, becomes `new`; `tests` (below tests/) should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    seconds: float = 240.0  # that the tests may take; one that hangs is red too

    def apply(self, project: Path) -> None:
        path = project / self.file
        text = path.read_text()
        if (matches := text.count(self.old)) != 1:
            raise SystemExit(f"{self.name}: {matches} matches in {self.file}, not 1: {self.old!r}")
        path.write_text(text.replace(self.old, self.new))


BODY = "receiver/core/body.py"
DIRECTORY = "receiver/storage/directory.py"
VERSIONS = "receiver/storage/versions.py"
PUBLISH = "receiver/core/publish.py"
SENT = "receiver/senders/sent.py"
NAMING = "receiver/core/naming.py"
UPLOAD = "receiver/core/upload.py"
ACCESS = "receiver/access.py"
FORMS = "receiver/senders/forms.py"
HANDOVER = "receiver/senders/handover.py"
DATABASE = "receiver/storage/database.py"
QUEUE = "receiver/jobs/queue.py"

IN_BODY = ("core/test_body.py",)
IN_REFUSALS = ("core/test_body.py::TestRefused",)
IN_OTHER_SERVERS = ("core/test_body.py::TestOtherServers",)
IN_STORAGE = ("storage/test_directory.py",)
IN_NAMING = ("core/test_naming.py", "core/test_naming_properties.py")
IN_FORMS = ("senders/test_forms.py", "senders/test_forms_properties.py")
IN_FAULTS = ("core/test_faults.py",)
IN_HANDOVER = ("senders/test_handover.py::TestHandover",)
IN_QUEUE = ("jobs/test_queue.py",)
SYNCED = ("storage/test_directory.py", "core/test_faults.py")

IN_LEFT = ("storage/test_folder.py", "storage/test_killed.py")

MUTATIONS = [
    # Bodies
    Mutation(
        "length check of a body",
        BODY,
        "if not data and self.length is not None:",
        "if False:",
        IN_BODY,
    ),
    Mutation(
        "end of a body at its length",
        BODY,
        "wanted = min(wanted, self.length - self.received)",
        "pass",
        IN_BODY,
    ),
    Mutation(
        "refusal of a broken chunked body",
        BODY,
        'raise IncompleteBody(f"the body broke off after {self.received} bytes") from error',
        'data = b""',
        IN_BODY,
    ),
    Mutation(
        "refusal of every kind of error of a broken chunked body",
        BODY,
        "except Exception as error:  # servers",
        "except OSError as error:  # servers",
        IN_BODY,
    ),
    Mutation(
        "no read after a failed one",
        BODY,
        "self._ended = True  # until",
        "self._ended = False  # until",
        IN_OTHER_SERVERS,
    ),
    Mutation(
        "refusal of a body without a length",
        BODY,
        "        if not self._has_end:\n            raise",
        "        if False:\n            raise",
        IN_REFUSALS,
    ),
    Mutation(
        "refusal of a compressed body",
        BODY,
        'if header("HTTP_CONTENT_ENCODING", "identity").strip().lower() != "identity":',
        "if False:",
        IN_REFUSALS,
    ),
    Mutation(
        "refusal of a part of a recording",
        BODY,
        'if header("HTTP_CONTENT_RANGE"):',
        "if False:",
        IN_REFUSALS,
    ),
    Mutation(
        "digest check",
        SENT,
        "if self._expected - {b64encode(digest).decode()}:",
        "if False:",
        ("reading/test_playback.py",),
    ),
    Mutation(
        "size limit",
        BODY,
        "if self._max_bytes is not None and size > self._max_bytes:",
        "if False:",
        IN_REFUSALS,
    ),
    Mutation(
        "size limit while the body is read",
        BODY,
        "        self.check_size(self.received)\n",
        "",
        IN_REFUSALS,
    ),
    Mutation(
        "size limit before the body is read",
        BODY,
        "        self.check_size(self.length or 0)\n",
        "",
        IN_REFUSALS,
    ),
    Mutation("drain", "receiver/answers.py", "    exchange().body.drain()\n", "", IN_REFUSALS),
    Mutation(
        "bound of the drain",
        BODY,
        "self._max_bytes = self.received + DRAIN_BYTES",
        "self._max_bytes = None",
        IN_OTHER_SERVERS,
    ),
    Mutation(
        "size check of what the disk took",
        BODY,
        "if os.fstat(file.fileno()).st_size != size:",
        "if False:",
        IN_FAULTS,
    ),
    Mutation(
        "size check of a form's part",
        FORMS,
        "check_written(file, form.size)",
        "file.flush()",
        IN_FAULTS,
    ),
    Mutation(
        "size check of decoded base64",
        FORMS,
        "check_written(target, size)",
        "target.flush()",
        IN_FAULTS,
    ),
    Mutation(
        "size check of the metadata",
        PUBLISH,
        "check_written(file, len(data))",
        "file.flush()",
        IN_FAULTS,
    ),
    Mutation(
        "length check of a body that nginx handed over",
        HANDOVER,
        "if self.length is not None and self.received != self.length:",
        "if False:",
        IN_HANDOVER,
    ),
    Mutation(
        "end of a form's recording between two reads",
        FORMS,
        "if match := self._undecided.search(end):",
        "if False:",
        IN_FORMS,
    ),
    Mutation(
        "folder check of a body that nginx handed over",
        HANDOVER,
        "if not inside or not",
        "if not",
        IN_HANDOVER,
    ),
    Mutation(
        "check for free space",
        UPLOAD,
        "    running.storage.check_space(body.length or 0, name.folder)\n",
        "",
        ("core/test_upload.py", "core/test_faults.py"),
    ),
    # What makes it durable
    Mutation(
        "fsync of the file",
        PUBLISH,
        "            sync(*others)\n            yield None",
        "            yield None",
        SYNCED,
    ),
    Mutation(
        "fsync of a file with metadata",
        PUBLISH,
        "            sync(*others, file)\n            yield file",
        "            sync(file)\n            yield file",
        SYNCED,
    ),
    Mutation(
        "fsync of the folder",
        PUBLISH,
        "os.fsync(folder)  # a failure leaves",
        "pass  # a failure leaves",
        SYNCED,
    ),
    Mutation(
        "fsync of a new folder's parent",
        PUBLISH,
        "os.fsync(parent)  # another process",
        "pass  # another process",
        SYNCED,
    ),
    Mutation(
        "fsync of the parent of another process's folder",
        PUBLISH,
        'done += f"/{part}"',
        'done += f"/{part}"; self._durable.add(done)',
        SYNCED,
    ),
    Mutation(
        "fsync of the parent of a folder that was removed meanwhile",
        PUBLISH,
        "self._durable.discard(done)",
        "pass",
        SYNCED,
    ),
    Mutation(
        "fsync of the storage's parent",
        DIRECTORY,
        "                os.fsync(parent)\n            finally:",
        "                pass\n            finally:",
        SYNCED,
    ),
    Mutation(
        "fsync of the metadata",
        PUBLISH,
        "            sync(*others, file)\n            yield file",
        "            sync(*others)\n            yield file",
        SYNCED,
    ),
    Mutation(
        "fsync of a retry's file",
        PUBLISH,
        "        os.fsync(stored.fileno())\n",
        "",
        SYNCED,
    ),
    Mutation(
        "fsync before a superseding recording takes the name",
        VERSIONS,
        "        os.fsync(self._folder)\n        self._finish(new)",
        "        self._finish(new)",
        SYNCED,
    ),
    Mutation(
        "fsync of a copied file",
        DIRECTORY,
        "            sync(file)\n            with self.folder(folder) as parent:",
        "            os.fchmod(file.fileno(), 0o640)\n"
        "            with self.folder(folder) as parent:",
        IN_STORAGE,
    ),
    Mutation(
        "fsync of a copied file's folder",
        DIRECTORY,
        "                os.fsync(parent)\n        return outcome",
        "        return outcome",
        IN_STORAGE,
    ),
    Mutation(
        "fsync after attaching",
        DIRECTORY,
        "                    os.unlink(beside, dir_fd=parent)\n            os.fsync(parent)",
        "                    os.unlink(beside, dir_fd=parent)",
        SYNCED,
    ),
    Mutation(
        "fsync after deleting",
        DIRECTORY,
        "delete(filename)\n            os.fsync(parent)",
        "delete(filename)",
        SYNCED,
    ),
    # Names
    Mutation(
        "link that never overwrites",
        PUBLISH,
        '    os.link(f"/proc/self/fd/{file.fileno()}", filename, dst_dir_fd=folder)',
        '    os.link(f"/proc/self/fd/{file.fileno()}", f".{filename}", dst_dir_fd=folder)\n'
        '    os.rename(f".{filename}", filename, src_dir_fd=folder, dst_dir_fd=folder)',
        IN_STORAGE,
    ),
    Mutation(
        "link of a recording that never overwrites",
        PUBLISH,
        "        link_file(file, name.filename, folder)",
        '        link_file(file, f".{name.filename}", folder)\n'
        '        hidden = f".{name.filename}"\n'
        "        os.rename(hidden, name.filename, src_dir_fd=folder, dst_dir_fd=folder)",
        IN_STORAGE,
    ),
    Mutation(
        "recording that is superseded is kept",
        VERSIONS,
        "        self._replace(keep(self._filename), kept_as)\n        with open_recording(kept_as",
        "        with open_recording(keep(self._filename)",
        IN_STORAGE,
    ),
    Mutation(
        "number that is free for a superseded recording",
        VERSIONS,
        "number = _last(self._older) + 1\n"
        "        while exists(numbered(self._filename, number), self._folder):\n"
        "            number += 1",
        "number = 1",
        IN_STORAGE,
    ),
    Mutation(
        "only_new",
        PUBLISH,
        "                    elif only_new:\n",
        "                    elif False:\n",
        IN_STORAGE,
    ),
    Mutation(
        "refusal of another recording",
        DIRECTORY,
        "if not self._supersede:",
        "if False:",
        IN_STORAGE,
    ),
    Mutation(
        "settling of a name before it is published to",
        PUBLISH,
        "                    self.settle(name.filename, folder)\n",
        "",
        IN_LEFT,
    ),
    Mutation(
        "step that never overwrites what came after it",
        VERSIONS,
        "            if self._kept_as():",
        "            if True:",
        IN_LEFT,
    ),
    Mutation(
        "deletion that whoever comes next finishes",
        VERSIONS,
        "        self._replace(filename, gone(filename))\n"
        "        os.fsync(self._folder)\n"
        "        self._remove_beside(filename)",
        "        self._remove_beside(filename)\n        self._replace(filename, gone(filename))",
        IN_LEFT,
    ),
    Mutation(
        "scan that settles what a crash left",
        DIRECTORY,
        "                        self.settle(name, parent)\n                    for kind",
        "                        pass\n                    for kind",
        IN_LEFT,
    ),
    Mutation(
        "place that is the place",
        DIRECTORY,
        "if self._id and not self._is_in(root):",
        "if False:",
        ("storage/test_folder.py::TestPlace",),
    ),
    Mutation(
        "disk of /etc/fstab that is not mounted",
        DIRECTORY,
        "if disk := unmounted(self.root):",
        "if disk := None:",
        ("storage/test_folder.py::TestPlace",),
    ),
    Mutation(
        "gap in the numbers",
        VERSIONS,
        "            if missing >= MOST_MISSING:",
        "            if missing:",
        IN_LEFT,
    ),
    Mutation(
        "comparison on a retry, by the core alone",
        PUBLISH,
        "        return is_in(file, name.filename, folder)\n",
        '        return ""\n',
        ("core/test_alone.py",),
    ),
    Mutation(
        "refusal of other bytes by the core alone",
        PUBLISH,
        "        if etag := self.holds(file, name, folder):\n",
        "        if etag := self.holds(file, name, folder) or True:\n",
        ("core/test_alone.py",),
    ),
    Mutation(
        "comparison on a retry",
        DIRECTORY,
        "if etag := versions.holds(file):",
        'if etag := "":',
        IN_STORAGE,
    ),
    Mutation(
        "ETag of its own for a recording that came at the same time",
        DIRECTORY,
        "        _make_distinct(file, versions)\n",
        "",
        IN_STORAGE,
    ),
    Mutation(
        "comparison of bytes, not only of sizes",
        PUBLISH,
        "os.pread(one, BUFFER, at) == os.pread(other, BUFFER, at) for at",
        "True for at",
        IN_STORAGE,
    ),
    Mutation(
        "comparison past the first piece",
        PUBLISH,
        "for at in range(0, size, BUFFER)",
        "for at in range(0, min(size, BUFFER), BUFFER)",
        IN_STORAGE,
    ),
    Mutation(
        "end of superseding that broke off",
        VERSIONS,
        "                self._finish(new)\n            else",
        "                self._remove(new)\n            else",
        IN_LEFT,
    ),
    Mutation(
        "removal of the metadata of an upload that broke off",
        PUBLISH,
        "            remove(sidecar(name.filename, kind), folder)\n",
        "            pass\n",
        IN_STORAGE,
    ),
    Mutation(
        "lock of the folder",
        PUBLISH,
        "    fcntl.flock(folder, fcntl.LOCK_EX)\n",
        "",
        IN_STORAGE,
    ),
    Mutation(
        "refusal of '.' and '..' segments",
        NAMING,
        'if {".", ".."} & {name[0], *folders}:',
        "if False:",
        (*IN_NAMING, "core/test_upload.py"),
    ),
    Mutation(
        "encoding of leading dots",
        NAMING,
        r'rb"^\.|[^A-Za-z0-9@._+-]"',
        r'rb"[^A-Za-z0-9@._+-]"',
        IN_NAMING,
    ),
    Mutation(
        "encoding of slashes",
        NAMING,
        r'rb"^\.|[^A-Za-z0-9@._+-]"',
        r'rb"^\.|[^A-Za-z0-9@._+/-]"',
        IN_NAMING,
    ),
    Mutation(
        "limit of a folder's length",
        NAMING,
        "len(folder) > LONGEST_FOLDER or ",
        "",
        IN_NAMING,
    ),
    Mutation(
        "limit of a name's length",
        NAMING,
        "if len(stem) + len(ending) > LONGEST_FILENAME:",
        "if False:",
        IN_NAMING,
    ),
    Mutation(
        "refusal of '..' by the storage",
        PUBLISH,
        'if part == "..":',
        "if False:",
        IN_STORAGE,
    ),
    Mutation(
        "O_NOFOLLOW",
        PUBLISH,
        "REFUSE_LINKS = os.O_NOFOLLOW | os.O_CLOEXEC",
        "REFUSE_LINKS = os.O_CLOEXEC",
        IN_STORAGE,
    ),
    Mutation(
        "refusal of what is no file",
        PUBLISH,
        "if not stat.S_ISREG(os.fstat(file).st_mode):",
        "if False:",
        IN_STORAGE,
    ),
    Mutation(
        "refusal to wait for a FIFO",
        PUBLISH,
        "os.O_RDONLY | os.O_NONBLOCK | REFUSE_LINKS",
        "os.O_RDONLY | REFUSE_LINKS",
        ("storage/test_directory.py::TestDirectory::test_what_is_no_recording_is_left_alone",),
        seconds=20,
    ),
    # Who may write
    Mutation(
        "credentials check",
        UPLOAD,
        "    running.access.check_writer(request)\n",
        "",
        ("test_access.py",),
    ),
    Mutation(
        "prefix of a reader without a colon",
        ACCESS,
        " and user.startswith(name)",
        "",
        ("test_access.py", "reading/test_playback.py"),
    ),
    Mutation(
        "comparison of the secret",
        ACCESS,
        "if self._matches(expected, secret, is_read_back) and user in known:",
        "if user in known:",
        ("test_access.py",),
    ),
    Mutation(
        "comparison of the user",
        ACCESS,
        "if self._matches(expected, secret, is_read_back) and user in known:",
        "if self._matches(expected, secret, is_read_back):",
        ("test_access.py",),
    ),
    Mutation(
        "threads of their own for readers",
        "receiver/gunicorn_worker.py",
        "            threads = self.readers\n",
        "",
        ("test_slow_clients.py",),
    ),
    Mutation(
        "answer before a body that is refused",
        BODY,
        " or self._environ.get(LINGERS)",
        "",
        ("test_slow_clients.py",),
    ),
    Mutation(
        "bound on a part's head",
        FORMS,
        "if (is_before or is_head) and collected > LONGEST_HEAD:",
        "if False:",
        ("senders/test_forms.py",),
    ),
    Mutation(
        "what is known of wrong credentials",
        "receiver/guesses.py",
        "if digest in self._wrong:",
        "if False:",
        ("test_guesses.py",),
    ),
    Mutation(
        "pause of who guesses",
        "receiver/guesses.py",
        "wait = max(pause - PAUSE * FREE, queue.rested - now - SLACK)",
        "wait = queue.rested - now - SLACK",
        ("test_guesses.py",),
    ),
    Mutation(
        "part of the time that guesses take",
        "receiver/guesses.py",
        "wait = max(pause - PAUSE * FREE, queue.rested - now - SLACK)",
        "wait = pause - PAUSE * FREE",
        ("test_guesses.py",),
    ),
    Mutation(
        "one check of a hash at a time",
        "receiver/guesses.py",
        "        with queue.turn:\n            began = self._clock()",
        "        if True:\n            began = self._clock()",
        ("test_guesses.py",),
    ),
    Mutation(
        "id of the recording that is asked for",
        "receiver/reading/choice.py",
        "if known == asked:",
        "if True:",
        ("reading/test_versions.py::TestIds",),
    ),
    Mutation(
        "no other recording in place of one that is gone",
        "receiver/reading/choice.py",
        'if known == "" and not nameless:',
        "if not nameless:",
        ("reading/test_versions.py::TestIds",),
    ),
    Mutation(
        "networks check",
        ACCESS,
        "if self._networks and not is_in(request.remote_addr, self._networks):",
        "if False:",
        ("test_access.py",),
    ),
    # Jobs
    Mutation(
        "jobs in a recording's own commit",
        DATABASE,
        "                if self.also:\n",
        "                if False:\n",
        ("jobs/test_jobs.py::TestDatabase",),
    ),
    Mutation(
        "job that is no longer this worker's",
        QUEUE,
        ", jobs.c.taken_by == worker)\n                .values(state=state",
        ")\n                .values(state=state",
        IN_QUEUE,
    ),
    Mutation(
        "pauses after the clock was set back",
        QUEUE,
        "if latest is not None and latest > current + SLACK:",
        "if False:",
        IN_QUEUE,
    ),
    Mutation(
        "worker that spoke before it was buried",
        QUEUE,
        "same = (workers.c.id == worker, workers.c.beat == beat)",
        "same = (workers.c.id == worker,)",
        IN_QUEUE,
    ),
    Mutation(
        "queue whose file was removed",
        QUEUE,
        "if self._writer is None or not self._database.is_current(self._writer.info):",
        "if self._writer is None:",
        IN_QUEUE,
    ),
]


def copy_project(folder: Path, mutation: Mutation | None = None) -> Path:
    """Copy the project into `folder`, with the mutation, and return where it is."""
    copy = folder / "project"
    shutil.copytree(PROJECT, copy, ignore=IGNORED, symlinks=True)
    if mutation:
        mutation.apply(copy)
    return copy


@dataclass(frozen=True)
class Result:
    """Which tests failed; `seen` is the first of them, or what came in its place."""

    name: str
    caught: bool
    seen: str
    seconds: float
    output: str = ""


def run_tests(tests: tuple[str, ...], mutation: Mutation | None = None) -> Result:
    """Run tests in a copy of the project until the first one fails."""
    name = mutation.name if mutation else UNTOUCHED
    most = mutation.seconds if mutation else MOST_SECONDS
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="proof-", ignore_cleanup_errors=True) as folder:
        copy = copy_project(Path(folder), mutation)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line"]
        command += ["-p", "no:cacheprovider", "--basetemp", f"{folder}/tests"]
        process = subprocess.Popen(
            [*command, *(f"tests/{test}" for test in tests)],
            cwd=copy,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=most)
        except subprocess.TimeoutExpired:
            output = ""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # receivers that a test left running
            process.wait()
    seconds = time.monotonic() - began
    if not output:
        return Result(name, True, f"no end within {most:.0f} s", seconds)
    failed = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - .*)?$", output, re.M)
    if failed and process.returncode == 1:
        return Result(name, True, failed[1], seconds, output)
    if process.returncode == 0:
        return Result(name, False, "", seconds, output)
    lines = output.strip().splitlines()
    raise SystemExit(f"{name}: pytest ended with {process.returncode}: " + "\n".join(lines[-15:]))


def find_catcher(mutation: Mutation) -> Result:
    """Run a mutation's tests; what is red must be so again, by itself: that was no accident."""
    first = run_tests(mutation.tests, mutation)
    if not first.caught or "::" not in first.seen:
        return first
    again = run_tests((first.seen,), mutation)
    return first if again.caught else run_tests(mutation.tests, mutation)


def check_untouched(chosen: list[Mutation]) -> None:
    """Exit unless the tests are green while nothing is taken out."""
    files = tuple(sorted({test for mutation in chosen for test in mutation.tests}))
    print(f"Untouched, all of {' '.join(files)} ...", flush=True)
    result = run_tests(files)
    if result.caught:
        print(f"  red, once more: {result.seen}", flush=True)
        result = run_tests(files)
    if result.caught:
        raise SystemExit(f"{result.output}\nred without a mutation: {result.seen}")
    print(f"  green in {result.seconds:.0f} s: {result.output.strip().splitlines()[-1]}\n")


def table(results: list[Result]) -> str:
    lines = ["| taken out | caught by | s |", "|---|---|--:|"]
    for result in results:
        seen = f"`{result.seen}`" if result.caught else "**nothing**"
        lines.append(f"| {result.name} | {seen.replace('|', '/')} | {result.seconds:.0f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-k", metavar="TEXT", default="", help="only those with this in the name")
    parser.add_argument("--list", action="store_true", help="only show what would be taken out")
    parser.add_argument("--jobs", type=int, default=1, help="how many to run at a time (1)")
    parser.add_argument("--no-baseline", action="store_true", help="skip the run without mutation")
    given = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if given.k in mutation.name]
    if given.list:
        for mutation in chosen:
            print(f"{mutation.name}: {mutation.file}, {' '.join(mutation.tests)}")
        return 0
    if not chosen:
        parser.error(f"no mutation has {given.k!r} in its name")
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:  # fail at once, not after minutes
        for number, mutation in enumerate(chosen):
            copy = Path(folder) / str(number) / mutation.file
            copy.parent.mkdir(parents=True)
            shutil.copy(PROJECT / mutation.file, copy)
            mutation.apply(Path(folder) / str(number))
    if not given.no_baseline:
        check_untouched(chosen)

    results = []
    with ThreadPoolExecutor(given.jobs) as pool:
        runs = pool.map(find_catcher, chosen)
        for number, result in enumerate(runs, 1):
            seen = result.seen or "NOT CAUGHT"
            print(f"{number}/{len(chosen)} {result.name}: {seen}", flush=True)
            results.append(result)
    survived = [result.name for result in results if not result.caught]
    print(f"\n{table(results)}\n")
    figures = f"{len(results)} taken out, one at a time; {len(results) - len(survived)} noticed"
    return 0 if tell("safeguards taken out", figures, not survived) else 1


if __name__ == "__main__":
    sys.exit(main())
