"""The contract of storages in a database, and what goes wrong with one."""

import io
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import cached_property

import pytest

pytest.importorskip("sqlalchemy")

import sqlalchemy
from sqlalchemy import event, text

from receiver.core.naming import RecordingName, sidecar
from receiver.errors import NameTaken, SettingError, StorageFailed, StorageUnavailable
from receiver.parts import Outcome
from receiver.sql import DRIVERS
from receiver.storage import database, open_storage, rows
from receiver.storage.database import DatabaseStorage
from receiver.storage.paths import numbered
from receiver.storage.rows import CHUNK_SIZE, Content
from support.contract import StorageContract
from support.databases import PASSWORD, Server
from support.ports import free_port
from support.storages import NAME, publish


class DatabaseContract(StorageContract):
    """What a storage in any database promises; `url` is that of an empty one."""

    url: str

    def open(self, **options) -> DatabaseStorage:
        storage = open_storage(self.url, **options)
        self.opened.append(storage)
        return storage

    @pytest.fixture(autouse=True)
    def close(self) -> Iterator[None]:
        self.opened = []
        yield
        for storage in self.opened:
            storage.engine.dispose()
        self.engine.dispose()

    @cached_property
    def engine(self) -> sqlalchemy.Engine:
        """The test's own way into the database, past the storage."""
        scheme, _, rest = self.url.partition("://")
        return sqlalchemy.create_engine(f"{DRIVERS[scheme]}://{rest}", pool_pre_ping=True)

    def execute(self, statement: str) -> list[tuple]:
        with self.engine.begin() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    def read(self) -> dict[str, bytes]:
        parts = "SELECT file_id, data FROM kzr_chunks ORDER BY file_id, start"
        data: dict[int, bytes] = {}
        for file_id, part in self.execute(parts):
            data[file_id] = data.get(file_id, b"") + part
        stored = {}
        for file_id, path, size in self.execute("SELECT id, path, size FROM kzr_files"):
            stored[path] = data.pop(file_id, b"")
            assert len(stored[path]) == size
        assert not data
        return stored

    def test_refuse_keeps_the_first(self, storage):
        publish(storage, b"one")
        careful = self.open(supersede=False)
        with pytest.raises(NameTaken, match="another recording is stored as ACCOUNT/USER/abc"):
            publish(careful, b"two")
        assert publish(careful, b"one").outcome is Outcome.IDENTICAL
        assert list(self.read().values()) == [b"one"]

    def test_ranges_are_read_without_what_comes_before(self, storage):
        data = bytes(range(256)) * (5 * CHUNK_SIZE // 256) + b"end"
        publish(storage, data)
        queries = []
        with closing(storage.open(str(NAME))) as recording:
            event.listen(
                storage.engine,
                "before_cursor_execute",
                lambda *args: queries.append(args[2]) if "SELECT" in args[2] else None,
            )
            recording.file.seek(-10, 2)
            assert recording.file.read() == data[-10:]
            assert len(queries) == 2  # the range lies in two chunks
            recording.file.seek(CHUNK_SIZE + 7)
            assert recording.file.read(100) == data[CHUNK_SIZE + 7 :][:100]
            assert len(queries) == 3
            queries.clear()
            recording.file.seek(0)
            assert recording.file.read() == data
            assert len(queries) == 6
            assert storage.engine.pool.checkedout() == 0

    def test_reader_reads_on_while_its_recording_is_superseded(self, storage):
        data = bytes(CHUNK_SIZE) + b"old"
        publish(storage, data)
        with closing(storage.open(str(NAME))) as recording:
            publish(storage, b"new")
            assert recording.file.read() == data

    def test_missing_part_is_an_error_and_no_short_read(self, storage):
        publish(storage, bytes(3 * CHUNK_SIZE))
        with closing(storage.open(str(NAME))) as recording:
            self.execute(f"DELETE FROM kzr_chunks WHERE start = {CHUNK_SIZE}")
            with pytest.raises(StorageFailed, match="lacks a part"):
                recording.file.read()
            storage.delete(str(NAME))
            recording.file.seek(0)
            publish(storage, b"another")
            recording.file.seek(2 * CHUNK_SIZE)
            with pytest.raises(StorageFailed, match="was deleted"):
                recording.file.read()

    def test_nothing_is_visible_before_all_is(self, storage, monkeypatch):
        publish(storage, b"old", metadata=b"{old}")
        before, seen = self.read(), []
        chunks = Content.chunks

        def look(content):
            for chunk in chunks(content):
                yield chunk
                seen.append(self.read())
                with closing(storage.open(str(NAME))) as recording:
                    assert recording.file.read() == b"old"

        monkeypatch.setattr(Content, "chunks", look)
        publish(storage, bytes(2 * CHUNK_SIZE), metadata=b"{new}")
        assert seen == [before] * 3
        assert len(self.read()) == 4

    def test_upload_that_fails_leaves_nothing(self, storage, monkeypatch):
        publish(storage, b"old")
        chunks = Content.chunks

        def fail(content):
            yield next(chunks(content))
            raise OSError(5, "broken")

        with monkeypatch.context() as patch, pytest.raises(StorageFailed, match="broken"):
            patch.setattr(Content, "chunks", fail)
            publish(storage, bytes(2 * CHUNK_SIZE))
        assert self.read() == {str(NAME): b"old"}

    def test_names_that_differ_in_case_are_different(self, storage):
        for call_id in ("abc", "ABC", "Abc"):
            name = RecordingName("A", call_id, "mp3")
            assert publish(storage, call_id.encode(), name).outcome is Outcome.CREATED
        assert len(self.read()) == 3
        assert [each.path for each in storage.scan("A/A")] == ["A/ABC.mp3", "A/Abc.mp3"]

    def test_longest_paths_are_stored(self, storage):
        name = RecordingName("/".join(["f" * 240] * 16), "x" * 300, "mp3")
        assert publish(storage, b"1", name, metadata=b"{}").outcome is Outcome.CREATED
        assert publish(storage, b"2", name).outcome is Outcome.SUPERSEDED
        assert [each.path for each in storage.scan(f"{name.folder}/")][1] == str(name)

    @pytest.mark.parametrize("page", [1, 2, 1000])
    def test_pages_of_a_listing_are_complete(self, storage, monkeypatch, page):
        monkeypatch.setattr(database, "PAGE", page)
        for number in range(5):
            publish(
                storage, b"%d" % number, RecordingName("", f"{number}%_", "mp3"), metadata=b"{}"
            )
        assert len(list(storage.scan())) == 5
        assert [each.path for each in storage.scan("3%25_")] == ["3%25_.mp3"]

    def test_sidecars_of_every_kind_go_with_their_recording(self, storage):
        publish(storage, b"old", metadata=b"{}")
        for kind in ("txt", "vtt"):
            storage.put(
                NAME.folder + "/" + sidecar(NAME.filename, kind), io.BytesIO(kind.encode()), 0
            )
        publish(storage, b"new")
        path = numbered(str(NAME), 1)
        assert self.read() == {
            str(NAME): b"new",
            path: b"old",
            f"{path}.json": b"{}",
            f"{path}.txt": b"txt",
            f"{path}.vtt": b"vtt",
        }

    def test_many_older_recordings_are_all_looked_at(self, storage):
        for number in range(70):
            publish(storage, b"%d" % number)
        assert publish(storage, b"0").outcome is Outcome.IDENTICAL
        assert publish(storage, b"x").kept_as == numbered(NAME.filename, 70)

    def test_each_of_many_recordings_of_a_name_takes_as_few_statements(self, storage):
        """Each of which an index answers, so that none reads all that is stored."""
        statements: list[str] = []
        event.listen(
            storage.engine, "before_cursor_execute", lambda *args: statements.append(args[2])
        )
        counts = []
        for number in range(40):
            statements.clear()
            publish(storage, b"%d" % number)
            counts.append(len(statements))
        assert counts[1] == counts[-1]

    def test_database_of_an_older_release_gets_the_index(self, storage):
        publish(storage, b"audio")
        on = " ON kzr_files" if storage.engine.dialect.name == "mysql" else ""
        self.execute(f"DROP INDEX kzr_files_path{on}")
        for _ in range(2):
            self.open()
        self.execute(f"DROP INDEX kzr_files_path{on}")  # which fails where there is none

    def test_call_that_is_cut_at_any_statement_is_done_by_the_next(self, storage):
        """Before it, after it, and at the commit; nothing is lost, and nothing erased is left."""

        def cut(number: int, when: str, call) -> bool:
            made = [0]

            def count(*_: object) -> None:
                made[0] += 1
                if made[0] == number:
                    raise ConnectionResetError(104, "Connection reset by peer")

            event.listen(storage.engine, when, count)
            try:
                with suppress(StorageFailed):
                    call()
            finally:
                event.remove(storage.engine, when, count)
            return made[0] >= number

        def begin() -> None:
            publish(storage, b"old", metadata=b"{old}")
            storage.attach(str(NAME), "txt", b"words", "")

        path, kept = str(NAME), numbered(str(NAME), 1)
        old = {path: b"old", f"{path}.json": b"{old}", f"{path}.txt": b"words"}
        moved = {each.replace(path, kept): data for each, data in old.items()}
        calls = [
            (begin, lambda: storage.delete(path), {}),
            (begin, lambda: storage.attach(path, "hold", b"h", ""), old | {f"{path}.hold": b"h"}),
            (lambda: None, lambda: publish(storage, b"new"), {path: b"new"}),
            (begin, lambda: publish(storage, b"new"), moved | {path: b"new"}),
        ]
        for prepare, call, wanted in calls:
            for when in ("before_cursor_execute", "after_cursor_execute", "commit"):
                for number in range(1, 100):
                    self.execute("DELETE FROM kzr_chunks")
                    self.execute("DELETE FROM kzr_files")
                    prepare()
                    was_cut = cut(number, when, call)
                    if was_cut:
                        call()
                    assert self.read() == wanted, (when, number)
                    if not was_cut:
                        break
                assert number > 1

    @pytest.mark.parametrize("path", ["", "/x.mp3", "A//x.mp3", "./x.mp3", "ü.mp3", "x\n.mp3"])
    def test_no_other_paths_are_put(self, storage, path):
        with pytest.raises(StorageFailed, match="no path of a recording"):
            storage.put(path, io.BytesIO(b"audio"), 0)

    def test_tables_of_a_newer_release_are_refused(self, storage):
        self.execute("UPDATE kzr_schema SET version = 99")
        with pytest.raises(SettingError, match="of version 99, .* install a newer release"):
            self.open()

    def test_tables_of_an_older_release_are_upgraded(self, storage, monkeypatch):
        publish(storage, b"audio")
        monkeypatch.setattr(rows, "SCHEMA_VERSION", 3)
        statements = ("ALTER TABLE kzr_files ADD COLUMN note INTEGER",)
        monkeypatch.setattr(rows, "UPGRADES", {2: statements, 3: ()})
        for _ in range(2):
            self.open()
        assert self.execute("SELECT version FROM kzr_schema") == [(3,)]
        assert self.execute("SELECT note FROM kzr_files") == [(None,)]

    def test_receivers_that_start_at_once_prepare_the_database_once(self, capfd):
        context = multiprocessing.get_context("fork")
        barrier = context.Barrier(8, timeout=30)

        def start() -> None:
            barrier.wait()
            self.open()

        starts = [context.Process(target=start) for _ in range(8)]
        for each in starts:
            each.start()
        for each in starts:
            each.join()
            assert each.exitcode == 0
        assert capfd.readouterr().err == ""
        assert self.execute("SELECT version FROM kzr_schema") == [(1,)]


class ServerContract(DatabaseContract):
    """What a storage promises in a database that is a server of its own."""

    server: Server

    def refused(self, url: str) -> str:
        """The one line with which a start ends that cannot be."""
        with pytest.raises(SettingError) as error:
            open_storage(url)
        line = str(error.value)
        assert "\n" not in line and PASSWORD not in line and "ss%2Fword" not in line
        assert line.startswith(f"KZR_STORAGE={self.server.scheme}://...: ")
        return line

    def test_unreachable_server_is_named(self):
        port = free_port()
        url = self.url.replace(f":{self.server.port}/", f":{port}/")
        line = self.refused(url)
        assert f"cannot use {self.server.scheme}://127.0.0.1:{port}/test_" in line
        assert "refused" in line and "KZR_STORAGE_WAIT" in line

    def test_server_that_starts_late_is_waited_for(self):
        self.server.stop()
        starter = threading.Timer(2, self.server.start)
        starter.start()
        try:
            assert publish(self.open(wait=20), b"audio").outcome is Outcome.CREATED
        finally:
            starter.join()

    def test_wrong_password_or_database_is_not_waited_for(self):
        started = time.monotonic()
        wrong = {
            self.server.url("postgres", "wrong"): "(?i)password",
            self.server.url("absent"): "(?i)absent",
        }
        for url, message in wrong.items():
            with pytest.raises(SettingError, match=message) as error:
                open_storage(url, wait=60)
            assert "wrong" not in str(error.value)
        assert time.monotonic() < started + 10

    @pytest.mark.parametrize(
        "rest", ["u:s3cret@x@host/db", "u:s3cret@host:port/db", "u:s3cret@host"]
    )
    def test_malformed_url_is_refused_without_its_password(self, rest):
        line = self.refused(f"{self.server.scheme}://{rest}")
        assert "USER:PASSWORD@HOST/DATABASE" in line and "s3cret" not in line

    def test_server_that_stops_is_a_503_until_it_is_back(self, storage):
        publish(storage, b"audio")
        recording = storage.open(str(NAME))
        self.server.stop()
        try:
            for use in (
                lambda: publish(storage, b"other"),
                lambda: storage.open(str(NAME)),
                lambda: list(storage.scan()),
                lambda: storage.delete(str(NAME)),
                storage.check,
                recording.file.read,
            ):
                with pytest.raises(StorageUnavailable, match="cannot use .*/test_") as error:
                    use()
                assert PASSWORD not in error.value.description
        finally:
            self.server.start()
        assert recording.file.read() == b"audio"
        assert publish(storage, b"audio").outcome is Outcome.IDENTICAL
        storage.check()
        self.server.restart()
        assert publish(storage, b"other").outcome is Outcome.SUPERSEDED

    def test_server_that_is_killed_leaves_nothing_partial(self, storage, monkeypatch):
        publish(storage, b"old", metadata=b"{old}")
        before = self.read()
        chunks = Content.chunks

        def kill(content):
            for chunk in chunks(content):
                yield chunk
                self.server.kill()

        with monkeypatch.context() as patch, pytest.raises(StorageUnavailable):
            patch.setattr(Content, "chunks", kill)
            publish(storage, bytes(3 * CHUNK_SIZE))
        self.server.start()
        assert self.read() == before
        assert publish(storage, bytes(3 * CHUNK_SIZE)).outcome is Outcome.SUPERSEDED

    def test_what_is_acknowledged_outlives_kills(self, storage):
        """Every one of some writers' recordings, while the server is killed time and again."""
        acknowledged, done = {}, threading.Event()

        def write(writer: int) -> None:
            number = 0
            while not done.is_set():
                number += 1
                data = b"%d-%d" % (writer, number) * 50_000
                name = RecordingName("", f"{writer}-{number % 5}", "mp3")
                with suppress(StorageUnavailable):
                    publish(storage, data, name)
                    acknowledged[data] = name

        writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for writer in writers:
            writer.start()
        for _ in range(3):
            time.sleep(0.7)
            self.server.kill()
            self.server.start()
        time.sleep(0.3)
        done.set()
        for writer in writers:
            writer.join()
        stored = set(self.read().values())
        assert len(acknowledged) > 20
        assert set(acknowledged) <= stored
        assert all(data == data[: len(data) // 50_000] * 50_000 for data in stored)

    def test_server_that_does_not_answer_is_given_up(self, monkeypatch):
        monkeypatch.setattr(database, "ANSWER_TIMEOUT", 2)
        storage = self.open()
        publish(storage, b"audio")
        self.server.pause()
        try:
            started = time.monotonic()
            with pytest.raises(StorageUnavailable):
                publish(storage, b"other")
            assert time.monotonic() < started + 15
        finally:
            self.server.resume()
        assert publish(storage, b"other").outcome is Outcome.SUPERSEDED

    @pytest.mark.parametrize("data", [b"same", b"other"])
    def test_recording_that_is_deleted_meanwhile_is_stored_anew(self, storage, monkeypatch, data):
        publish(storage, b"same")
        search, deleter = rows.search, self.open()

        def delete(*args):
            found = search(*args)
            deleter.delete(str(NAME))
            return found

        monkeypatch.setattr(rows, "search", delete)
        assert publish(storage, data).outcome is Outcome.CREATED
        assert self.read() == {str(NAME): data}

    def test_spool_is_a_local_folder(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        assert self.open().spool == tmp_path

    def test_lock_that_another_client_holds_is_a_503(self, monkeypatch):
        publish(self.open(), b"one")
        monkeypatch.setattr(database, "ANSWER_TIMEOUT", 2)
        storage = self.open()
        with storage.engine.begin() as connection:
            connection.execute(text("UPDATE kzr_files SET modified = 0"))
            with pytest.raises(StorageUnavailable):
                publish(storage, b"two")
        assert publish(storage, b"two").outcome is Outcome.SUPERSEDED
