"""Purges that a wrong clock or setting may be the reason of, and what is left of each purge."""

import logging
import os
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("sqlalchemy")

from receiver.core.naming import RecordingName
from receiver.errors import StorageFailed, StorageFull
from receiver.retention import purge_and_log
from receiver.retention.purge import Unconfirmed, purge_carefully
from receiver.storage.purges import Purges, note, noted
from support.retention import ACCOUNT, CALL, DAY, attach, in_days, run, told
from support.storages import publish

YEAR = {"": 365}
NOW = time.time()


def fill(directory, ages, prefix="r"):
    """Recordings of some ages in days."""
    for number, days in enumerate(ages):
        name = RecordingName("", f"{prefix}{number}", "mp3")
        publish(directory, b"%d" % number, name)
        os.utime(directory.root / str(name), (NOW - days * DAY,) * 2)


def count(storage):
    return len(list(storage.scan()))


class TestDoubts:
    """Nothing goes before somebody confirms it."""

    @pytest.mark.parametrize("days", [365 + 1, 3 * 365, 70 * 365])
    def test_clock_that_is_far_ahead(self, storage, days):
        publish(storage, b"1", CALL)
        note(storage, Purges(last=NOW))
        with pytest.raises(Unconfirmed, match="nothing was removed: the newest recording is older"):
            purge_carefully(storage, None, YEAR, in_days(days))
        assert count(storage) == 1

    @pytest.mark.parametrize("days", [-1, -365, -20_000])
    def test_clock_that_is_behind(self, storage, days):
        publish(storage, b"1", CALL)
        with pytest.raises(Unconfirmed, match="the newest recording is of a time to come"):
            purge_carefully(storage, None, YEAR, in_days(days))
        assert count(storage) == 1

    @pytest.mark.parametrize("days", [400, 3 * 365])
    def test_shortest_rule_counts(self, directory, days):
        fill(directory, [1])
        keep_days = {"": 9999, ACCOUNT: 30}
        publish(directory, b"1", CALL, metadata=told(account_id=ACCOUNT))
        with pytest.raises(Unconfirmed, match="the newest recording is older"):
            purge_carefully(directory, None, keep_days, in_days(days))

    @pytest.mark.parametrize(
        "last",
        [0.0, NOW, NOW - 1.9 * DAY, NOW + 9 * DAY],
        ids=["never", "now", "two days ago", "in days to come"],
    )
    def test_many_at_once(self, directory, last):
        """The last purge was a short time ago, or none is known of."""
        fill(directory, [400] * 22 + [1] * 86)
        note(directory, Purges(last=last))
        with pytest.raises(Unconfirmed, match="22 of 108 recordings would go at once, and "):
            purge_carefully(directory, None, YEAR, NOW)
        assert count(directory) == 108

    @pytest.mark.parametrize(
        ("ages", "last"),
        [
            ([400] * 20 + [1] * 80, NOW),  # of a hundred, any number
            ([400] * 99 + [1], 0.0),
            ([400] * 20 + [1] * 81, NOW),  # a fifth
            ([400] * 100 + [1] * 20, NOW - 2.1 * DAY),
        ],
        ids=["few", "few at first", "a fifth", "after two days"],
    )
    def test_few_or_after_a_long_time(self, directory, ages, last):
        fill(directory, ages)
        note(directory, Purges(last=last))
        assert len(purge_carefully(directory, None, YEAR, NOW).removed) == ages.count(400)

    @pytest.mark.parametrize("when", [0, -1, 900_000_000])
    def test_time_before_any_kazoo(self, directory, when):
        """A recording that is stored while the clock says 1970 is no old one."""
        fill(directory, [1])
        publish(directory, b"1", CALL)
        os.utime(directory.root / str(CALL), (when,) * 2)
        report = purge_carefully(directory, None, YEAR, NOW)
        assert (report.removed, len(report.failed)) == ([], 1)
        assert report.failed[0].startswith(f"{CALL}: kept: its time is before 2000: ")
        assert len(purge_carefully(directory, None, YEAR, NOW, confirmed=True).removed) == 1

    def test_once_confirmed_the_worker_goes_on(self, directory):
        fill(directory, [400] * 100 + [1] * 20)
        with pytest.raises(Unconfirmed, match="purge --confirm once"):
            purge_carefully(directory, None, YEAR, NOW)
        assert len(purge_carefully(directory, None, YEAR, NOW, confirmed=True).removed) == 100
        fill(directory, [400], prefix="later")
        assert len(purge_carefully(directory, None, YEAR, NOW + 3600).removed) == 1

    @pytest.mark.parametrize("ahead", [1, 200 * 365])
    def test_time_to_come_is_confirmed_once(self, directory, ahead):
        fill(directory, [400, 1, -ahead])
        for _ in range(2):
            with pytest.raises(Unconfirmed):
                purge_carefully(directory, None, YEAR, NOW)
        purge_carefully(directory, None, YEAR, NOW, confirmed=True)
        fill(directory, [400])
        assert len(purge_carefully(directory, None, YEAR, NOW).removed) == 1

    def test_note_outlives_what_others_attach(self, storage):
        assert noted(storage) == Purges()
        for last in (1.5, 2.5):
            note(storage, Purges(last, 3.5, 1, 2, 3))
            assert noted(storage) == Purges(last, 3.5, 1, 2, 3)
        assert list(storage.scan()) == []

    @pytest.mark.parametrize("data", [b"{broken", b"[]", b'{"last": "x", "size": null}'])
    def test_broken_note_is_none(self, directory, data):
        note(directory, Purges(last=NOW))
        attach(directory, ".purges", "json", data)
        assert noted(directory) == Purges()

    def test_commands(self, directory, tmp_path):
        settings = {"keep_days": 365, "queue": f"sqlite:///{tmp_path}/queue.sqlite"}
        fill(directory, [400, 401])
        why = "the newest recording is older than KZR_KEEP_DAYS, so that the clock may be wrong"
        result = run(str(directory.root), "purge", "--dry-run", **settings)
        assert result.returncode == 1 and "2 to remove" in result.stdout
        assert result.stderr.startswith(f"a purge would remove nothing: {why}: run purge --confirm")
        result = run(str(directory.root), "purge", **settings)
        assert result.returncode == 1 and count(directory) == 2
        assert result.stderr.startswith(f"Error: nothing was removed: {why}: look with purge --dry")
        result = run(str(directory.root), "purge", "--confirm", "--dry-run", **settings)
        assert result.returncode == 2 and count(directory) == 2
        result = run(str(directory.root), "purge", "--confirm", **settings)
        assert (result.returncode, result.stderr, count(directory)) == (0, "", 0)
        assert result.stdout.count(", rule 365 days\n") == 2
        assert result.stdout.endswith("2 removed, 2 Bytes; 0 on hold, 0 failed\n")


class TestWorker:
    """What it does while nobody looks is in its log, and counted."""

    def purge(self, directory, caplog, keep_days=YEAR):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            purge_and_log(SimpleNamespace(storage=directory, catalog=None), keep_days, NOW)
        return [(each.levelname, each.getMessage()) for each in caplog.records]

    def test_each_deletion_and_each_failure_has_a_line(self, directory, caplog):
        fill(directory, [400.5, 1])
        publish(directory, b"12", CALL, metadata=b"{broken")
        os.utime(directory.root / str(CALL), (NOW - 500 * DAY,) * 2)
        lines = self.purge(directory, caplog, {"": 365, ACCOUNT: 300})
        assert ("INFO", "purged r0.mp3 age=400.5d rule=365d size=1") in lines
        failed = [line for level, line in lines if level == "WARNING"]
        assert failed[0].startswith(f"not purged: {CALL}: kept: cannot read its metadata: ")
        assert lines[-1] == ("INFO", "purge: 1 removed, 1 bytes; 0 on hold, 1 failed")
        assert noted(directory) == Purges(NOW, 0.0, 1, 1, 1)
        self.purge(directory, caplog, {"": 365, ACCOUNT: 300})
        assert noted(directory) == Purges(NOW, 0.0, 1, 1, 2)

    def test_purge_that_is_not_done_has_a_line(self, directory, caplog):
        fill(directory, [400])
        ((level, line),) = self.purge(directory, caplog)
        assert (level, count(directory)) == ("WARNING", 1)
        assert "nothing was removed: " in line and "run purge --confirm once" in line

    @pytest.mark.parametrize(
        "error", [StorageFailed("two\nlines"), OSError(5, "I/O"), KeyError("x")]
    )
    @pytest.mark.parametrize("method", ["open", "delete"])
    def test_one_that_fails_ends_nothing(self, directory, caplog, monkeypatch, method, error):
        fill(directory, [400, 400, 400, 1])
        original = getattr(directory, method)

        def fail(path, *others):
            if path == "r1.mp3":
                raise error
            return original(path, *others)

        monkeypatch.setattr(directory, method, fail)
        lines = self.purge(directory, caplog)
        assert lines[-1][1] == "purge: 2 removed, 2 bytes; 0 on hold, 1 failed"
        assert all(line.isprintable() for _, line in lines)

    def test_names_and_times_are_no_trouble(self, directory, caplog):
        fill(directory, [400, 1])
        (directory.root / "\udcfc\n.mp3").write_bytes(b"audio")
        os.utime(directory.root / "\udcfc\n.mp3", (NOW - 400 * DAY,) * 2)
        lines = [line for _, line in self.purge(directory, caplog)]
        assert "purged \\xfc\\n.mp3 age=400.0d rule=365d size=5" in lines

    def test_note_that_has_no_room_is_told(self, directory, caplog, monkeypatch):
        fill(directory, [400, 1])

        def full(*arguments):
            raise StorageFull("the disk is full")

        monkeypatch.setattr(directory, "attach", full)
        lines = self.purge(directory, caplog)
        told = "not purged: the purge is not noted in the storage: the disk is full"
        assert ("WARNING", told) in lines
        assert lines[-1][1] == "purge: 1 removed, 1 bytes; 0 on hold, 1 failed"


def test_full_output_hides_no_purge(directory, tmp_path):
    import subprocess
    import sys

    from support.paths import PROJECT

    fill(directory, [400, 400, 1])
    environ = {name: value for name, value in os.environ.items() if name[:4] != "KZR_"}
    environ |= {"KZR_STORAGE": str(directory.root), "KZR_KEEP_DAYS": "365"}
    environ |= {"KZR_QUEUE": f"sqlite:///{tmp_path}/queue.sqlite"}
    command = [sys.executable, "-m", "flask", "--app", "app", "purge"]
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            command, cwd=PROJECT, env=environ, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (result.returncode, count(directory)) == (1, 1)
    assert "r0.mp3: 1 Byte," in result.stderr and "r1.mp3: 1 Byte," in result.stderr
    assert "Traceback" not in result.stderr
