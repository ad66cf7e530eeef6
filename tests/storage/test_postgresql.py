"""Recordings in PostgreSQL."""

import logging
import time

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import text

from receiver.errors import StorageFailed
from support.database_contract import ServerContract
from support.storages import publish


class TestPostgreSQL(ServerContract):
    @pytest.fixture(autouse=True)
    def database(self, postgresql):
        self.server, self.url = postgresql, postgresql.new_url()

    def test_setting_that_loses_recordings_is_warned_of(self, postgresql, caplog):
        postgresql.execute("ALTER SYSTEM SET fsync = off")
        postgresql.execute("SELECT pg_reload_conf()")
        time.sleep(0.2)
        try:
            with caplog.at_level(logging.WARNING):
                self.open()
            assert "before they are durable: set fsync = on" in caplog.text
        finally:
            postgresql.execute("ALTER SYSTEM RESET fsync")
            postgresql.execute("SELECT pg_reload_conf()")

    def test_commits_are_synchronous_whatever_is_the_default(self, postgresql):
        name = self.url.rpartition("/")[2]
        postgresql.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        with self.open().engine.connect() as connection:
            assert connection.execute(text("SHOW synchronous_commit")).scalar() == "on"

    def test_server_that_only_reads_is_no_503(self, postgresql, storage):
        name = self.url.rpartition("/")[2]
        postgresql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        storage.engine.dispose()
        with pytest.raises(StorageFailed, match="read-only") as error:
            publish(storage, b"audio")
        assert error.value.code == 500
