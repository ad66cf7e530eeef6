"""The catalog: what is known of recordings, and how they are found, in each database."""

import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import date, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from receiver.catalog import Catalog, Page
from receiver.catalog_search import Query
from receiver.description import Description, describe
from receiver.errors import CatalogUnavailable, SettingError
from receiver.indexing import Indexer, reindex
from receiver.naming import RecordingName
from receiver.storage import Storage, open_storage
from support.paths import PROJECT
from support.storages import publish
from support.waiting import wait_for

ACCOUNT = "4f8c2d6ba1e04be39c1d7f60a2b3c4d5"
MAY_1 = datetime(2026, 5, 1, 12).timestamp()
TOLD = {
    "from": "1001@acme.example.com",
    "to": "+14155550100@acme.example.com",
    "caller_id_name": "Jörg & 李",
    "caller_id_number": "1001",
    "callee_id_name": "Bob",
    "callee_id_number": "+14155550100",
    "call_id": "abc123@10.0.0.1",
    "cdr_id": "202611-abc123@10.0.0.1",
    "interaction_id": "63868000000-7a1b2c3d",
    "account_id": ACCOUNT,
}


def recording(number: int, **known) -> Description:
    values = {field.name: "" for field in dataclasses.fields(Description)}
    values |= {"size": 1000 + number, "received": MAY_1 + number, "start": 0.0, "duration": 0.0}
    path = known.pop("path", f"{number}.mp3")
    folder = path.rpartition("/")[0]
    return Description(**(values | {"path": path, "original": path, "folder": folder} | known))


def paths(page: Page) -> list[str]:
    return [each.path for each in page.recordings]


@contextmanager
def statements_sent() -> Iterator[list[str]]:
    """The statements that SQLAlchemy sends to databases meanwhile."""
    statements: list[str] = []

    def note(connection, cursor, statement, *others):
        statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.sqlite"
    return request.getfixturevalue(request.param).new_url()


@pytest.fixture
def catalog(url):
    catalog = Catalog(url)
    yield catalog
    catalog.close()


@pytest.fixture
def storage(tmp_path) -> Storage:
    return open_storage(str(tmp_path / "recordings"))


class TestSearch:
    """A search finds recordings that have all words, and pages go over all of them."""

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("jörg", True),
            ("JORG", True),
            ("jo", True),
            ("李", True),
            ("jorg 李", True),
            ("jorg wang", False),
            ("+14155550100", True),
            ("0100", True),
            ("5550100", True),
            ("415-555-0100", True),
            ("9999", False),
            ("abc123@10.0.0.1", True),
            ("abc12", True),
            ("7a1b2c3d", True),
            (ACCOUNT, True),
            ("örg", False),  # words are found by their beginnings
            ("refund", True),
            ("'; drop table", False),
            ("%", False),
            ("--", False),
            ("j\0org", True),
        ],
    )
    def test_words_are_found_by_their_beginnings_and_numbers_by_their_ends(
        self, catalog, text, found
    ):
        told = {
            "caller_name": TOLD["caller_id_name"],
            "callee_number": TOLD["callee_id_number"],
            "call_id": TOLD["call_id"],
            "interaction_id": TOLD["interaction_id"],
            "account": ACCOUNT,
            "transcript": "I would like a refund, please.",
        }
        catalog.add([recording(1, **told), recording(2, caller_name="Wang")])
        assert paths(catalog.search(Query(text=text))) == (["1.mp3"] if found else [])

    @pytest.mark.parametrize("rare", [0, 5, 1000])
    def test_common_words_are_found_too(self, catalog, rare, monkeypatch):
        monkeypatch.setattr("receiver.catalog_search.RARE", rare)
        catalog.add(
            recording(n, caller_name="Ann" if n % 2 else "Bob", callee_name=f"Team{n % 3}")
            for n in range(60)
        )
        wanted = [f"{n}.mp3" for n in reversed(range(60)) if n % 2 and n % 3 == 1]
        assert paths(catalog.search(Query(text="ann team1"))) == wanted

    @pytest.mark.parametrize("text", ["", "ann"])
    @pytest.mark.parametrize("sort", ["newest", "oldest", "longest", "largest", "caller"])
    def test_pages_go_forth_and_back_over_all(self, catalog, sort, text):
        catalog.add(
            recording(n, caller_name=f"Ann {n % 4}", duration=float(n % 3), received=MAY_1 + n % 5)
            for n in range(23)
        )
        pages = [catalog.search(Query(text=text, sort=sort, limit=5))]
        while pages[-1].next:
            pages.append(catalog.search(Query(text=text, sort=sort, limit=5, after=pages[-1].next)))
        assert [len(page.recordings) for page in pages] == [5, 5, 5, 5, 3]
        assert len({path for page in pages for path in paths(page)}) == 23
        assert pages[0].previous == ""
        for before, page in zip(pages, pages[1:], strict=False):
            query = Query(text=text, sort=sort, limit=5, before=page.previous)
            assert paths(catalog.search(query)) == paths(before)

    def test_order_is_what_was_asked_for(self, catalog):
        catalog.add(
            [
                recording(1, duration=5.0, size=3, caller_name="b"),
                recording(2, duration=9.0, size=1, caller_name="a"),
                recording(3, duration=7.0, size=2, caller_name="c"),
            ]
        )
        orders = {"newest": "321", "oldest": "123", "longest": "231", "largest": "132"}
        for sort, order in (orders | {"caller": "213"}).items():
            found = paths(catalog.search(Query(sort=sort)))
            assert "".join(path[0] for path in found) == order

    def test_days_include_their_ends(self, catalog):
        day = 24 * 60 * 60
        catalog.add(recording(n, received=MAY_1 + n * day) for n in range(4))
        found = catalog.search(Query(since=date(2026, 5, 2), until=date(2026, 5, 3)))
        assert paths(found) == ["2.mp3", "1.mp3"]

    def test_folder_includes_those_below_it(self, catalog):
        catalog.add(
            recording(n, path=path)
            for n, path in enumerate(["A/1.mp3", "A/B/2.mp3", "AB/3.mp3", "4.mp3"])
        )
        assert paths(catalog.search(Query(folder="A"))) == ["A/B/2.mp3", "A/1.mp3"]
        assert paths(catalog.search(Query(folder="A/B"))) == ["A/B/2.mp3"]
        assert paths(catalog.search(Query(folder="A/B", text="1"))) == []

    @pytest.mark.parametrize(
        "query",
        [
            Query(sort="size; drop table"),
            Query(after="nonsense"),
            Query(after="[1]"),
            Query(after='[{}, "x"]'),
            Query(before="1"),
            Query(after="[1, 1]", sort="caller"),
            Query(after='["\\u0000", 1]', sort="caller"),
            Query(after='["\\ud800", 1]', sort="caller"),
        ],
    )
    def test_what_does_not_exist_is_refused(self, catalog, query):
        with pytest.raises(ValueError):
            catalog.search(query)


class TestRows:
    """A recording has one row, which comes and goes with it."""

    def test_what_is_added_can_be_got(self, catalog):
        one = recording(1, caller_name="Ann", path="A/x.mp3")
        catalog.add([one])
        assert catalog.get("A/x.mp3") == one
        assert catalog.get("A/y.mp3") is None

    def test_what_is_added_again_is_replaced(self, catalog):
        catalog.add([recording(1, caller_name="Ann")])
        catalog.add([recording(1, caller_name="Bob")])
        assert paths(catalog.search(Query(text="ann"))) == []
        assert paths(catalog.search(Query(text="bob"))) == ["1.mp3"]

    def test_several_receivers_add_the_same_recordings_at_once(self, url):
        def add(names: list[str]) -> None:
            own = Catalog(url)
            for name in names:
                own.add(recording(n, caller_name=name) for n in range(50))
            own.close()

        with ThreadPoolExecutor() as threads:
            list(threads.map(add, [["Ann", "Bob", "Eve"] * 3] * 4))
        catalog = Catalog(url)
        found = [catalog.search(Query(text=name, limit=100)) for name in ("ann", "bob", "eve")]
        assert sorted(path for page in found for path in paths(page)) == sorted(catalog.paths())
        catalog.close()

    def test_what_is_removed_is_not_found(self, catalog):
        catalog.add([recording(1, caller_name="Ann"), recording(2, caller_name="Ann")])
        catalog.remove(["1.mp3", "absent.mp3"])
        assert paths(catalog.search(Query(text="ann"))) == ["2.mp3"]
        assert list(catalog.paths()) == ["2.mp3"]

    def test_recordings_of_the_same_moment_are_all_kept(self, catalog, monkeypatch):
        monkeypatch.setattr("receiver.catalog.id_of", lambda each: int(each.received) << 20)
        catalog.add(recording(n, received=MAY_1) for n in range(5))
        catalog.add(recording(n, received=MAY_1) for n in range(3, 9))
        assert sorted(catalog.paths()) == [f"{n}.mp3" for n in range(9)]

    def test_paths_that_differ_in_case_are_two(self, catalog):
        catalog.add([recording(1, path="a.mp3"), recording(2, path="A.mp3")])
        assert sorted(catalog.paths()) == ["A.mp3", "a.mp3"]

    def test_words_that_only_some_databases_tell_apart_are_no_error(self, catalog):
        catalog.add([recording(1, caller_name="abc´ abc¨ " + "x" * 63 + "´y Abc\x1f")])
        assert paths(catalog.search(Query(text="ABC´"))) == ["1.mp3"]

    def test_versions_of_a_name_belong_together(self, catalog):
        catalog.add(
            [
                recording(2, path="A/x.mp3"),
                recording(1, path="A/x~1.mp3", original="A/x.mp3"),
                recording(3, path="B/x.mp3"),
            ]
        )
        older = catalog.get("A/x~1.mp3")
        assert [each.path for each in catalog.versions(older)] == ["A/x.mp3", "A/x~1.mp3"]

    def test_days_are_counted(self, catalog):
        catalog.add(recording(n, size=10, received=MAY_1 + n // 3 * 86400) for n in range(5))
        assert catalog.days(date(2026, 5, 1)) == {
            date(2026, 5, 1): (3, 30),
            date(2026, 5, 2): (2, 20),
        }
        assert list(catalog.days(date(2026, 5, 2))) == [date(2026, 5, 2)]


class TestDescription:
    """What is known of a recording comes from its metadata, its path and its audio."""

    NAME = RecordingName("A", "abc@10.0.0.1", "mp3")

    def describe(self, storage, told=None, data=b"audio", name=NAME) -> Description:
        metadata = json.dumps(told).encode() if told is not None else b""
        publish(storage, data, name, metadata=metadata)
        (listed,) = [each for each in storage.scan() if each.path == str(name)]
        return describe(storage, listed)

    def test_query_of_kazoo_is_understood(self, storage):
        found = self.describe(storage, TOLD)
        assert (found.caller_name, found.caller_number) == ("Jörg & 李", "1001")
        assert (found.callee_name, found.callee_number) == ("Bob", "+14155550100")
        assert (found.from_, found.to) == (TOLD["from"], TOLD["to"])
        assert (found.account, found.call_id) == (ACCOUNT, "abc123@10.0.0.1")
        assert (found.cdr_id, found.interaction_id) == (TOLD["cdr_id"], TOLD["interaction_id"])
        assert (found.path, found.folder, found.size) == ("A/abc@10.0.0.1.mp3", "A", 5)

    def test_form_of_kazoo_is_understood(self, storage):
        told = {
            "start": 63868001222,
            "duration": 12,
            "duration_ms": 12340,
            "custom_channel_vars": {"Account-ID": ACCOUNT},
        }
        found = self.describe(storage, told)
        assert (found.duration, found.account) == (12.34, ACCOUNT)
        assert datetime.fromtimestamp(found.start).year == 2023

    def test_path_tells_what_the_metadata_does_not(self, storage):
        found = self.describe(storage, name=RecordingName(f"{ACCOUNT}/x", "a/b@c", "wav"))
        assert (found.account, found.call_id) == (ACCOUNT, "a/b@c")

    def test_audio_tells_its_own_duration(self, storage, tmp_path):
        with wave.open(str(tmp_path / "x.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(16000 * 3))
        data = (tmp_path / "x.wav").read_bytes()
        assert self.describe(storage, data=data).duration == 3

    @pytest.mark.parametrize("data", [b"", b"ID3", os.urandom(1000), b"RIFF\xff\xff\xff\xffWAVE"])
    def test_what_is_no_audio_has_no_duration(self, storage, data):
        assert self.describe(storage, data=data).duration == 0

    @pytest.mark.parametrize("told", [b"[1]", b"{", b"\xff", b"[" * 100_000])
    def test_broken_metadata_tells_nothing(self, storage, told):
        publish(storage, b"audio", self.NAME, metadata=told)
        (listed,) = storage.scan()
        assert describe(storage, listed).caller_name == ""

    def test_every_database_takes_what_senders_may_tell(self, catalog, storage):
        told = {
            "caller_id_name": "a\0b\ud800c" + "x" * 1000,
            "caller_id_number": ["list"],
            "start": "never",
            "duration": 1e300,
            "custom_channel_vars": {"Account-ID": {"a": 1}},
        }
        found = self.describe(storage, told)
        catalog.add([found])
        assert catalog.get(found.path) == found
        assert found.caller_name.startswith("ab?cx")
        assert (len(found.caller_name), found.start, found.duration) == (255, 0, 0)

    def test_transcript_is_that_beside_the_recording(self, storage):
        publish(storage, b"audio", self.NAME)
        (storage.root / "A" / self.NAME.sidecar("txt")).write_text("I would like a refund.")
        (listed,) = storage.scan()
        assert describe(storage, listed).transcript == "I would like a refund."


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
        monkeypatch.setattr("receiver.indexing.PAUSE", 0.05)
        folder = tmp_path / "not-yet"
        catalog = Catalog(f"sqlite:///{folder}/catalog.sqlite")
        indexer = Indexer(catalog, storage)
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
        indexer = Indexer(catalog, storage)
        for number in range(5):
            publish(storage, b"audio", RecordingName("", str(number), "mp3"))
            indexer.add(f"{number}.mp3")
        indexer.flush()
        assert sorted(catalog.paths()) == ["0.mp3", "2.mp3", "3.mp3", "4.mp3"]
        catalog.close()


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_catalog_that_does_not_answer_is_given_up(server, request, monkeypatch):
    monkeypatch.setattr("receiver.catalog.ANSWER_TIMEOUT", 2)
    database = request.getfixturevalue(server)
    catalog = Catalog(database.new_url().replace("mysql:", "mariadb:"))
    catalog.add([recording(1)])
    database.pause()
    try:
        started = time.monotonic()
        with pytest.raises(CatalogUnavailable, match="the catalog cannot be reached: "):
            catalog.search(Query())
        assert time.monotonic() < started + 12
    finally:
        database.resume()
    assert paths(catalog.search(Query())) == ["1.mp3"]
    catalog.close()


def test_searches_in_sqlite_are_few_statements_because_it_keeps_them(tmp_path):
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    catalog.add(recording(n, caller_name=f"Name{n // 100}") for n in range(300))
    catalog.remove(f"{n}.mp3" for n in (0, 1, 100))  # 98, 99 and 100 recordings are left
    sent = set()
    with closing(catalog), statements_sent() as statements:
        for text in ("name0", "name1", "name2"):
            assert len(catalog.search(Query(text=text)).recordings) == 50
            sent.add(tuple(statements))
            statements.clear()
    assert len(sent) == 1


def test_catalog_of_another_kind_is_refused():
    with pytest.raises(SettingError, match="KZR_CATALOG=redis://...: expected one of postgresql"):
        Catalog("redis://127.0.0.1/")


def test_catalog_that_is_down_is_an_error_that_names_no_password(tmp_path: Path):
    catalog = Catalog("postgresql://user:secret@127.0.0.1:9/none")
    with pytest.raises(CatalogUnavailable) as error:
        catalog.search(Query())
    assert error.value.description.startswith("the catalog cannot be reached: ")
    assert "secret" not in error.value.description
