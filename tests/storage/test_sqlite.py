"""Recordings in SQLite, and what is the same in every database."""

import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import event, text

from receiver.errors import SettingError, StorageFailed, StorageFull
from receiver.parts import Outcome
from receiver.sql import Database
from receiver.storage import open_storage, place, rows
from receiver.storage.rows import CHUNK_SIZE
from support.database_contract import DatabaseContract
from support.retention import run
from support.storages import publish


class TestSQLite(DatabaseContract):
    @pytest.fixture(autouse=True)
    def database(self, tmp_path):
        self.path = tmp_path / "with space?.db"
        self.url = f"sqlite:///{tmp_path}/with space%3F.db"

    def execute(self, statement: str) -> list[tuple]:
        with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            return connection.execute(statement).fetchall()

    def test_every_commit_is_synced(self):
        with self.open().engine.connect() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
            assert connection.execute(text("PRAGMA synchronous")).scalar() == 2

    def test_many_can_open_a_new_file_at_once(self, tmp_path):
        """Which switches its journal, and SQLite lets nobody wait for that."""
        together = threading.Barrier(8)

        def open_each(_: int) -> None:
            for number in range(100):
                file = Database(f"sqlite:///{tmp_path}/{number}", "URL", connections=1, timeout=10)
                file.create_file()
                together.wait(60)
                file.engine.connect().close()
                file.engine.dispose()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(open_each, range(8)))

    def test_file_is_for_this_user_and_beside_the_spool(self, storage):
        assert self.path.stat().st_mode & 0o137 == 0
        assert storage.spool == self.path.parent

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
    def test_database_in_memory_is_refused(self, url):
        with pytest.raises(SettingError, match="expected sqlite:////PATH"):
            open_storage(url)

    def test_file_that_is_no_database_is_refused(self):
        self.path.write_bytes(b"no database" * 1000)
        with pytest.raises(SettingError, match="file is not a database"):
            self.open()
        with pytest.raises(SettingError, match="No such file or directory"):
            open_storage("sqlite:////nonexistent/x.db")

    def test_file_that_vanishes_is_not_taken_for_an_empty_one(self, storage):
        publish(storage, b"audio")
        storage.engine.dispose()
        self.path.unlink()
        with pytest.raises(StorageFailed, match="unable to open"):
            publish(storage, b"audio")
        assert not self.path.exists()

    def test_file_under_a_disk_that_is_not_mounted_is_not_made(self, tmp_path, monkeypatch):
        fstab = tmp_path / "fstab"
        fstab.write_text(f"/dev/x {tmp_path} ext4 0 2\n")
        monkeypatch.setattr(place, "FSTAB", fstab)
        with pytest.raises(SettingError, match="in /etc/fstab, but not mounted: mount it"):
            self.open()
        assert not self.path.exists()
        fstab.write_text("")
        self.open()

    def test_file_is_not_made_where_none_may_be_new(self):
        with pytest.raises(SettingError, match="there is no storage, and KZR_STORAGE_NEW=no"):
            self.open(may_be_new=False)
        assert not self.path.exists()
        self.open()
        self.open(may_be_new=False)

    def test_commands_know_a_path_that_is_percent_encoded(self, storage):
        publish(storage, b"audio")
        storage.engine.dispose()
        result = run(self.url, "verify")
        assert (result.returncode, result.stderr) == (0, "")
        missing = f"sqlite:///{self.path.parent}/a%20b.sqlite"
        why = run(missing, "verify").stderr
        assert f"KZR_STORAGE={missing} kazoo-receiver init makes a new one" in why

    def test_database_that_is_full_is_a_507(self, storage):
        event.listen(
            storage.engine, "connect", lambda c, _: c.execute("PRAGMA max_page_count = 60")
        )
        with pytest.raises(StorageFull, match="database or disk is full"):
            publish(storage, bytes(CHUNK_SIZE))
        assert publish(storage, b"audio").outcome is Outcome.CREATED

    def test_reading_creates_nothing(self):
        storage = self.open(read_only=True)
        with pytest.raises(StorageFailed):
            list(storage.scan())
        assert not self.path.exists()


def test_every_back_end_keeps_recordings_in_the_same_tables() -> None:
    assert {table.name for table in rows.tables.sorted_tables} == {
        "kzr_files",
        "kzr_chunks",
        "kzr_schema",
    }


def test_driver_that_is_missing_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(SettingError, match=r"pip install '.\[mysql\]'"):
        open_storage("mysql://u:s3cret@127.0.0.1/db")
