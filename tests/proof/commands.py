"""Commands that are cut off and run again: what they run on, and what must be there afterwards.

A storage is filled with a `WORLD`, which tells of each recording whether it is to go. What must be
left is told from that alone, and compared with what is stored, file by file: bytes, metadata, what
else lies beside a recording, steps of what broke off, and the rows of the catalog.
"""

import atexit
import json
import os
import re
import sqlite3
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parents[2]))

# What commands import when they are called is imported once, before processes are forked.
import sqlalchemy.dialects.sqlite  # noqa: F401 - see above
import tinytag  # noqa: F401 - see above

import receiver.answers
import receiver.catalog
import receiver.jobs
import receiver.monitoring
import receiver.page
import receiver.reading
import receiver.retention
import receiver.senders
import receiver.storage.directory  # noqa: F401 - see above
from receiver import create_app, shell
from receiver.catalog.tables import recordings, terms
from receiver.core.naming import RecordingName, sidecar
from receiver.jobs.checksum import keep_checksum
from receiver.jobs.event import Event
from receiver.parts import Parts
from receiver.storage import open_storage
from receiver.storage.paths import numbered

THEIRS, ANOTHERS = "+15551234567", "+15559876543"  # who asks for erasure, and somebody else
OLD = 1_600_000_000.0  # long before what KZR_KEEP_DAYS keeps
SAID = b"what the new transcript says"
# `.trial` is empty, of a start that was cut off.
NOTES = re.compile(r"(.*/)?(\.kazoo-receiver|\.trial(-\w+)?|\.purges(~\.json)?|\.[^/]+\.versions)")
DATABASES = re.compile(r"\.(catalog|queue)\.sqlite.*")
Files = dict[str, bytes]


@dataclass(frozen=True)
class Version:
    """A recording that is stored under a name, with what lies beside it."""

    folder: str
    call_id: str
    extension: str
    goes: bool = True  # it is old, and theirs, and not held
    caller: str = THEIRS
    beside: dict[str, bytes] = field(default_factory=dict)
    is_told: bool = True
    is_old: bool = True

    @property
    def name(self) -> RecordingName:
        return RecordingName(self.folder, self.call_id, self.extension)

    def told(self, number: int) -> bytes:
        fields = {"caller_id_number": self.caller, "call_id": f"{self.call_id}-{number}"}
        return json.dumps(fields).encode() if self.is_told else b""

    def audio(self, number: int) -> bytes:
        """Bytes that no other recording has, and more than one read takes."""
        return f"recording {number} of {self.name} ".encode() * 1000


X, Y = Version("ACCOUNT", "x", "mp3"), Version("ACCOUNT", "y", "WAV")
KEPT = {"goes": False, "caller": ANOTHERS, "is_old": False}
HELD = Version("ACCOUNT", "held", "mp3", goes=False, beside={"hold": b'{"reason": "case"}'})
BARE, OTHER = Version("", "bare", ""), Version("B/C", "other", "mp3", **KEPT)
WORLD = (
    *(X for _ in range(8)),
    replace(X, caller=ANOTHERS),  # it had the name before theirs, and goes with it
    X,
    replace(X, beside={"txt": b"x said", "vtt": b"x said then"}),
    replace(Y, beside={"txt": b"y said"}),
    replace(Y, **KEPT, beside={"txt": b"another said"}),
    HELD,
    replace(HELD, beside=HELD.beside | {"txt": b"held said"}),
    BARE,
    replace(BARE, beside={"vtt": b"bare said"}),
    replace(OTHER, beside={"txt": b"other said"}),
    replace(OTHER, is_told=False),
    replace(OTHER, beside={"vtt": b"other said"}),
)
NEW = replace(X, beside={})  # what supersedes
ALL = [*range(len(WORLD))]
HAD_NAME = {str(each.name): number for number, each in enumerate(WORLD)}
FEW = [7, 8, 9, 10, 11, 12, 14, 16, 19]  # where each takes many requests
OLDER = [number for number in range(len(WORLD)) if number not in HAD_NAME.values()]


def placed(numbers: list[int]) -> Iterator[tuple[str, int]]:
    """The stored paths of those versions of the world, when they came in this order."""
    last = {str(WORLD[number].name): number for number in numbers}
    older: Counter[str] = Counter()
    for number in numbers:
        name = str(WORLD[number].name)
        older[name] += 1
        yield name if last[name] == number else numbered(name, older[name]), number


def files_of(path: str, version: Version, number: int) -> Files:
    """What is stored of a version."""
    beside = {"json": version.told(number)} | version.beside
    found = {sidecar(path, kind): data for kind, data in beside.items() if data}
    return {path: version.audio(number)} | found


def stored(numbers: list[int], goes: bool = True) -> Files:
    """All that is stored of those of the world; without what goes, once that is gone."""
    found: Files = {}
    for path, number in placed(numbers):
        if goes or not WORLD[number].goes:
            found |= files_of(path, WORLD[number], number)
    return found


def superseded(numbers: list[int]) -> Files:
    """All of those, and the new recording."""
    path = str(X.name)
    kept_as = numbered(path, sum(WORLD[number].name == X.name for number in numbers))
    found = {name: data for name, data in stored(numbers).items() if not name.startswith(f"{path}")}
    newest = HAD_NAME[path]
    return found | files_of(kept_as, WORLD[newest], newest) | files_of(path, NEW, len(WORLD))


def of_x(files: Files) -> list[str]:
    """The recordings that have or had the name of x."""
    return [path for path in files if re.fullmatch(r"ACCOUNT/x(~\d+)?\.mp3", path)]


# What is done, in a process of its own


def fill(url: str, numbers: list[int]) -> None:
    """Store versions of the world; those that are old with a time of long ago."""
    storage = open_storage(url)
    for number in numbers:
        each, when = WORLD[number], OLD + number if WORLD[number].is_old else time.time()
        with storage.incoming() as file:
            file.write(each.audio(number))
            file.flush()
            os.utime(file.fileno(), (when, when))
            storage.publish(file, each.name, each.told(number))
        for kind, data in each.beside.items():
            storage.attach(str(each.name), kind, data, "")


def command(*arguments: str) -> Callable[[], object]:
    """`kazoo-receiver` with these arguments; it ends the process."""
    return lambda: shell.main(arguments, prog_name="kazoo-receiver")


def upload() -> None:
    """The new recording is sent, and is acknowledged."""
    client = create_app().test_client()
    told = json.loads(NEW.told(len(WORLD)))
    answer = client.put(f"/kzr/{NEW.name}", data=NEW.audio(len(WORLD)), query_string=told)
    print(answer.status_code, answer.text)
    answer.close()  # then the catalog is told
    sys.exit(answer.status_code not in (200, 201))


def attach() -> None:
    """What the worker does for x: all versions get a checksum, and the newest a transcript."""
    parts: Parts = create_app(serving=False).extensions["receiver"]
    for path in parts.storage.versions(str(X.name)):
        with closing(parts.storage.open(path)) as recording:
            etag = recording.etag
        keep_checksum(parts, Event(path, etag, "created", OLD))
        if path == str(X.name):
            parts.storage.attach(path, "txt", SAID, etag)


def in_process(work: Callable[[], object], environ: dict[str, str], output: Path) -> NoReturn:
    """Do work in a process that was forked for it, and end that."""
    code: object = 0
    atexit._clear()  # what the parent is to do at its end
    try:
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        for name in [name for name in os.environ if name.startswith("KZR_")]:
            del os.environ[name]
        os.environ.update(environ)
        work()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 99
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


@dataclass(frozen=True)
class Operation:
    """What is cut off and then done again.

    `status` is what it ends with when it is through; `files` is what is stored then, and `then` is
    done last, which leaves `finally_`. With `retry` false, the operation is not done again.
    """

    what: str
    work: Callable[[], object]
    files: Callable[[], Files]
    status: int = 0
    retry: bool = True
    then: Callable[[], object] | None = None
    finally_: Callable[[], Files] = dict
    copies: bool = False  # it is the copy that is looked at
    numbers: list[int] | None = None  # versions of the world that the copy has before
    exact: bool = True  # no recording may have another number


def with_holds(files: Files) -> Files:
    return files | {sidecar(path, "hold"): b'{"reason": "7"}' for path in of_x(files)}


def with_checksums(files: Files) -> Files:
    digests = {sidecar(path, "json"): sha256(files[path]).hexdigest() for path in of_x(files)}
    told = {
        path: json.dumps(json.loads(files[path]) | {"sha256": digest}).encode()
        for path, digest in digests.items()
    }
    return files | told | {sidecar(str(X.name), "txt"): SAID}


ERASE = command("erase", "--number", THEIRS, "--yes")
HOLD = command("hold", str(X.name), "--reason", "7")


def operations(copy: str, numbers: list[int]) -> tuple[Operation, ...]:
    """All that are tried, on those of the world; `copy` is the URL of the storage to copy to."""
    all_of_them, left = partial(stored, numbers), partial(stored, numbers, goes=False)
    checked = partial(with_checksums, all_of_them())
    both, older = partial(superseded, numbers), [each for each in numbers if each in OLDER]
    copying = command("copy", "env:KZR_STORAGE", copy)
    return (
        Operation("erase", ERASE, left, 1),  # what is held, and what is to be looked at, is told
        Operation("purge", command("purge"), left),
        Operation("supersede, erase", upload, both, then=ERASE, finally_=left),
        Operation("supersede, never again, erase", upload, left, retry=False, then=ERASE),
        Operation("hold, refuse to erase", HOLD, lambda: with_holds(all_of_them())),
        Operation("attach", attach, checked, then=ERASE, finally_=left),
        Operation("copy", copying, all_of_them, copies=True),
        Operation("copy again", copying, all_of_them, copies=True, numbers=older, exact=False),
    )


# What is looked at


def plain(files: Files) -> Files:
    """Files in a form that can be compared: without notes, and JSON without times."""
    found: Files = {}
    for path, data in files.items():
        if NOTES.fullmatch(path) or DATABASES.fullmatch(path):
            continue
        if path.endswith((".json", ".hold")):
            told = json.loads(data)
            told.pop("since", None)
            data = json.dumps(told, sort_keys=True).encode()
        found[path] = data
    return found


def differences(files: Files, expected: Files, exact: bool = True) -> list[str]:
    """What is wrong with what is stored."""
    found, wanted = plain(files), plain(expected)
    if not exact:
        found, wanted = without_numbers(found), without_numbers(wanted)
    wrong = [f"left over: {path}" for path in found.keys() - wanted.keys()]
    wrong += [f"lost: {path}" for path in wanted.keys() - found.keys()]
    wrong += [f"changed: {path}" for path in found.keys() & wanted if found[path] != wanted[path]]
    for path in files:  # notes of a name hold sizes and digests of what was erased
        if match := re.fullmatch(r"(.*/)?\.([^/]+)\.versions", path):
            stem, extension = (match[1] or "") + match[2].rpartition(".")[0], match[2][-4:]
            if not any(each.startswith(stem) and each.endswith(extension) for each in found):
                wrong.append(f"left over: {path}")
    return sorted(wrong)


def without_numbers(files: Files) -> Files:
    """The files, the numbers of those that are older replaced by what their recordings hold."""
    found: Files = {}
    for path, data in files.items():
        stem, number, ending = re.fullmatch(r"(.*?)(~\d+)?((?:~?\.\w+)*)", path).groups()
        about = next(
            (
                each
                for each in files
                if number and re.fullmatch(rf"{re.escape(stem + number)}(\.(mp3|WAV))?", each)
            ),
            "",
        )
        digest = sha256(files[about]).hexdigest()[:12] if about else ""
        found[f"{stem}~{digest}{ending}" if number else path] = data
    return found


def catalogued(file: Path) -> tuple[set[str], int]:
    """The paths that a catalog tells of, and how many words it has of none of them."""
    with closing(sqlite3.connect(file)) as database:
        paths = {path for (path,) in database.execute(f"select path from {recordings}")}
        lone = f"select count(*) from {terms} where recording not in (select id from {recordings})"
        (words,) = database.execute(lone).fetchone()
    return paths, words


def wrong_in_catalog(file: Path, expected: Files, may_lack: bool) -> list[str]:
    """What a catalog tells of recordings that are not there, and lacks of those that are."""
    found, words = catalogued(file)
    wanted = {path for path in expected if not path.endswith((".json", ".txt", ".vtt", ".hold"))}
    wrong = [f"in the catalog: {path}" for path in found - wanted]
    wrong += [f"not in the catalog: {path}" for path in wanted - found if not may_lack]
    return wrong + ([f"in the catalog: {words} words of nothing"] if words else [])
