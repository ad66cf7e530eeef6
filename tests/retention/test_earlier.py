"""Names that earlier releases stored are read, listed, held, purged, copied, erased as before.

They stored `CALL` for what is `CALL~` today, and knew no endings in capitals: the older ones of
`X.WAV` are `X.WAV~1`, for what is `X~1.WAV`, and beside it lies `X.WAV~.json`.
"""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from receiver.core.naming import RecordingName
from receiver.errors import Held
from receiver.parts import Storage
from receiver.retention.erasure import Wanted, erase, find
from receiver.retention.holds import hold, holds, release
from receiver.retention.purge import purge
from receiver.retention.verify import verify
from receiver.storage import open_storage, sidecars
from receiver.storage.copying import copy_all
from receiver.storage.paths import extension_of, original, url_of
from support.paths import TESTS
from support.retention import ACCOUNT, attach, in_days
from support.storages import publish

STORED = {
    "ACCOUNT/DOC/NAME": b"a plan's",
    "abc.mp3": b"3",
    "abc~1.mp3": b"1",
    "abc~2.mp3": b"2",
    "bare": b"b2",
    "bare~1": b"b1",
    "X.WAV": b"w2",
    "X.WAV~1": b"w1",
}


BESIDE = {
    "Y.WAV~.json": b'{"from": "+17775550000"}',
    "Y.WAV~.hold": b'{"since": "2026-01-01", "reason": "case 17"}',
    "Y.WAV~.txt": b"words",
}
STORAGES = ["directory", "sqlite", "s3", "postgresql", "mariadb"]
each_storage = pytest.mark.parametrize("backend", STORAGES, indirect=True)
CAPITALS = RecordingName("", "Y", "WAV")


def put(storage: Storage, path: str, data: bytes) -> None:
    with storage.incoming() as file:
        file.write(data)
        file.flush()
        storage.put(path, file, time.time() - 60)


@pytest.fixture
def capitals(storage, backend) -> Storage:
    """A recording whose ending is in capitals, with all that an earlier release put beside it."""
    put(storage, "Y.WAV", b"y")
    for path, data in BESIDE.items():
        put(storage, path, data)
    if engine := getattr(storage, "engine", None):
        on = " ON kzr_files" if engine.dialect.name == "mysql" else ""
        with engine.begin() as connection:  # as it was before today's release started on it
            connection.exec_driver_sql(f"DROP INDEX kzr_files_path{on}")
    return storage


@pytest.fixture
def started(capitals, backend) -> Iterator[Storage]:
    """The same after a start of today's release."""
    with opened(backend.url) as storage:
        yield storage


@contextmanager
def opened(url: str, **options) -> Iterator[Storage]:
    storage = open_storage(url, **options)
    yield storage
    if engine := getattr(storage, "engine", None):
        engine.dispose()


@pytest.fixture
def earlier(storage) -> Storage:
    for path, data in STORED.items():
        put(storage, path, data)
    for path in ("abc~1.mp3", "bare", "X.WAV~1"):
        attach(storage, path, "json", json.dumps({"from": "+15551234567"}).encode())
    return storage


def contents(storage: Storage) -> dict[str, bytes]:
    found = {}
    for listed in storage.scan():
        with closing(storage.open(listed.path)) as recording:
            found[listed.path] = recording.read(100)
    return found


@each_storage
def test_they_are_listed_and_read(earlier):
    assert contents(earlier) == STORED


@each_storage
@pytest.mark.parametrize(
    ("name", "path"),
    [
        (RecordingName("ACCOUNT/DOC", "NAME", ""), "ACCOUNT/DOC/NAME"),
        (RecordingName("", "bare", ""), "bare"),
        (RecordingName("", "X", "WAV"), "X.WAV"),
        (RecordingName("", "abc", "mp3"), "abc.mp3"),
    ],
)
def test_a_retry_is_answered_as_identical(earlier, name, path):
    result = publish(earlier, STORED[path], name)
    assert (result.outcome, result.path) == ("identical", path)
    assert contents(earlier) == STORED


@each_storage
def test_a_late_retry_of_what_was_numbered_otherwise_is_identical(earlier):
    result = publish(earlier, b"w1", RecordingName("", "X", "WAV"))
    assert (result.outcome, result.path) == ("identical", "X.WAV")
    assert contents(earlier) == STORED
    assert earlier.versions("X.WAV") == ["X.WAV", "X.WAV~1"]


@each_storage
@pytest.mark.parametrize("name", ["bare", "X.WAV~1", "abc.mp3"])
def test_a_hold_is_on_every_version(earlier, name):
    family = [path for path in STORED if path[0] == name[0]]
    assert hold(earlier, name) == sorted(family)
    assert sorted(each.path for each in holds(earlier)) == sorted(family)
    report = purge(earlier, None, {"": 1}, in_days(9))
    assert sorted(report.held) == sorted(family)
    assert contents(earlier) == {path: STORED[path] for path in family}


@each_storage
def test_erasure_finds_whole_families(earlier):
    wanted = Wanted(number="15551234567")
    found = find(earlier, wanted)
    assert {match.path for match in found.matches} == {
        path for path in ("abc~1.mp3", "bare", "bare~1", "X.WAV~1")
    }
    assert erase(earlier, None, None, wanted, found, lambda receipt: None) == []
    assert set(contents(earlier)) == {"ACCOUNT/DOC/NAME", "abc.mp3", "abc~2.mp3", "X.WAV"}


@each_storage
def test_a_copy_has_them_under_the_same_names(earlier, tmp_path):
    copied = open_storage(str(tmp_path / "copied"))
    report = copy_all(earlier, copied)
    assert (report.failed, report.copied) == ([], len(STORED))
    assert contents(copied) == STORED


@each_storage
class TestEndingsInCapitals:
    def test_a_hold_counts_until_it_is_released(self, started):
        assert [(each.path, each.reason) for each in holds(started)] == [("Y.WAV", "case 17")]
        assert purge(started, None, {"": 1}, in_days(9)).held == ["Y.WAV"]
        with pytest.raises(Held):
            started.delete("Y.WAV")
        assert release(started, "Y.WAV") == ["Y.WAV"]
        assert list(holds(started)) == []
        assert [each.path for each in purge(started, None, {"": 1}, in_days(9)).removed] == [
            "Y.WAV"
        ]
        assert (list(started.scan()), list(started.sidecars())) == ([], [])

    def test_a_number_is_found_and_nothing_of_it_left(self, started):
        release(started, "Y.WAV")
        wanted, receipts = Wanted(number="17775550000"), []
        assert erase(started, None, None, wanted, find(started, wanted), receipts.append) == []
        assert [(each.path, each.beside) for each in receipts] == [("Y.WAV", ("json", "txt"))]
        assert (list(started.scan()), list(started.sidecars())) == ([], [])

    def test_it_goes_with_its_recording_that_is_superseded(self, started):
        publish(started, b"new", CAPITALS, metadata=b'{"from": "2"}')
        assert sidecars.told(started, "Y.WAV") == {"from": "2"}
        assert sidecars.told(started, "Y~1.WAV") == {"from": "+17775550000"}
        assert [each.path for each in holds(started)] == ["Y~1.WAV"]

    def test_it_is_copied_from_a_storage_that_is_only_read(self, capitals, backend, tmp_path):
        copied = open_storage(str(tmp_path / "copied"))
        with opened(backend.url, read_only=True) as source:
            report = copy_all(source, copied)
        assert (report.failed, report.copied) == ([], 1)
        for path, data in BESIDE.items():
            assert (copied.root / path.replace("~", "")).read_bytes() == data

    def test_it_is_verified(self, started):
        assert verify(started, None, time.time()).wrong == []


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
class TestWritten:
    """A database that commit d00f390 wrote: versions, sidecars, holds, long names and odd ones."""

    HELD = ("held.mp3", "held~1.mp3", "heldbare", "heldbare~1", "heldcap.WAV", "heldcap.WAV~1")

    @pytest.fixture
    def written(self, backend, tmp_path) -> Iterator[Storage]:
        with closing(sqlite3.connect(tmp_path / "recordings.sqlite")) as connection, connection:
            connection.executescript((TESTS / "data" / "earlier.sql").read_text())
        with opened(backend.url) as storage:
            yield storage

    def test_every_recording_is_read_and_a_retry_of_it_known(self, written):
        before = contents(written)
        assert len(before) == 37
        for path, data in before.items():
            if url := url_of(path) or url_of(original(path)):
                name = RecordingName.parse(url)
            else:  # too long for its Call-ID to be told by the path
                name = RecordingName("", path[0] * 300, extension_of(path))
            assert publish(written, data, name).outcome == "identical"
        assert contents(written) == before

    def test_holds_and_ages_count(self, written):
        assert sorted(each.path for each in holds(written)) == sorted(self.HELD)
        report = purge(written, None, {"": 1}, in_days(9))
        assert (sorted(report.held), report.failed) == (sorted(self.HELD), [])
        assert sorted(contents(written)) == sorted(self.HELD)

    def test_a_number_is_erased_wherever_it_is_told(self, written):
        wanted = Wanted(number="15551234567")
        found = find(written, wanted)
        failed = erase(written, None, None, wanted, found, lambda receipt: None)
        assert sorted(line.partition(":")[0] for line in failed) == sorted(self.HELD)
        # What took the name of one that went, and tells no number of its own.
        later = [f"{ACCOUNT}/USER/abc@10.0.0.1{n}.mp3" for n in ("", "~2")]
        assert sorted(line.partition(":")[0] for line in found.unclear) == later
        assert sorted(contents(written)) == sorted([*self.HELD, *later])
        assert verify(written, None, time.time()).wrong == []

    def test_it_is_copied_whole(self, written, tmp_path):
        copied = open_storage(str(tmp_path / "copied"))
        assert copy_all(written, copied).failed == []
        assert contents(copied) == contents(written)
        assert sorted(copied.sidecars()) == sorted(written.sidecars())
        assert copy_all(written, copied).copied == 0
