"""Holds, purges and erasures: what may go is gone whole, and nothing else goes."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from receiver.catalog import Catalog
from receiver.erasure import Wanted, digits_of, erase, find
from receiver.errors import NotStored, SettingError, StorageFailed
from receiver.holds import hold, hold_of, holds, release, versions
from receiver.indexing import reindex
from receiver.naming import RecordingName
from receiver.retention import purge
from receiver.storage import Storage, open_storage
from support.paths import PROJECT
from support.retention import Down, attach, etag_of, run
from support.storages import publish

ACCOUNT = "4f8c2d6ba1e04be39c1d7f60a2b3c4d5"
OTHER_ACCOUNT = "0123456789abcdef0123456789abcdef"
DAY = 24 * 60 * 60
CALL = RecordingName(f"{ACCOUNT}/USER", "abc@10.0.0.1", "mp3")
BARE = RecordingName("", "bare@10.0.0.1", "")
TOLD = {
    "caller_id_number": "+15551234567",
    "caller_id_name": "Ann",
    "callee_id_number": "1001",
    "from": "+15551234567@acme.example.com",
    "to": "1001@acme.example.com",
}


def told(**fields: object) -> bytes:
    return json.dumps(TOLD | fields).encode()


@pytest.fixture
def storage(backend):
    """Each kind of storage, opened in this process."""
    storage = open_storage(backend.url)
    yield storage
    if engine := getattr(storage, "engine", None):
        engine.dispose()


@pytest.fixture
def directory(tmp_path) -> Storage:
    return open_storage(str(tmp_path / "directory"))


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    yield catalog
    catalog.close()


def in_days(days: float) -> float:
    return time.time() + days * DAY


class TestHold:
    def test_it_holds_every_version_until_it_is_released(self, backend, storage):
        for data in (b"1", b"2", b"3"):
            publish(storage, data, CALL, metadata=told())
        publish(storage, b"neighbour", RecordingName(CALL.folder, "abc@10.0.0.10", "mp3"))
        publish(storage, b"other format", RecordingName(CALL.folder, CALL.call_id, "wav"))
        family = [f"{CALL.folder}/{CALL.numbered(number)}" for number in (0, 1, 2)]
        assert hold(storage, str(CALL), "case 17") == sorted(family)
        files = backend.files()
        assert sorted(path for path in files if path.endswith(".hold")) == sorted(
            f"{path}.hold" for path in family
        )
        kept = json.loads(files[f"{CALL}.hold"])
        assert kept["reason"] == "case 17"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", kept["since"])
        assert {each.path for each in holds(storage)} == set(family)
        assert release(storage, family[2]) == sorted(family)
        assert release(storage, family[2]) == []
        assert list(holds(storage)) == []
        assert sorted(backend.files()) == sorted(path for path in files if path[-5:] != ".hold")

    def test_recording_without_extension_is_held(self, backend, storage):
        publish(storage, b"1", BARE)
        publish(storage, b"2", BARE)
        assert hold(storage, str(BARE)) == [str(BARE), f"{BARE}~1"]
        assert {f"{BARE}~.hold", f"{BARE}~1~.hold"} <= set(backend.files())
        assert purge(storage, None, {"": 1}, in_days(9)).removed == []

    def test_hold_goes_with_a_recording_that_is_superseded(self, storage):
        publish(storage, b"held", CALL)
        hold(storage, str(CALL), "case 17")
        publish(storage, b"new", CALL)
        kept = f"{CALL.folder}/{CALL.numbered(1)}"
        assert [(each.path, each.reason) for each in holds(storage)] == [(kept, "case 17")]
        report = purge(storage, None, {"": 1}, in_days(9))
        assert ([each.path for each in report.removed], report.held) == ([str(CALL)], [kept])
        with closing(storage.open(kept)) as recording:
            assert recording.file.read() == b"held"

    def test_time_of_a_hold_stays(self, directory):
        publish(directory, b"1", CALL)
        attach(directory, str(CALL), "hold", b'{"since": "2020", "reason": "first"}')
        hold(directory, str(CALL))
        assert hold_of(directory, str(CALL)).reason == "first"
        hold(directory, str(CALL), "second")
        held = hold_of(directory, str(CALL))
        assert (held.since, held.reason) == ("2020", "second")

    @pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b"[" * 100_000])
    def test_hold_that_cannot_be_understood_holds(self, directory, data):
        publish(directory, b"1", CALL)
        attach(directory, str(CALL), "hold", data)
        report = purge(directory, None, {"": 1}, in_days(9))
        assert (report.removed, report.held) == ([], [str(CALL)])

    @pytest.mark.parametrize("method", ["open", "attach"])
    def test_it_holds_what_takes_the_name_meanwhile(self, directory, monkeypatch, method):
        publish(directory, b"old", CALL)
        original, calls = getattr(directory, method), []

        def supersede(*arguments):
            result = original(*arguments)
            if not calls:
                calls.append(arguments)
                publish(directory, b"new", CALL)
            return result

        monkeypatch.setattr(directory, method, supersede)
        assert len(hold(directory, str(CALL))) == 2
        assert len(list(holds(directory))) == 2

    @pytest.mark.parametrize("number", [1, 2])
    def test_versions_are_found_where_numbers_are_missing(self, directory, number):
        for data in (b"1", b"2", b"3"):
            publish(directory, data, CALL)
        directory.delete(f"{CALL.folder}/{CALL.numbered(number)}")
        assert len(versions(directory, str(CALL))) == 2

    @pytest.mark.parametrize("path", ["absent.mp3", f"{CALL}.json", str(CALL)[:-1], CALL.folder])
    def test_what_is_no_recording_cannot_be_held(self, directory, path):
        publish(directory, b"1", CALL, metadata=told())
        for function in (hold, release):
            with pytest.raises(NotStored, match="no recording is stored as"):
                function(directory, path)

    def test_commands(self, backend, storage):
        publish(storage, b"1", CALL)
        publish(storage, b"2", CALL)
        result = run(backend.url, "hold", CALL, "--reason", " case\n17 ")
        assert result.returncode == 0, result
        assert result.stdout.splitlines() == [f"held: {CALL}", f"held: {CALL}"[:-4] + "~1.mp3"]
        lines = run(backend.url, "holds").stdout.splitlines()
        assert len(lines) == 2
        assert all(re.fullmatch(r"20\S+\+00:00 \S+\.mp3: case 17", line) for line in lines)
        result = run(backend.url, "hold", CALL, "--release")
        assert result.stdout.count("released: ") == 2
        assert run(backend.url, "holds").stdout == ""
        assert run(backend.url, "hold", CALL, "--release").stdout == f"not on hold: {CALL}\n"
        result = run(backend.url, "hold", "absent.mp3")
        assert result.returncode == 1
        assert result.stderr.endswith("Error: no recording is stored as absent.mp3\n")


class TestPurge:
    def test_it_removes_what_is_old_with_all_beside_it(self, backend, storage):
        publish(storage, b"old", CALL, metadata=told())
        attach(storage, str(CALL), "txt", b"words")
        publish(storage, b"bare", BARE, metadata=told())
        before = backend.files()
        report = purge(storage, None, {"": 30}, in_days(29))
        assert (report.removed, report.failed, backend.files()) == ([], [], before)
        report = purge(storage, None, {"": 30}, in_days(31), True)
        assert (len(report.removed), report.size, backend.files()) == (2, 7, before)
        report = purge(storage, None, {"": 30}, in_days(31))
        assert {each.path for each in report.removed} == {str(CALL), str(BARE)}
        assert (report.size, report.held, report.failed) == (7, [], [])
        assert backend.files() == {}

    def test_days_are_those_of_the_account(self, storage):
        """The account is in the metadata, in a form's variables or in the path."""
        names = [
            RecordingName(folder, call_id, "mp3")
            for folder, call_id in (("A", "a"), ("A", "b"), (ACCOUNT, "c"), ("A", "d"))
        ]
        publish(storage, b"1", names[0], metadata=told(account_id=ACCOUNT))
        variables = told(custom_channel_vars={"Account-ID": ACCOUNT})
        publish(storage, b"2", names[1], metadata=variables)
        publish(storage, b"3", names[2])
        publish(storage, b"4", names[3], metadata=told(account_id=OTHER_ACCOUNT))
        keep_days = {ACCOUNT: 10, OTHER_ACCOUNT: 20}
        report = purge(storage, None, keep_days, in_days(15), True)
        assert {each.path for each in report.removed} == {str(name) for name in names[:3]}
        report = purge(storage, None, {OTHER_ACCOUNT: 20, "": 5}, in_days(15), True)
        assert {each.path for each in report.removed} == {str(name) for name in names[:3]}
        report = purge(storage, None, {OTHER_ACCOUNT: 1}, in_days(15), True)
        assert {each.path for each in report.removed} == {str(names[3])}

    def test_superseded_recordings_go_by_their_own_age(self, directory):
        publish(directory, b"old", CALL)
        os.utime(directory.root / str(CALL), (time.time() - 20 * DAY,) * 2)
        publish(directory, b"new", CALL)
        report = purge(directory, None, {"": 10}, time.time())
        assert [each.path for each in report.removed] == [f"{CALL.folder}/{CALL.numbered(1)}"]
        assert [each.path for each in directory.scan()] == [str(CALL)]

    @pytest.mark.parametrize("when", ["scan", "look"])
    def test_newer_recording_of_the_same_name_is_kept(self, directory, monkeypatch, when):
        """One that takes the name after the scan, or right before the deletion."""
        publish(directory, b"old", CALL)
        os.utime(directory.root / str(CALL), (time.time() - 20 * DAY,) * 2)
        method = {"scan": "open", "look": "delete"}[when]
        original = getattr(directory, method)
        calls = []

        def supersede(*arguments):
            if not calls:
                calls.append(arguments)
                publish(directory, b"new", CALL)
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(directory, method, supersede)
            report = purge(directory, None, {"": 10}, time.time())
        assert (calls != [], report.removed, report.failed) == (True, [], [])
        assert len(list(directory.scan())) == 2
        report = purge(directory, None, {"": 10}, time.time())
        assert [each.path for each in report.removed] == [f"{CALL.folder}/{CALL.numbered(1)}"]

    def test_hold_is_looked_for_last(self, directory, monkeypatch):
        """A recording that is held while it is looked at stays."""
        publish(directory, b"old", CALL, metadata=told())
        open_one = directory.open

        def hold_meanwhile(path):
            if path == f"{CALL}.json":
                attach(directory, str(CALL), "hold", b"{}")
            return open_one(path)

        with monkeypatch.context() as patch:
            patch.setattr(directory, "open", hold_meanwhile)
            report = purge(directory, None, {"": 10, ACCOUNT: 11}, in_days(20))
        assert (report.removed, report.held) == ([], [str(CALL)])

    def test_recording_of_an_unknown_account_is_kept_and_reported(self, directory):
        publish(directory, b"old", CALL, metadata=b"{broken")
        for keep_days in ({"": 10, OTHER_ACCOUNT: 99}, {ACCOUNT: 10}):
            report = purge(directory, None, keep_days, in_days(20))
            assert report.removed == []
            assert f"{CALL}: kept: cannot read its metadata: " in report.failed[0]
        report = purge(directory, None, {"": 10}, in_days(20))  # when none makes a difference
        assert (len(report.removed), report.failed) == (1, [])

    def test_one_that_fails_does_not_stop_the_others(self, directory, monkeypatch):
        publish(directory, b"1", CALL)
        publish(directory, b"2", BARE)
        delete = directory.delete

        def fail(path, etag):
            if path == str(BARE):
                raise StorageFailed("broken")
            delete(path, etag)

        monkeypatch.setattr(directory, "delete", fail)
        report = purge(directory, None, {"": 10}, in_days(20))
        assert [each.path for each in report.removed] == [str(CALL)]
        assert report.failed == [f"{BARE}: broken"]

    def test_catalog_forgets_what_is_gone_and_nothing_else(self, directory, catalog):
        publish(directory, b"1", CALL)
        publish(directory, b"2", BARE)
        os.utime(directory.root / str(CALL), (time.time() - 20 * DAY,) * 2)
        reindex(catalog, directory)
        purge(directory, catalog, {"": 10}, time.time(), True)
        assert len(list(catalog.paths())) == 2
        assert purge(directory, catalog, {"": 10}, time.time()).failed == []
        assert list(catalog.paths()) == [str(BARE)]

    def test_catalog_knows_what_is_stored_again_under_the_name(
        self, directory, catalog, monkeypatch
    ):
        publish(directory, b"1", CALL)
        reindex(catalog, directory)
        remove = catalog.remove

        def publish_before(paths):
            publish(directory, b"new", CALL)
            remove(paths)

        monkeypatch.setattr(catalog, "remove", publish_before)
        assert len(purge(directory, catalog, {"": 10}, in_days(20)).removed) == 1
        assert list(catalog.paths()) == [str(CALL)]

    def test_catalog_that_is_down_does_not_stop_it(self, directory):
        publish(directory, b"1", CALL)
        report = purge(directory, Down(), {"": 10}, in_days(20))
        assert (len(report.removed), list(directory.scan())) == (1, [])
        assert len(report.failed) == 1 and "run flask --app app reindex" in report.failed[0]

    def test_nothing_goes_where_recordings_are_kept_for_ever(self, directory, tmp_path):
        publish(directory, b"1", CALL)
        with pytest.raises(SettingError, match="kept for ever: set KZR_KEEP_DAYS"):
            purge(directory, None, {}, in_days(9999))
        result = run(str(directory.root), "purge")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "Error: recordings are kept for ever: set KZR_KEEP_DAYS\n"

    def test_command(self, tmp_path):
        storage = open_storage(str(tmp_path / "recordings"))
        for number in range(3):
            name = RecordingName("A", f"old{number}", "mp3")
            publish(storage, b"%d" % number * 1000, name, metadata=told())
            os.utime(storage.root / str(name), (1_600_000_000,) * 2)
        hold(storage, "A/old2.mp3")
        publish(storage, b"new", CALL)
        settings = {"keep_days": 30, "catalog": f"sqlite:///{tmp_path}/catalog.sqlite"}
        settings |= {"queue": f"sqlite:///{tmp_path}/queue.sqlite"}
        assert run(str(storage.root), "reindex", **settings).returncode == 0
        for arguments, what in ((["--dry-run"], "to remove"), ([], "removed")):
            assert len(list(storage.scan())) == 4
            result = run(str(storage.root), "purge", *arguments, **settings)
            assert (result.returncode, result.stderr) == (0, "")
            first, *lines, last = result.stdout.splitlines()
            assert first.startswith("4 recordings")
            assert [line[:27] for line in lines] == [
                f"A/old{number}.mp3: 1.0 kB, of 2020" for number in (0, 1)
            ]
            assert last == f"2 {what}, 2.0 kB; 1 on hold, 0 failed"
        assert [each.path for each in storage.scan()] == [str(CALL), "A/old2.mp3"]
        with closing(Catalog(settings["catalog"])) as catalog:
            assert sorted(catalog.paths()) == [str(CALL), "A/old2.mp3"]

    def test_command_fails_where_anything_did(self, tmp_path):
        storage = open_storage(str(tmp_path / "recordings"))
        publish(storage, b"1", CALL, metadata=b"{broken")
        os.utime(storage.root / str(CALL), (1_600_000_000,) * 2)
        queue = f"sqlite:///{tmp_path}/queue.sqlite"
        result = run(str(storage.root), "purge", keep_days=f"30 {ACCOUNT}=60", queue=queue)
        assert result.returncode == 1
        assert result.stderr.startswith(f"{CALL}: kept: cannot read its metadata")
        assert result.stdout.endswith("0 removed, 0 Bytes; 0 on hold, 1 failed\n")


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("+15551234567", "15551234567"),
        ("15551234567", "15551234567"),
        ("+1 (555) 123-4567", "15551234567"),
        ("15551234567@acme.example.com", "15551234567"),
        ("sip:+15551234567@acme.example.com;user=phone", "15551234567"),
        ('"Ann 2" <sip:%2B15551234567@10.0.0.1:5060>', "15551234567"),
        ("tel:+1-555-123-4567;phone-context=example.com", "15551234567"),
        ("1001@10.0.0.1", "1001"),
        ("user_1001@10.0.0.1", ""),
        ("anonymous@anonymous.invalid", ""),
        ("10.0.0.1", ""),
        ("call1001", ""),
        ("+", ""),
        ("()", ""),
        ("", ""),
        ("@acme.example.com", ""),
        ("\u0661\u0662", ""),
    ],
)
def test_numbers_are_their_digits(text, digits):
    assert digits_of(text) == digits


class TestErase:
    @pytest.mark.parametrize(
        ("wanted", "fields", "expected"),
        [
            (Wanted(caller="15551234567"), {}, True),
            (Wanted(caller="+1 555 123 4567"), {}, True),
            (Wanted(caller="15551234567"), {"from": ""}, True),
            (Wanted(caller="15551234567"), {"caller_id_number": ""}, True),
            (Wanted(caller="15551234567"), {"caller_id_number": 15551234567, "from": ""}, True),
            (Wanted(caller="5551234567"), {}, False),
            (Wanted(caller="155512345678"), {}, False),
            (Wanted(caller="1001"), {}, False),
            (Wanted(number="1001"), {}, True),
            (Wanted(number="1001"), {"callee_id_number": "", "to": "sip:1001@x"}, True),
            (Wanted(number="15551234567"), {}, True),
            (Wanted(number="01"), {}, False),
            (Wanted(call_id="told@10.0.0.1"), {"call_id": "told@10.0.0.1"}, True),
            (Wanted(call_id="told@10.0.0.10"), {"call_id": "told@10.0.0.1"}, False),
            (Wanted(call_id=CALL.call_id), {}, True),
            (Wanted(call_id=CALL.call_id), {"call_id": "told@10.0.0.1"}, True),
            (Wanted(call_id="abc"), {}, False),
            (Wanted(call_id=CALL.filename), {}, False),
            (Wanted(call_id="17"), {"call_id": 17}, True),
            (Wanted(), {}, False),
            (Wanted(), {"from": "anonymous@x"}, False),
            (Wanted(caller="Ann"), {"from": "Ann@x"}, False),
        ],
    )
    def test_what_matches(self, wanted, fields, expected):
        path = f"{CALL.folder}/{CALL.numbered(2)}"
        assert wanted.matches(TOLD | fields, path) is expected

    @pytest.mark.parametrize("call_id", ["a/" * 200, "abc.mp3", "J\xf6rg~1", ".x"])
    @pytest.mark.parametrize("extension", ["mp3", "", "txt"])
    def test_call_id_of_a_stored_name_is_known_whatever_it_holds(self, call_id, extension):
        name = RecordingName("A/B", call_id, extension)
        for number in (0, 1):
            path = f"A/B/{name.numbered(number)}"
            assert Wanted(call_id=call_id).matches({}, path)
            assert not Wanted(call_id=call_id[:-1]).matches({}, path)

    def store(self, storage: Storage) -> None:
        """Two versions of a call with a transcript, one without extension, and somebody else's."""
        publish(storage, b"one", CALL, metadata=told())
        attach(storage, str(CALL), "txt", b"words")
        publish(storage, b"two!", CALL, metadata=told())
        publish(storage, b"bare", BARE, metadata=told())
        other = told(caller_id_number="+15551234568", **{"from": "1002@acme.example.com"})
        publish(storage, b"other", RecordingName("", "other", "mp3"), metadata=other)

    def test_command_erases_on_every_storage_and_prints_a_receipt(self, backend, storage):
        self.store(storage)
        result = run(backend.url, "erase", "--caller", "15551234567", "--yes")
        assert result.returncode == 0, result
        kept = f"{CALL.folder}/{CALL.numbered(1)}"
        assert list(backend.files()) == ["other.mp3", "other.mp3.json"]
        lines = [line.split(" ", 2) for line in result.stdout.splitlines()]
        assert all(re.fullmatch(r"20\S+\+00:00", when) for when, _, _ in lines)
        digests = [hashlib.sha256(data).hexdigest() for data in (b"two!", b"one", b"bare")]
        assert sorted(what for _, _, what in lines) == sorted(
            [
                f"{CALL} size=4 sha256={digests[0]} beside=json",
                f"{kept} size=3 sha256={digests[1]} beside=json,txt",
                f"{BARE} size=4 sha256={digests[2]} beside=json",
            ]
        )
        assert "15551234567" not in result.stdout + result.stderr
        assert "Ann" not in result.stdout + result.stderr
        assert "3 found, 0 failed" in result.stderr
        result = run(backend.url, "erase", "--caller", "15551234567", "--yes")
        assert (result.returncode, result.stdout) == (0, "")
        assert "0 found, 0 failed" in result.stderr

    @pytest.mark.parametrize(("answer", "left"), [("n\n", 9), ("", 9), ("y\n", 2)])
    def test_it_asks_before(self, directory, answer, left):
        self.store(directory)
        result = run(str(directory.root), "erase", "--number", "+15551234567", answer=answer)
        assert len(files_below(directory.root)) == left
        assert (result.returncode == 0) is (left == 2)
        assert f"{CALL}: 4 Bytes, of 20" in result.stderr
        assert "Erase 3 recordings?" in result.stderr
        assert bool(result.stdout) is (left == 2)

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--caller", "1", "--number", "1"],
            ["--caller", "Ann"],
            ["--number", "+"],
            ["--call-id", ""],
        ],
    )
    def test_nothing_is_erased_where_it_is_not_said_what(self, directory, arguments):
        self.store(directory)
        result = run(str(directory.root), "erase", "--yes", *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert len(list(directory.scan())) == 4

    def test_held_recordings_are_left_and_reported(self, backend, storage):
        self.store(storage)
        hold(storage, str(BARE))
        result = run(backend.url, "erase", "--caller", "15551234567", "--yes")
        assert result.returncode == 1
        assert f"{BARE}: not erased: on legal hold since 20" in result.stderr
        assert "3 found, 1 failed" in result.stderr
        assert set(backend.files()) == {
            *(str(BARE), f"{BARE}~.json", f"{BARE}~.hold"),
            *("other.mp3", "other.mp3.json"),
        }

    def test_call_id_erases_what_has_broken_metadata(self, directory):
        publish(directory, b"1", CALL, metadata=b"{broken")
        publish(directory, b"2", BARE, metadata=b"[]")
        found = find(directory, Wanted(call_id=CALL.call_id))
        assert [match.path for match in found.matches] == [str(CALL)]
        assert erase(directory, None, None, Wanted(call_id=CALL.call_id), found, print) == []
        assert [each.path for each in directory.scan()] == [str(BARE)]

    def test_metadata_that_cannot_be_read_are_reported(self, directory):
        publish(directory, b"1", CALL, metadata=b"{broken")
        publish(directory, b"2", BARE, metadata=told())
        result = run(str(directory.root), "erase", "--caller", "15551234567", "--yes")
        assert result.returncode == 1
        assert f"{CALL}: kept: cannot read its metadata: " in result.stderr
        assert "1 found, 1 failed" in result.stderr

    def erase_caller(self, storage: Storage, found, catalog=None, jobs=None):
        receipts = []
        failed = erase(storage, catalog, jobs, Wanted(caller="15551234567"), found, receipts.append)
        return receipts, failed

    def test_recording_that_was_superseded_since_it_was_found_is_erased(self, storage):
        """It has a numbered name by then; the one that took its name was not shown, and stays."""
        publish(storage, b"old", CALL, metadata=told())
        found = find(storage, Wanted(caller="15551234567"))
        publish(storage, b"new", CALL, metadata=told())
        receipts, failed = self.erase_caller(storage, found)
        kept = f"{CALL.folder}/{CALL.numbered(1)}"
        assert ([receipt.path for receipt in receipts], failed) == ([kept], [])
        assert [each.path for each in storage.scan()] == [str(CALL)]

    def test_recording_that_is_superseded_by_then_is_not_taken_for_another(
        self, directory, monkeypatch
    ):
        """What was told of a new recording says nothing of the one that had its name before."""
        publish(directory, b"old", CALL, metadata=told(caller_id_number="1", **{"from": ""}))
        open_one, calls = directory.open, []

        def supersede(path):
            if path == str(CALL) and not calls:
                calls.append(path)
                recording = open_one(path)
                return recording
            if path == f"{CALL}.json" and not calls:
                publish(directory, b"new", CALL, metadata=told())
                data = open_one(path)
                new, old = directory.root / str(CALL), f"{CALL.folder}/{CALL.numbered(1)}"
                os.rename(new, directory.root / "aside")
                os.link(directory.root / old, new)
                return data
            return open_one(path)

        with monkeypatch.context() as patch:
            patch.setattr(directory, "open", supersede)
            found = find(directory, Wanted(caller="15551234567"))
        assert len(found.matches) == 1  # wrongly: its etag is that of the old one
        os.rename(directory.root / "aside", directory.root / str(CALL))
        receipts, failed = self.erase_caller(directory, found)
        assert receipts == [] and "run the command again" in failed[0]
        assert len(list(directory.scan())) == 2

    def test_recording_that_takes_the_name_right_before_the_deletion_stays(
        self, directory, monkeypatch
    ):
        publish(directory, b"old", CALL, metadata=told())
        found = find(directory, Wanted(caller="15551234567"))
        delete = directory.delete

        def supersede(*arguments):
            publish(directory, b"new", CALL)
            delete(*arguments)

        monkeypatch.setattr(directory, "delete", supersede)
        receipts, failed = self.erase_caller(directory, found)
        assert receipts == [] and "run the command again" in failed[0]
        assert len(list(directory.scan())) == 2

    def test_hold_of_another_version_stops_nothing(self, directory):
        publish(directory, b"old", CALL, metadata=told())
        found = find(directory, Wanted(caller="15551234567"))
        publish(directory, b"new", CALL)
        attach(directory, str(CALL), "hold", b"{}")
        receipts, failed = self.erase_caller(directory, found)
        assert (len(receipts), failed) == (1, [])
        assert [each.path for each in directory.scan()] == [str(CALL)]

    def test_recording_that_is_held_after_it_was_found_stays(self, directory):
        publish(directory, b"1", CALL, metadata=told())
        found = find(directory, Wanted(caller="15551234567"))
        hold(directory, str(CALL))
        receipts, failed = self.erase_caller(directory, found)
        assert receipts == [] and "on legal hold" in failed[0]

    def test_recording_that_is_gone_is_reported(self, directory):
        publish(directory, b"1", CALL, metadata=told())
        found = find(directory, Wanted(caller="15551234567"))
        directory.delete(str(CALL))
        receipts, failed = self.erase_caller(directory, found)
        assert receipts == [] and "run the command again" in failed[0]

    def test_catalog_and_queue_forget(self, directory, catalog):
        self.store(directory)
        reindex(catalog, directory)
        forgotten = []

        class Jobs:
            def forget(self, path, etag):
                forgotten.append((path, etag))

        etags = {each.path: etag_of(directory, each.path) for each in directory.scan()}
        kept = f"{CALL.folder}/{CALL.numbered(1)}"
        found = find(directory, Wanted(caller="15551234567"))
        assert self.erase_caller(directory, found, catalog, Jobs())[1] == []
        assert list(catalog.paths()) == ["other.mp3"]
        wanted = {(path, etags[path]) for path in (str(CALL), str(BARE), kept)}
        assert set(forgotten) == wanted | {(str(CALL), etags[kept])}

    def test_catalog_forgets_also_what_was_removed_before(self, directory, catalog):
        """Such as by an erasure while the catalog was down."""
        self.store(directory)
        reindex(catalog, directory)
        found = find(directory, Wanted(caller="15551234567"))
        receipts, failed = self.erase_caller(directory, found, Down())
        assert len(receipts) == 3
        assert len(failed) == 1 and "run flask --app app reindex" in failed[0]
        assert len(list(catalog.paths())) == 4
        found = find(directory, Wanted(caller="15551234567"))
        assert self.erase_caller(directory, found, catalog) == ([], [])
        assert list(catalog.paths()) == ["other.mp3"]

    def test_failures_are_reported_and_the_others_erased(self, directory, monkeypatch):
        self.store(directory)
        found = find(directory, Wanted(caller="15551234567"))

        class Jobs:
            def forget(self, path, etag):
                raise OSError("no queue")

        delete = directory.delete

        def fail(path, etag):
            if path == str(BARE):
                raise StorageFailed("broken")
            delete(path, etag)

        monkeypatch.setattr(directory, "delete", fail)
        receipts, failed = self.erase_caller(directory, found, None, Jobs())
        kept = f"{CALL.folder}/{CALL.numbered(1)}"
        assert [receipt.path for receipt in receipts] == [str(CALL), kept]
        assert sorted(failed) == sorted(
            [f"{BARE}: broken", f"{CALL}: no queue", f"{kept}: no queue"]
        )

    def test_ctrl_c_cuts_no_deletion_in_half(self, directory):
        """The recording, which goes last, and what lies beside it are gone, or neither is."""
        program = """
            import _thread, signal, sys, time
            signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
            from receiver.erasure import Wanted, erase, find
            from receiver.storage import open_storage

            storage = open_storage(sys.argv[1])
            delete = storage.delete
            def slowly(path, etag):
                _thread.interrupt_main()
                time.sleep(1)
                delete(path, etag)
            storage.delete = slowly
            wanted = Wanted(caller="15551234567")
            erase(storage, None, None, wanted, find(storage, wanted), print)
        """
        self.store(directory)
        lines = "\n".join(line[12:] for line in program.splitlines())
        result = subprocess.run(
            [sys.executable, "-c", lines, directory.root],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "KeyboardInterrupt" in result.stderr
        assert result.stdout.count("Receipt(") == 1
        assert not (directory.root / str(CALL)).exists()
        assert not (directory.root / f"{CALL}.json").exists()
        assert len(files_below(directory.root)) == 7


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]
