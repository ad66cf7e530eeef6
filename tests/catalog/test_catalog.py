"""The catalog: what is known of recordings, and how they are found, in each database."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

import sqlalchemy as sa

from receiver.catalog.catalog import Catalog
from receiver.catalog.search import Query
from receiver.errors import CatalogUnavailable, SettingError
from support.catalogs import ACCOUNT, MAY_1, TOLD, paths, recording


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
        monkeypatch.setattr("receiver.catalog.search.RARE", rare)
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

    @pytest.mark.parametrize("path", ["", "a\0b", "\0", "\udcff", "x" * 10_000])
    def test_what_nobody_stores_is_not_there(self, catalog, path):
        assert catalog.get(path) is None

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
        monkeypatch.setattr("receiver.catalog.catalog.id_of", lambda each: int(each.received) << 20)
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
        assert catalog.days(date(2026, 5, 1), date(2026, 5, 3)) == {
            date(2026, 5, 1): (3, 30),
            date(2026, 5, 2): (2, 20),
        }
        assert list(catalog.days(date(2026, 5, 2), date(2026, 5, 3))) == [date(2026, 5, 2)]


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_catalog_that_does_not_answer_is_given_up(server, request, monkeypatch):
    monkeypatch.setattr("receiver.catalog.catalog.ANSWER_TIMEOUT", 2)
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
