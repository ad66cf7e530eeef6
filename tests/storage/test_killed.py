"""A process that is killed before any one of its calls to the system, and the same again after it.

Whatever the call: nothing that was acknowledged is lost, nothing that was erased is left.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from receiver.core.naming import RecordingName
from receiver.retention.erasure import Wanted, erase, find
from receiver.retention.purge import purge
from receiver.storage import open_storage
from receiver.storage.base import GONE as LEFT
from receiver.storage.copying import copy_all
from receiver.storage.versions import NOTED_FROM
from support.notes import MARKER, is_note
from support.storages import publish

NAME = RecordingName("ACCOUNT", "x", "mp3")
PATH = str(NAME)
# Everything by which storages and commands change what is on the disk.
CALLS = ("fchmod", "fsync", "link", "mkdir", "open", "replace", "unlink", "utime", "rename")
KILLED = 86
A, B = b"recording A" * 100, b"recording B" * 99


def told(number: str) -> bytes:
    return json.dumps({"caller_id_number": number}).encode()


def killed_before(call: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that ends before its call of that number; whether it got there."""
    child = os.fork()
    if not child:
        left = call

        def counted(function):
            def wrapper(*args, **kwargs):
                nonlocal left
                if not left:
                    os._exit(KILLED)
                left -= 1
                return function(*args, **kwargs)

            return wrapper

        try:
            for name in CALLS:
                setattr(os, name, counted(getattr(os, name)))
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED


def every_kill(folder: Path, prepare, work) -> Iterator:
    """A storage for each call that the work makes, prepared, and left by a kill before that."""
    for call in range(1000):
        storage = open_storage(str(folder / str(call)))
        prepare(storage)
        was_killed = killed_before(call, lambda: work(storage))  # noqa: B023 - it is called at once
        yield storage
        if not was_killed:
            assert call > 5, "no call was counted"
            return


def contents(storage) -> dict[str, bytes]:
    """Every recording that a scan finds."""
    found = {}
    for each in storage.scan():
        if each.is_gone:
            continue
        with closing(storage.open(each.path)) as recording:
            found[each.path] = recording.file.read()
    return found


def files(storage) -> dict[str, bytes]:
    """Every file, hidden ones too, but the storage's own notes."""
    return {
        str(path.relative_to(storage.root)): path.read_bytes()
        for path in storage.root.rglob("*")
        if path.is_file() and not is_note(path.name)
    }


def metadata(storage, path: str) -> str:
    return json.loads((storage.root / f"{path}.json").read_bytes())["caller_id_number"]


def first(storage) -> None:
    publish(storage, A, NAME, metadata=told("1"))


def second(storage) -> None:
    publish(storage, B, NAME, metadata=told("2"))


def both(storage) -> None:
    first(storage)
    second(storage)


def erase_number(storage, number: str = "1") -> None:
    wanted = Wanted(number=number)
    erase(storage, None, None, wanted, find(storage, wanted), lambda receipt: None)


def test_first_upload(tmp_path):
    for storage in every_kill(tmp_path, lambda storage: None, first):
        assert contents(storage) in ({}, {PATH: A})
        first(storage)
        assert files(storage) == {PATH: A, f"{PATH}.json": told("1")}


def test_superseding(tmp_path):
    for storage in every_kill(tmp_path, first, second):
        assert A in contents(storage).values()
        second(storage)
        assert contents(storage) == {PATH: B, "ACCOUNT/x~1.mp3": A}
        assert (metadata(storage, PATH), metadata(storage, "ACCOUNT/x~1.mp3")) == ("2", "1")
        assert len(files(storage)) == 4


def test_superseding_by_a_sender_that_never_comes_back(tmp_path):
    for storage in every_kill(tmp_path, first, second):
        publish(storage, b"C", NAME, metadata=told("3"))
        publish(storage, b"D", NAME, metadata=told("4"))
        found = contents(storage)
        assert {A, b"C", b"D"} <= {*found.values()} <= {A, B, b"C", b"D"}
        assert len(found) == len({*found.values()})
        numbers = {A: "1", B: "2", b"C": "3", b"D": "4"}
        assert all(metadata(storage, path) == numbers[data] for path, data in found.items())


def test_superseding_and_then_deleting(tmp_path):
    for storage in every_kill(tmp_path, first, second):
        for each in list(storage.scan()):
            storage.delete(each.path, LEFT if each.is_gone else "")
        assert files(storage) == {}
        publish(storage, b"C", NAME)
        publish(storage, b"D", NAME)
        assert sorted(contents(storage).values()) == [b"C", b"D"]


@pytest.mark.parametrize("prepare", [first, both])
def test_erasing(tmp_path, prepare):
    for storage in every_kill(tmp_path, prepare, erase_number):
        erase_number(storage)
        left = files(storage)
        assert A not in left.values() and told("1") not in left.values()
        assert (B in left.values()) is (prepare is both)


def test_erasing_with_an_older_version_of_somebody_else(tmp_path):
    """It is found by the newer one alone."""

    def prepare(storage) -> None:
        publish(storage, A, NAME, metadata=told("2"))
        publish(storage, B, NAME, metadata=told("1"))

    for storage in every_kill(tmp_path, prepare, erase_number):
        erase_number(storage)
        assert files(storage) == {}


def test_erasing_and_then_an_upload_of_the_name(tmp_path):
    for storage in every_kill(tmp_path, first, erase_number):
        second(storage)
        erase_number(storage)
        assert files(storage) == {PATH: B, f"{PATH}.json": told("2")}


def test_purging(tmp_path):
    def old(storage) -> None:
        both(storage)
        for path in storage.root.rglob("*.mp3"):
            os.utime(path, (1_600_000_000,) * 2)

    def work(storage) -> None:
        purge(storage, None, {"": 30}, 1_700_000_000.0)

    for storage in every_kill(tmp_path, old, work):
        work(storage)
        assert files(storage) == {}


def test_deleting_of_many_versions(tmp_path):
    """What is noted of them goes with them."""

    def prepare(storage) -> None:
        for number in range(NOTED_FROM + 2):
            publish(storage, b"%d" % number, NAME)

    def work(storage) -> None:
        for each in list(storage.scan()):
            storage.delete(each.path)

    for storage in every_kill(tmp_path, prepare, work):
        work(storage)
        assert [path.name for path in storage.root.rglob("*") if path.is_file()] == [MARKER]


def test_attaching(tmp_path):
    def attach(storage, data: bytes = b"what was said") -> None:
        with closing(storage.open(PATH)) as recording:
            storage.attach(PATH, "txt", data, recording.etag)

    def prepare(storage) -> None:
        first(storage)
        attach(storage, b"what was heard before")

    for storage in every_kill(tmp_path, prepare, attach):
        text = (storage.root / f"{PATH}.txt").read_bytes()
        assert text in (b"what was said", b"what was heard before")
        attach(storage)
        assert (storage.root / f"{PATH}.txt").read_bytes() == b"what was said"
        assert len(files(storage)) == 3
    for storage in every_kill(tmp_path / "erased", prepare, attach):
        erase_number(storage)
        assert files(storage) == {}


def test_copying(tmp_path):
    source = open_storage(str(tmp_path / "source"))
    both(source)
    publish(source, b"another", RecordingName("", "y", "wav"), metadata=told("5"))

    def copy(storage) -> None:
        copy_all(source, storage, threads=1)

    for storage in every_kill(tmp_path / "copies", lambda storage: None, copy):
        copy(storage)
        assert files(storage) == files(source)
