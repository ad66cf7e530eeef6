"""Recordings in MariaDB."""

import io
import logging
from contextlib import closing

import pytest

from receiver.errors import StorageFailed
from receiver.parts import Outcome
from support.database_contract import ServerContract
from support.storages import NAME, publish


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

    @pytest.mark.parametrize("packet", [128 * 1024, 256 * 1024])
    def test_recording_is_sent_in_pieces_that_fit_into_a_packet(self, mariadb, packet):
        mariadb.execute(f"SET GLOBAL max_allowed_packet = {packet}")
        try:
            storage = self.open()
            for start in (b"'", b"\0"):  # of which each is two in a packet
                data = start * 700_000
                publish(storage, data, metadata=b"{}")
                storage.attach(str(NAME), "txt", data, "")
                with closing(storage.open(str(NAME))) as recording:
                    assert recording.file.read() == data
        finally:
            mariadb.execute("SET GLOBAL max_allowed_packet = DEFAULT")

    def test_packet_that_takes_no_recording_is_refused_at_the_start(self, mariadb):
        mariadb.execute("SET GLOBAL max_allowed_packet = 65536")
        try:
            line = self.refused(self.url)
            assert "max_allowed_packet is 65536: set it to 131072 or more" in line
        finally:
            mariadb.execute("SET GLOBAL max_allowed_packet = DEFAULT")

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
