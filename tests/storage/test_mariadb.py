"""Recordings in MariaDB."""

import io
import logging

import pytest

from receiver.errors import StorageFailed
from receiver.parts import Outcome
from support.database_contract import ServerContract
from support.storages import publish


class TestMariaDB(ServerContract):
    @pytest.fixture(autouse=True)
    def database(self, mariadb):
        self.server, self.url = mariadb, mariadb.new_url()

    def test_setting_that_loses_recordings_is_warned_of(self, mariadb, caplog):
        mariadb.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
        try:
            with caplog.at_level(logging.WARNING):
                self.open()
            assert "durable: set innodb_flush_log_at_trx_commit = 1" in caplog.text
        finally:
            mariadb.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1")

    def test_scheme_may_be_mariadb(self):
        self.url = self.url.replace("mysql:", "mariadb:")
        assert publish(self.open(), b"audio").outcome is Outcome.CREATED

    def test_values_that_do_not_fit_are_refused_where_the_server_would_cut_them(self, mariadb):
        mariadb.execute("SET GLOBAL sql_mode = ''")
        try:
            with pytest.raises(StorageFailed):
                self.open().put("x" * 9000, io.BytesIO(b"audio"), 0)
        finally:
            mariadb.execute("SET GLOBAL sql_mode = DEFAULT")
