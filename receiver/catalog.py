"""What was received, in SQL, for people to find; disposable, because the storage is the truth."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from .catalog_tables import (
    SORTS,
    backwards,
    cut,
    folded,
    folder_term,
    id_of,
    key_of,
    recordings,
    row_of,
    tables,
    terms,
    terms_of,
)
from .description import Description
from .errors import CatalogUnavailable
from .naming import original
from .storage.engine import Busy, Database, is_passing, line_of

# A word of a search is rare up to this number of recordings, and then they are all looked at. For
# common words, recordings are gone through in the order of the page until that is full.
RARE = 5000
CONNECTIONS = 4  # at most, of each process
ANSWER_TIMEOUT = 10  # seconds without a word from the server


@dataclass(frozen=True)
class Query:
    """What somebody looks for; `after` or `before` is a page's `next` or `previous`.

    `text` is words that the recording's names, numbers, ids and transcript begin with, all of them;
    of numbers also their last digits. Days are those of the server's time zone.
    """

    text: str = ""
    folder: str = ""
    since: date | None = None
    until: date | None = None
    sort: str = "newest"
    after: str = ""
    before: str = ""
    limit: int = 50


@dataclass(frozen=True)
class Page:
    """Some recordings in the order that was asked for; `next` and `previous` are "" at the ends."""

    recordings: Sequence[Description]
    next: str = ""
    previous: str = ""


class Catalog:
    """The catalog in the database at `url`. Its tables are created when they are first used.

    Methods raise `CatalogUnavailable` where the database cannot be reached or fails.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(
            url, "KZR_CATALOG", connections=CONNECTIONS, timeout=ANSWER_TIMEOUT, durable=False
        )
        self._is_ready = False

    def close(self) -> None:
        """Close the connections; the catalog opens others when it is used again."""
        self._database.engine.dispose()

    def check(self) -> None:
        """Raise `CatalogUnavailable` where the catalog cannot be searched now."""
        with self._connection() as connection:
            connection.execute(sa.select(recordings.c.id).limit(1))

    def add(self, descriptions: Iterable[Description]) -> None:
        """Add recordings, or replace what is known of them."""
        # In one order, so that receivers that add the same recordings wait for each other.
        each_once = {each.path: each for each in descriptions}
        rows = sorted(each_once.values(), key=id_of)
        if not rows:
            return
        with self._errors():
            self._database.transaction(partial(_add, rows=rows))

    def remove(self, paths: Iterable[str]) -> None:
        """Forget recordings that are no longer stored."""
        all_paths = list(paths)
        for start in range(0, len(all_paths), 1000):
            some = all_paths[start : start + 1000]
            with self._errors():
                self._database.transaction(partial(_remove, paths=some))

    def paths(self) -> Iterator[str]:
        """The stored paths of all recordings."""
        last = -(1 << 63)
        while True:
            with self._connection() as connection:
                rows = connection.execute(
                    sa.select(recordings.c.id, recordings.c.path)
                    .where(recordings.c.id > last)
                    .order_by(recordings.c.id)
                    .limit(10_000)
                ).all()
            if not rows:
                return
            yield from (path for _, path in rows)
            last = rows[-1].id

    def get(self, path: str) -> Description | None:
        """What is known of the recording that is stored at `path`."""
        with self._connection() as connection:
            found = connection.execute(_select().where(_is_at([path]))).first()
        return _description(found) if found else None

    def versions(self, recording: Description) -> list[Description]:
        """The recordings that have or had the same name, this one among them, newest first."""
        with self._connection() as connection:
            found = connection.execute(
                _select()
                .where(recordings.c.original_id == key_of(recording.original))
                .order_by(recordings.c.received.desc(), recordings.c.id)
            )
            return [_description(row) for row in found]

    def days(self, since: date) -> dict[date, tuple[int, int]]:
        """The number of recordings and their bytes, by day."""
        day, size = recordings.c.day, recordings.c.size
        query = sa.select(day, sa.func.count(), sa.func.sum(size)).where(day >= since.toordinal())
        with self._connection() as connection:
            found = connection.execute(query.group_by(day).order_by(day)).all()
        return {date.fromordinal(day): (count, int(total)) for day, count, total in found}

    def search(self, query: Query) -> Page:
        """Find recordings; raises `ValueError` for a sort or a page that does not exist."""
        if query.sort not in SORTS:
            raise ValueError(f"sort is one of {', '.join(SORTS)}")
        column, is_descending = SORTS[query.sort]
        wanted = _filters(query)
        cursor = query.before or query.after
        backwards = bool(query.before)
        descending = is_descending is not backwards
        if cursor:
            wanted.append(_beyond(cursor, column, descending))
        order = [each.desc() if descending else each for each in (column, recordings.c.id)]
        with self._connection() as connection:
            wanted += _matches(connection, _words(query))
            # First only which, because databases sort whole rows, and transcripts are long.
            ids = sa.select(recordings.c.id).where(*wanted).order_by(*order)
            which = connection.scalars(ids.limit(query.limit + 1)).all()
            rows = _select(recordings.c.id).where(recordings.c.id.in_(which))
            by_id = {row.id: row for row in connection.execute(rows)}
        found = [by_id[id_] for id_ in which if id_ in by_id]
        more, found = len(found) > query.limit, found[: query.limit]
        if backwards:
            found = found[::-1]
        if not found:
            return Page([])
        return Page(
            [_description(row) for row in found],
            next=_cursor(found[-1], column) if more or backwards else "",
            previous=_cursor(found[0], column) if (more if backwards else query.after) else "",
        )

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        with self._errors(), self._database.engine.connect() as connection:
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors that pass into `CatalogUnavailable`; before, create what is missing."""
        try:
            if not self._is_ready or self._database.is_missing():
                self._create_tables()
            yield
        except DBAPIError as error:
            if not is_passing(error):
                raise
            raise _unavailable(line_of(error)) from error
        except (Busy, PoolTimeout, OSError) as error:
            raise _unavailable(str(error)) from error

    def _create_tables(self) -> None:
        self._database.create_file()
        with self._database.schema_lock():
            self._database.transaction(tables.create_all)
        self._is_ready = True


def _unavailable(reason: str) -> CatalogUnavailable:
    return CatalogUnavailable(f"the catalog cannot be reached: {reason}")


def _add(connection: sa.Connection, rows: list[Description]) -> None:
    _remove(connection, [each.path for each in rows])
    by_id = _with_ids(connection, rows)
    connection.execute(recordings.insert(), [row_of(id_, each) for id_, each in by_id.items()])
    found = [
        {"recording": id_, "term": term}
        for id_, each in by_id.items()
        for term in sorted(terms_of(each))
    ]
    connection.execute(terms.insert(), found)


def _with_ids(connection: sa.Connection, rows: list[Description]) -> dict[int, Description]:
    """The rows by ids that are free; those that want the same one get the next."""
    by_id: dict[int, Description] = {}
    waiting = [(id_of(each), each) for each in rows]
    while waiting:
        for id_, each in waiting:
            while id_ in by_id:
                id_ += 1
            by_id[id_] = each
        ids = sa.select(recordings.c.id).where(recordings.c.id.in_(by_id))
        waiting = [(id_ + 1, by_id.pop(id_)) for id_ in connection.scalars(ids)]
    return by_id


def _remove(connection: sa.Connection, paths: Sequence[str]) -> None:
    ids = connection.scalars(sa.select(recordings.c.id).where(_is_at(paths))).all()
    if ids:
        connection.execute(terms.delete().where(terms.c.recording.in_(ids)))
        connection.execute(recordings.delete().where(recordings.c.id.in_(ids)))


def _is_at(paths: Sequence[str]) -> sa.ColumnElement[bool]:
    keys = {key_of(original(path)) for path in paths}
    return sa.and_(recordings.c.original_id.in_(keys), recordings.c.path.in_(paths))


def _select(*more: sa.Column[Any]) -> sa.Select[Any]:
    return sa.select(*(recordings.c[field.name] for field in fields(Description)), *more)


def _description(row: sa.Row[Any]) -> Description:
    return Description(**{field.name: row._mapping[field.name] for field in fields(Description)})


def _words(query: Query) -> list[list[tuple[str, str]]]:
    """For each word of a query, the ranges of terms of which a recording has one.

    The folder comes first, because it tends to be the rarest.
    """
    folder = folder_term(query.folder)
    words = [[(folder, folder + "!")]] if query.folder else []
    for word in query.text.split():
        starts = [folded(word)]
        digits = re.sub(r"\D", "", word)
        if digits and re.fullmatch(r"\+?[\d().-]{2,}", word):
            starts += [digits, backwards(digits)]
        starts = [cut(start) for start in starts]
        words.append([(each, each + chr(0x10FFFF)) for each in dict.fromkeys(starts) if each])
    return [word for word in words if word]


def _matches(
    connection: sa.Connection, words: list[list[tuple[str, str]]]
) -> list[sa.ColumnElement[bool]]:
    """The conditions for recordings that have all words."""
    rare: set[int] | None = None
    common = []
    for word in words:
        found = [id_ for each in word for id_ in _find(connection, [each])]
        if len(found) > RARE:
            common.append(word)
        else:
            rare = set(found) if rare is None else rare & set(found)
    if rare is None and len(common) > 1:  # which may seldom come together
        found = _find(connection, *common)
        if len(found) <= RARE:
            rare, common = set(found), []
    conditions = [_has(connection, recordings.c.id, word) for word in common]
    if rare is not None:
        conditions.append(recordings.c.id.in_(rare))
    elif common and connection.dialect.name == "postgresql":
        # It takes them for rare, and would look at all recordings to sort those that are left.
        connection.execute(sa.text("SET LOCAL enable_sort = off"))
    return conditions


def _find(connection: sa.Connection, *words: list[tuple[str, str]]) -> list[int]:
    """Some recordings that have all words; if there are up to `RARE`, all of them."""
    first, *others = words
    query = sa.select(terms.c.recording).where(_is_one(terms.c.term, first))
    # Not INTERSECT, which does not end before it has them all. The sum keeps SQLite from looking
    # up each recording of the one word by the primary key.
    for word in others:
        other = terms.alias()
        having = sa.select(other.c.recording).where(_is_one(other.c.term, word))
        query = query.where((terms.c.recording + 0).in_(having))
    return list(connection.scalars(query.limit(RARE + 1)))


def _has(
    connection: sa.Connection, recording: sa.Column[int], word: list[tuple[str, str]]
) -> sa.ColumnElement[bool]:
    """Whether a recording has a word; this looks at its own terms.

    For EXISTS, MariaDB would first collect all recordings that have the word, and so would
    PostgreSQL with the index of terms.
    """
    term = terms.c.term.concat("") if connection.dialect.name == "postgresql" else terms.c.term
    own = sa.select(sa.literal_column("1", sa.Integer)).where(terms.c.recording == recording)
    return own.where(_is_one(term, word)).limit(1).scalar_subquery() == 1


def _is_one(term: sa.ColumnElement[str], word: list[tuple[str, str]]) -> sa.ColumnElement[bool]:
    return sa.or_(*(sa.and_(term >= start, term < end) for start, end in word))


def _filters(query: Query) -> list[sa.ColumnElement[bool]]:
    wanted: list[sa.ColumnElement[bool]] = []
    if query.since:
        wanted.append(recordings.c.received >= _midnight(query.since))
    if query.until:
        wanted.append(recordings.c.received < _midnight(query.until + timedelta(days=1)))
    return wanted


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day).timestamp()


def _cursor(row: sa.Row[Any], column: sa.Column[Any]) -> str:
    return json.dumps([row._mapping[column.name], row.id], ensure_ascii=False)


def _beyond(cursor: str, column: sa.Column[Any], descending: bool) -> sa.ColumnElement[bool]:
    """The recordings after a place in the order, in a form that every database's indexes serve."""
    try:
        value, id_ = json.loads(cursor)
        is_text = isinstance(column.type, sa.String)
        fits = "\0" not in value.encode().decode() if is_text else abs(float(value)) < 1 << 63
        if not fits or type(id_) is not int or not -(1 << 63) <= id_ < 1 << 63:
            raise ValueError
    except (AttributeError, ValueError, TypeError, OverflowError, RecursionError):
        raise ValueError("there is no such page") from None
    id_column = recordings.c.id
    if descending:
        return sa.and_(column <= value, sa.or_(column < value, id_column < id_))
    return sa.and_(column >= value, sa.or_(column > value, id_column > id_))
