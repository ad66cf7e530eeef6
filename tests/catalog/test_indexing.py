"""How recordings get into the catalog, and out of it."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest

pytest.importorskip("sqlalchemy")

from receiver.catalog.catalog import Catalog
from receiver.catalog.indexing import Indexer, reindex
from receiver.catalog.search import Query
from receiver.core.naming import RecordingName, sidecar
from receiver.parts import Storage
from support.catalogs import TOLD, paths
from support.paths import PROJECT
from support.storages import NAME, parts_of, publish
from support.waiting import wait_for


class TestReindex:
    """The storage is the truth."""

    def fill(self, storage: Storage) -> None:
        for number in range(30):
            name = RecordingName("A" if number % 2 else "", f"call-{number // 2}", "mp3")
            publish(storage, os.urandom(10), name, metadata=json.dumps(TOLD).encode())

    def test_all_that_is_stored_is_found(self, catalog, storage):
        self.fill(storage)
        publish(storage, b"another", RecordingName("A", "call-1", "mp3"))
        assert reindex(catalog, storage) == 31
        assert sorted(catalog.paths()) == sorted(each.path for each in storage.scan())

    def test_what_is_no_longer_stored_is_forgotten(self, catalog, storage):
        self.fill(storage)
        reindex(catalog, storage)
        storage.delete("A/call-3.mp3")
        reindex(catalog, storage)
        assert catalog.get("A/call-3.mp3") is None
        assert len(list(catalog.paths())) == 29

    def test_new_catalog_is_the_same_as_the_old(self, storage, tmp_path):
        self.fill(storage)
        rows = []
        for name in ("one", "two"):
            catalog = Catalog(f"sqlite:///{tmp_path}/{name}.sqlite")
            reindex(catalog, storage)
            catalog.close()
            connection = sqlite3.connect(tmp_path / f"{name}.sqlite")
            rows.append(list(connection.iterdump()))
            connection.close()
        assert rows[0] == rows[1]

    def test_catalog_that_is_thrown_away_under_a_running_receiver_is_made_anew(self, start):
        receiver = start(catalog="yes", readers="ann:secret")
        headers = {"Authorization": "Basic YW5uOnNlY3JldA=="}

        def page() -> bytes:
            return receiver.request("GET", "/browse/", headers=headers).body

        for number in range(5):
            receiver.put(f"/kzr/{number}.mp3?caller_id_name=Ann")
        wait_for(lambda: page().count(b"<audio") == 5)
        before = page()
        for path in receiver.storage.glob(".catalog.sqlite*"):
            path.unlink()
        assert page().count(b"<audio") == 0
        environ = {"KZR_STORAGE": str(receiver.storage), "KZR_CATALOG": "yes"}
        command = [sys.executable, "-m", "flask", "--app", "app", "reindex"]
        subprocess.run(command, cwd=PROJECT, env=environ, check=True, capture_output=True)
        assert page() == before


class TestUpgrade:
    """The catalog of an earlier release is told of until `reindex` has made it anew."""

    OLDER = (
        "CREATE TABLE catalog_recordings (id BIGINT PRIMARY KEY, day INTEGER, path VARCHAR(99))",
        "CREATE TABLE catalog_terms (recording BIGINT, term VARCHAR(64))",
        "CREATE INDEX catalog_by_day ON catalog_recordings (day)",
        "INSERT INTO catalog_recordings VALUES (1, 2, 'a.mp3')",
    )

    def make_older(self, url: str) -> None:
        older = Catalog(url)
        older._database.create_file()
        with older._database.engine.begin() as connection:
            for statement in self.OLDER:
                connection.exec_driver_sql(statement)
        older.close()

    def test_reindex_makes_it_anew(self, url, storage, caplog):
        publish(storage, b"audio", metadata=json.dumps(TOLD).encode())
        self.make_older(url)
        running = Catalog(url)
        assert running.is_partial()
        line = "the catalog is of an earlier release: run kazoo-receiver reindex"
        assert [each.message for each in caplog.records].count(line) == 1
        assert list(running.paths()) == []
        running.refresh(storage, str(NAME))  # what is received goes on to be found
        assert running.is_partial() and list(running.paths()) == [str(NAME)]
        other = Catalog(url)
        reindex(other, storage)
        other.close()
        assert not running.is_partial()
        assert list(running.paths()) == [str(NAME)]
        running.close()
        assert not Catalog(url).is_partial()

    def test_new_one_is_not_told_of(self, url, storage, caplog):
        catalog = Catalog(url)
        assert not catalog.is_partial()
        catalog.close()
        assert not caplog.records

    def test_page_tells(self, start, tmp_path):
        url = f"sqlite:///{tmp_path}/older.sqlite"
        self.make_older(url)
        receiver = start(catalog=url, readers="ann:secret")
        headers = {"Authorization": "Basic YW5uOnNlY3JldA==", "Accept": "text/html"}

        def page() -> str:
            return receiver.request("GET", "/browse/", headers=headers).text

        receiver.put("/kzr/x.mp3")
        wait_for(lambda: "<audio" in page())
        assert "run <code>kazoo-receiver reindex</code>" in page()
        environ = {"KZR_STORAGE": str(receiver.storage), "KZR_CATALOG": url}
        command = [sys.executable, "-m", "flask", "--app", "app", "reindex"]
        subprocess.run(command, cwd=PROJECT, env=environ, check=True, capture_output=True)
        assert "reindex" not in page() and "<audio" in page()


class TestRequests:
    """Of a bucket, each file that is opened is a request."""

    def test_cataloguing_a_recording_opens_it_once(self, catalog, storage, monkeypatch):
        publish(storage, b"audio", metadata=json.dumps(TOLD).encode())
        opened = []
        open_ = storage.open
        monkeypatch.setattr(storage, "open", lambda path: opened.append(path) or open_(path))
        catalog.refresh(storage, str(NAME))
        once = [str(NAME), sidecar(str(NAME), "json"), sidecar(str(NAME), "txt")]
        assert sorted(opened) == sorted(once * 2)  # it looks again, after it wrote


class TestIndexer:
    """Recordings get into the catalog after their answers, and uploads never wait for it."""

    def test_what_is_stored_is_in_the_catalog_soon(self, start, tmp_path):
        receiver = start(catalog="yes")
        receiver.put("/kzr/x.mp3?caller_id_name=Ann", b"one")
        receiver.put("/kzr/x.mp3?caller_id_name=Bob", b"two")
        catalog = Catalog(f"sqlite:///{receiver.storage}/.catalog.sqlite")
        wait_for(lambda: len(list(catalog.paths())) == 2)
        wait_for(lambda: paths(catalog.search(Query(text="ann"))) == ["x~1.mp3"])
        wait_for(lambda: paths(catalog.search(Query(text="bob"))) == ["x.mp3"])
        catalog.close()
        assert receiver.stored() == {"x.mp3": b"two", "x~1.mp3": b"one"} | {
            path: data for path, data in receiver.files().items() if path.startswith(".catalog")
        }

    def test_catalog_is_not_for_everybody_to_read(self, start):
        receiver = start(catalog="yes")
        receiver.put("/kzr/x.mp3")
        path = receiver.storage / ".catalog.sqlite"
        wait_for(path.exists)
        assert path.stat().st_mode & 0o007 == 0

    def test_what_waits_is_in_the_catalog_when_the_receiver_has_stopped(self, start):
        receiver = start(catalog="yes")
        for number in range(50):
            receiver.put(f"/kzr/{number}.mp3")
        assert receiver.stop() == 0
        catalog = Catalog(f"sqlite:///{receiver.storage}/.catalog.sqlite")
        assert len(list(catalog.paths())) == 50
        catalog.close()

    def test_catalog_that_was_down_gets_what_was_stored_meanwhile(
        self, storage, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("receiver.catalog.indexing.PAUSE", 0.05)
        folder = tmp_path / "not-yet"
        catalog = Catalog(f"sqlite:///{folder}/catalog.sqlite")
        indexer = Indexer(catalog, parts_of(storage))
        publish(storage, b"audio", RecordingName("", "x", "mp3"))
        indexer.add("x.mp3")
        wait_for(lambda: indexer.lag > 0.2)
        folder.mkdir()
        wait_for(lambda: indexer.lag == 0)
        assert list(catalog.paths()) == ["x.mp3"]
        catalog.close()

    def test_uploads_go_on_while_the_catalog_is_stopped(self, start, postgresql, tmp_path):
        url = postgresql.new_url()
        receiver = start(catalog=url)
        receiver.put("/kzr/before.mp3")
        catalog = Catalog(url)
        wait_for(lambda: list(catalog.paths()))
        postgresql.stop()
        try:
            for number in range(20):
                assert receiver.put(f"/kzr/{number}.mp3").status == 201
            assert "the catalog cannot be reached" in wait_for(
                lambda: receiver.log if "cannot be reached" in receiver.log else ""
            )
        finally:
            postgresql.start()
        wait_for(lambda: len(list(catalog.paths())) == 21, 60, "what was stored meanwhile")
        catalog.close()

    def test_recording_that_the_catalog_does_not_take_holds_up_no_other(
        self, storage, tmp_path, monkeypatch
    ):
        catalog = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
        add = Catalog.add

        def refuse(self, descriptions):
            descriptions = list(descriptions)
            if any(each.path == "1.mp3" for each in descriptions):
                raise OverflowError
            add(self, descriptions)

        monkeypatch.setattr(Catalog, "add", refuse)
        indexer = Indexer(catalog, parts_of(storage))
        for number in range(5):
            publish(storage, b"audio", RecordingName("", str(number), "mp3"))
            indexer.add(f"{number}.mp3")
        indexer.flush()
        assert sorted(catalog.paths()) == ["0.mp3", "2.mp3", "3.mp3", "4.mp3"]
        catalog.close()
