"""Purges: what is old goes whole, and nothing else goes."""

import os
import time
from contextlib import closing

import pytest

pytest.importorskip("sqlalchemy")

from receiver.catalog.catalog import Catalog
from receiver.catalog.indexing import reindex
from receiver.core.naming import RecordingName
from receiver.errors import SettingError, StorageFailed
from receiver.retention.holds import hold
from receiver.retention.purge import purge
from receiver.storage import open_storage
from receiver.storage.paths import numbered
from support.retention import (
    ACCOUNT,
    BARE,
    CALL,
    DAY,
    OTHER_ACCOUNT,
    Down,
    attach,
    in_days,
    run,
    told,
)
from support.storages import publish


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
        assert [each.path for each in report.removed] == [numbered(str(CALL), 1)]
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
        assert [each.path for each in report.removed] == [numbered(str(CALL), 1)]

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

    def test_catalog_forgets_also_what_was_removed_before(self, directory, catalog):
        """By a purge that was killed before it told the catalog."""
        for name in (CALL, BARE):
            publish(directory, b"1", name)
        reindex(catalog, directory)
        directory.delete(str(CALL))
        assert purge(directory, catalog, {"": 10}, time.time()).failed == []
        assert list(catalog.paths()) == [str(BARE)]

    def test_catalog_keeps_what_was_stored_meanwhile(self, directory, catalog):
        """A scan has passed its place by then."""

        def store_another(recording):
            publish(directory, b"2", CALL)
            catalog.refresh(directory, str(CALL))

        publish(directory, b"1", BARE)
        reindex(catalog, directory)
        purge(directory, catalog, {"": 10}, time.time(), progress=store_another)
        assert sorted(catalog.paths()) == sorted([str(CALL), str(BARE)])

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
        assert len(report.failed) == 1 and "run kazoo-receiver reindex" in report.failed[0]

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
            assert sorted(line[:27] for line in lines) == [
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
