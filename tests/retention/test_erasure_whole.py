"""Erasures: none of somebody's recordings is left unsaid, however it is stored or written."""

import fcntl
import hashlib
import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("sqlalchemy")

from receiver.catalog.catalog import Catalog
from receiver.catalog.indexing import reindex
from receiver.core.naming import RecordingName
from receiver.errors import NotStored, StorageFailed
from receiver.retention.erasure import Wanted, erase, find
from receiver.retention.holds import hold
from receiver.storage import open_storage
from receiver.storage.paths import numbered
from support.paths import PROJECT
from support.retention import CALL, etag_of, run, told
from support.storages import publish

WANTED = Wanted(caller="15551234567")
OTHER = told(caller_id_number="2", **{"from": "2@x"})
ARGUMENTS = ["erase", "--caller", "15551234567", "--yes"]


def erase_all(storage, wanted=WANTED, catalog=None):
    receipts = []
    found = find(storage, wanted)
    failed = erase(storage, catalog, None, wanted, found, receipts.append)
    return sorted(each.path for each in receipts), found.failed + failed, found.unclear


class TestOlderVersions:
    """They go with the recording that took their name, whatever is told of them."""

    @pytest.mark.parametrize("metadata", [b"", OTHER, b"{broken", b"[]", told()])
    def test_they_go_whatever_their_metadata_are(self, storage, metadata):
        publish(storage, b"oldest", CALL, metadata=metadata)
        publish(storage, b"older", CALL, metadata=metadata)
        publish(storage, b"new", CALL, metadata=told())
        copies = [numbered(str(CALL), number) for number in (0, 1, 2)]
        assert erase_all(storage) == (sorted(copies), [], [])
        assert list(storage.scan()) == []

    @pytest.mark.parametrize("metadata", [b"", OTHER])
    def test_newer_one_stays_and_is_told(self, directory, metadata):
        publish(directory, b"oldest", CALL, metadata=metadata)
        publish(directory, b"older", CALL, metadata=told())
        publish(directory, b"new", CALL, metadata=metadata)
        for number in (1, 2):
            path = directory.root / numbered(str(CALL), number)
            os.utime(path, (1_600_000_000 + number,) * 2)
        erased, failed, unclear = erase_all(directory)
        assert (erased, failed) == ([numbered(str(CALL), 1), numbered(str(CALL), 2)], [])
        assert unclear == [f"{CALL}: look at it: it took the name of one that is to be erased"]
        assert erase_all(directory) == ([], [], [])

    def test_newer_one_of_the_same_time_stays_and_is_told(self, directory):
        """As in a bucket, whose own times are whole seconds, and those of a copy's end."""
        for data, metadata in ((b"oldest", told()), (b"older", OTHER), (b"new", OTHER)):
            publish(directory, data, CALL, metadata=metadata)
        for path in directory.root.rglob("*.mp3"):
            os.utime(path, (1_600_000_000,) * 2)
        erased, failed, unclear = erase_all(directory)
        assert (erased, failed, len(unclear)) == ([numbered(str(CALL), 1)], [], 2)

    def test_held_one_stays_and_is_told(self, directory):
        publish(directory, b"old", CALL)
        hold(directory, str(CALL))
        publish(directory, b"new", CALL, metadata=told())
        erased, failed, _ = erase_all(directory)
        assert erased == [str(CALL)]
        assert failed[0].startswith(f"{numbered(str(CALL), 1)}: not erased: on legal hold")

    def test_those_of_another_name_stay(self, directory):
        """Its Call-ID only begins the same."""
        publish(directory, b"new", CALL, metadata=told())
        other = RecordingName(CALL.folder, f"{CALL.call_id}~1", "mp3")
        publish(directory, b"other", other, metadata=OTHER)
        assert erase_all(directory)[0] == [str(CALL)]
        assert [each.path for each in directory.scan()] == [str(other)]


class TestNumbers:
    """They are found however they are written, or their recordings are to be looked at."""

    @pytest.mark.parametrize(
        "fields",
        [
            {"caller_id_number": "+1/555/123/4567"},
            {"caller_id_number": "+1\u00a0555\u2011123\u20114567"},
            {"caller_id_number": "\u202a+15551234567\u202c"},
            {"caller_id_number": 15551234567},
            {"caller_id_number": 15551234567.0},
            {"caller_id_number": ["1", "15551234567"]},
            {"from": '"Ann" <15551234567>'},
            {"from": "<sip:15551234567>"},
            {"from": "sip:15551234567:5060"},
            {"from": "tel:+1-555-123-4567;phone-context=x"},
            {"from": "sip%3A%2B15551234567%40x"},
        ],
    )
    def test_they_are_found(self, directory, fields):
        publish(
            directory, b"1", CALL, metadata=told(**{"caller_id_number": "", "from": ""} | fields)
        )
        assert erase_all(directory) == ([str(CALL)], [], [])

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"caller_id_number": "Ann 15551234567"}, "caller_id_number"),
            ({"caller_id_number": "1555123456x"}, "caller_id_number"),
            ({"from": "user_15551234567@x"}, "from"),
            ({"caller_id_number": "1 or 2", "from": "15551234567, 2"}, "caller_id_number, from"),
        ],
    )
    def test_what_cannot_be_read_is_to_be_looked_at(self, directory, fields, named):
        publish(
            directory, b"1", CALL, metadata=told(**{"caller_id_number": "", "from": ""} | fields)
        )
        result = run(str(directory.root), *ARGUMENTS)
        assert (result.returncode, result.stdout) == (1, "")
        line = f"{CALL}: look at it: {named}: cannot be read as a number"
        assert line in result.stderr
        assert "0 found, 0 failed, 1 to look at" in result.stderr
        assert "5551234567" not in result.stderr


class TestOdd:
    """One odd recording ends no erasure, and is told in one line."""

    @pytest.mark.parametrize(
        "error",
        [
            StorageFailed("two\nlines"),
            OSError(5, "Input/output error"),
            OverflowError("x"),
            KeyError(),
        ],
    )
    @pytest.mark.parametrize("method", ["open", "delete"])
    def test_it_is_told_and_the_others_go(self, directory, monkeypatch, method, error):
        publish(directory, b"1", CALL, metadata=told())
        publish(directory, b"2", RecordingName("", "odd", "mp3"), metadata=told())
        original = getattr(directory, method)

        def fail(path, *others):
            if path == "odd.mp3":
                raise error
            return original(path, *others)

        monkeypatch.setattr(directory, method, fail)
        erased, failed, _ = erase_all(directory)
        assert (erased, len(failed)) == ([str(CALL)], 1)
        assert failed[0].startswith("odd.mp3: ") and failed[0].isprintable()

    @pytest.mark.parametrize("seconds", [-(2**40), 0, 2**38])
    def test_times_and_names_are_no_trouble(self, directory, seconds):
        path = "\udcfc\n.mp3"
        (directory.root / path).write_bytes(b"audio")
        os.utime(directory.root / path, (seconds,) * 2)
        (directory.root / f"{path}.json").write_bytes(told())
        result = run(str(directory.root), *ARGUMENTS)
        assert result.returncode == 0, result.stderr
        assert " erased \\xfc\\n.mp3 size=5 sha256=" in result.stdout
        assert list(directory.scan()) == []


class TestOutput:
    """What is gone is told, and nobody knows of it any more, whatever becomes of the output."""

    def start(self, directory, tmp_path, count=30, **streams):
        for number in range(count):
            data = b"%d" % number
            publish(directory, data, RecordingName("", f"{number:02}", "mp3"), metadata=told())
        self.url = f"sqlite:///{tmp_path}/catalog.sqlite"
        catalog = Catalog(self.url)
        reindex(catalog, directory)
        catalog.close()
        environ = {name: value for name, value in os.environ.items() if name[:4] != "KZR_"}
        environ |= {"KZR_STORAGE": str(directory.root), "KZR_CATALOG": self.url}
        return subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "app", *ARGUMENTS],
            cwd=PROJECT,
            env=environ,
            **streams,
        )

    def known(self):
        catalog = Catalog(self.url)
        paths = list(catalog.paths())
        catalog.close()
        return sorted(paths)

    def test_full_disk(self, directory, tmp_path):
        with open("/dev/full", "wb") as full:
            started = self.start(directory, tmp_path, stdout=full, stderr=subprocess.PIPE)
            told = started.communicate(timeout=60)[1].decode()
        assert started.returncode == 1
        assert list(directory.scan()) == [] and self.known() == []
        for number in range(30):
            digest = hashlib.sha256(b"%d" % number).hexdigest()
            assert f" erased {number:02}.mp3 size={len(str(number))} sha256={digest} " in told
        assert "the output cannot be written: No space left on device" in told
        assert "30 found, 0 failed" in told and "Traceback" not in told

    def test_closed_pipe(self, directory, tmp_path):
        started = self.start(
            directory, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        first = started.stdout.readline()
        started.stdout.close()
        told = started.stderr.read()
        started.stderr.close()
        assert started.wait(60) in (0, 1)  # all may have fitted into the pipe
        assert " erased 00.mp3 " in first
        assert list(directory.scan()) == [] and self.known() == []
        assert "Traceback" not in told

    def test_no_output_at_all(self, directory, tmp_path):
        """What is found cannot be listed: nothing is erased that nobody was told of."""
        with open("/dev/full", "wb") as full:
            started = self.start(directory, tmp_path, stdout=full, stderr=full)
        assert started.wait(60) != 0
        assert len(list(directory.scan())) == len(self.known()) == 30

    @pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
    def test_signal_in_the_middle(self, directory, tmp_path, number):
        """Each recording is gone whole, with its receipt and its row, or is as it was."""
        started = self.start(
            directory, tmp_path, 400, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        # Not all fits into the pipe: it cannot be done before the signal.
        fcntl.fcntl(started.stdout, fcntl.F_SETPIPE_SZ, 4096)
        first = started.stdout.readline()
        started.send_signal(number)
        receipts = first + started.stdout.read()
        started.stdout.close()
        errors = started.stderr.read()
        started.stderr.close()
        assert started.wait(60) != 0
        left = sorted(each.path for each in directory.scan())
        assert 0 < len(left) < 400 and "Traceback" not in errors
        assert receipts.count(" erased ") == 400 - len(left)
        assert self.known() == left
        assert all((directory.root / f"{path}.json").exists() for path in left)


@pytest.mark.parametrize("superseded", [False, True])
def test_no_match_costs_a_listing(directory, monkeypatch, superseded):
    """Of a large folder, that took a second for each."""
    for number in range(20):
        name = RecordingName("", str(number), "mp3")
        publish(directory, b"old", name, metadata=told())
    found, calls = find(directory, WANTED), []
    if superseded:
        for number in range(20):
            publish(directory, b"new", RecordingName("", str(number), "mp3"), metadata=OTHER)
    scan = directory.scan
    monkeypatch.setattr(directory, "scan", lambda *prefix: calls.append(prefix) or scan(*prefix))
    failed = erase(directory, None, None, WANTED, found, lambda receipt: None)
    assert (failed, calls) == ([], [])
    assert len(list(scan())) == (20 if superseded else 0)


def test_jobs_that_run_meanwhile_leave_nothing(backend, storage):
    """What they attach after the erasure has no recording to belong to."""
    publish(storage, b"1", CALL, metadata=told())
    etag = etag_of(storage, str(CALL))
    assert erase_all(storage)[0] == [str(CALL)]
    with pytest.raises(NotStored):
        storage.attach(str(CALL), "json", told(), etag)
    assert backend.files() == {}


def test_another_machine_that_attaches_meanwhile_leaves_nothing(rclone, monkeypatch):
    """A bucket has no lock that two machines share."""
    for name, value in rclone.environ.items():
        monkeypatch.setenv(name, value)
    storage = open_storage(f"s3://{rclone.create_bucket()}")
    publish(storage, b"1", CALL, metadata=told())
    etag, put = etag_of(storage, str(CALL)), storage._put_sidecar

    def erase_before(*arguments):
        for path in (f"{CALL}.json", str(CALL)):
            storage._bucket.delete(path)
        put(*arguments)

    monkeypatch.setattr(storage, "_put_sidecar", erase_before)
    with pytest.raises(NotStored):
        storage.attach(str(CALL), "json", told(), etag)
    assert list(storage.sidecars()) == []
