"""Erasures: all of somebody's recordings go, whole, and nothing else goes."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from receiver.catalog.indexing import reindex
from receiver.core.naming import RecordingName
from receiver.errors import StorageFailed
from receiver.numbers import digits_of
from receiver.parts import Storage
from receiver.retention.erasure import Wanted, erase, find
from receiver.retention.holds import hold
from receiver.storage.paths import numbered
from support.notes import is_note
from support.paths import PROJECT
from support.retention import BARE, CALL, TOLD, Down, attach, etag_of, run, told
from support.storages import publish


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
        ("\u0661\u0662", "12"),
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
        path = numbered(str(CALL), 2)
        assert wanted.matches(TOLD | fields, path) is expected

    @pytest.mark.parametrize("call_id", ["a/" * 200, "abc.mp3", "J\xf6rg~1", ".x"])
    @pytest.mark.parametrize("extension", ["mp3", "", "txt"])
    def test_call_id_of_a_stored_name_is_known_whatever_it_holds(self, call_id, extension):
        name = RecordingName("A/B", call_id, extension)
        for number in (0, 1):
            path = "A/B/" + numbered(name.filename, number)
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
        kept = numbered(str(CALL), 1)
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
        assert (result.returncode > 0, result.stdout) == (True, "")
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
        kept = numbered(str(CALL), 1)
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
                new, old = directory.root / str(CALL), numbered(str(CALL), 1)
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
        assert ([each.path for each in receipts], failed) == ([numbered(str(CALL), 1)], [])
        assert [each.path for each in directory.scan()] == [str(CALL)]

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
        kept = numbered(str(CALL), 1)
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
        assert len(failed) == 1 and "run kazoo-receiver reindex" in failed[0]
        assert len(list(catalog.paths())) == 4
        found = find(directory, Wanted(caller="15551234567"))
        assert self.erase_caller(directory, found, catalog) == ([], [])
        assert list(catalog.paths()) == ["other.mp3"]

    def test_catalog_forgets_also_older_versions_that_were_removed_before(self, directory, catalog):
        """By an erasure that was killed: nothing tells any more that they were to go."""
        for number in ("1001", "+15551234567"):
            metadata = told(caller_id_number=number, **{"from": number})
            publish(directory, number.encode(), BARE, metadata=metadata)
        reindex(catalog, directory)
        directory.delete(numbered(str(BARE), 1))
        found = find(directory, Wanted(caller="15551234567"))
        assert self.erase_caller(directory, found, catalog)[1] == []
        assert list(catalog.paths()) == []

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
        kept = numbered(str(CALL), 1)
        assert [receipt.path for receipt in receipts] == [str(CALL), kept]
        assert sorted(failed) == sorted(
            [f"{BARE}: broken", f"{CALL}: no queue", f"{kept}: no queue"]
        )

    def test_ctrl_c_cuts_no_deletion_in_half(self, directory):
        """The recording, which goes last, and what lies beside it are gone, or neither is."""
        program = """
            import _thread, signal, sys, time
            signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
            from receiver.retention.erasure import Wanted, erase, find
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
    return [path for path in root.rglob("*") if path.is_file() and not is_note(path.name)]
