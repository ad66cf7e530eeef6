"""What was received, in SQL, for people to find; disposable, because the storage is the truth."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from .catalog_tables import (
    LONGEST_TERM,
    SORTS,
    backwards,
    create_engine,
    folded,
    folder_term,
    id_of,
    recordings,
    row_of,
    tables,
    terms,
    terms_of,
)
from .description import Description
from .errors import CatalogUnavailable

# A word of a search is rare up to this number of recordings, and then they are all looked at. For
# common words, recordings are gone through in the order of the page until that is full.
RARE = 1000
TRIES = 3


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
        self._engine = create_engine(url)
        self._is_ready = False

    def close(self) -> None:
        """Close the connections; the catalog opens others when it is used again."""
        self._engine.dispose()

    def check(self) -> None:
        """Raise `CatalogUnavailable` where the catalog cannot be searched now."""
        with self._connection() as connection:
            connection.execute(sa.select(recordings.c.id).limit(1))

    def add(self, descriptions: Iterable[Description]) -> None:
        """Add recordings, or replace what is known of them."""
        rows = {id_of(each.path): each for each in descriptions}
        if not rows:
            return
        for attempt in range(TRIES):
            try:
                with self._connection() as connection:
                    _remove(connection, list(rows))
                    connection.execute(
                        recordings.insert(), [row_of(id_, each) for id_, each in rows.items()]
                    )
                    connection.execute(
                        terms.insert(),
                        [
                            {"recording": id_, "term": term}
                            for id_, each in rows.items()
                            for term in sorted(terms_of(each))
                        ],
                    )
                return
            except IntegrityError:  # another receiver adds the same recording
                if attempt == TRIES - 1:
                    raise CatalogUnavailable("the catalog: too many writers at once") from None

    def remove(self, paths: Iterable[str]) -> None:
        """Forget recordings that are no longer stored."""
        ids = [id_of(path) for path in paths]
        with self._connection() as connection:
            for start in range(0, len(ids), 1000):
                _remove(connection, ids[start : start + 1000])

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
            found = connection.execute(_select().where(recordings.c.id == id_of(path))).first()
        return _description(found) if found else None

    def versions(self, recording: Description) -> list[Description]:
        """The recordings that have or had the same name, this one among them, newest first."""
        with self._connection() as connection:
            found = connection.execute(
                _select()
                .where(recordings.c.original_id == id_of(recording.original))
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
            found = connection.execute(
                _select(recordings.c.id).where(*wanted).order_by(*order).limit(query.limit + 1)
            ).all()
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
        try:
            if not self._is_ready:
                self._create_tables()
            with self._engine.begin() as connection:
                yield connection
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            reason = str(getattr(error, "orig", error)).partition("\n")[0][:200]
            raise CatalogUnavailable(f"the catalog cannot be reached: {reason}") from error

    def _create_tables(self) -> None:
        try:
            tables.create_all(self._engine)
        except SQLAlchemyError:  # another process creates them at the same time
            tables.create_all(self._engine)
        self._is_ready = True


def _remove(connection: sa.Connection, ids: list[int]) -> None:
    connection.execute(terms.delete().where(terms.c.recording.in_(ids)))
    connection.execute(recordings.delete().where(recordings.c.id.in_(ids)))


def _select(*more: sa.Column[Any]) -> sa.Select[Any]:
    return sa.select(*(recordings.c[field.name] for field in fields(Description)), *more)


def _description(row: sa.Row[Any]) -> Description:
    return Description(**{field.name: row._mapping[field.name] for field in fields(Description)})


def _words(query: Query) -> list[list[sa.ColumnElement[bool]]]:
    """For each word of a query, the conditions of which a recording's terms meet one."""
    words = []
    for word in query.text.split():
        starts = [folded(word)[:LONGEST_TERM]]
        if re.fullmatch(r"\+?[\d().-]{2,}", word):
            digits = re.sub(r"\D", "", word)
            starts += [digits, backwards(digits)]
        words.append([_begins(start) for start in dict.fromkeys(starts) if start])
    if query.folder:
        words.append([terms.c.term == folder_term(query.folder)])
    return [word for word in words if word]


def _begins(start: str) -> sa.ColumnElement[bool]:
    return sa.and_(terms.c.term >= start, terms.c.term < start + chr(0x10FFFF))


def _matches(
    connection: sa.Connection, words: list[list[sa.ColumnElement[bool]]]
) -> list[sa.ColumnElement[bool]]:
    """The conditions for recordings that have all words."""
    rare: set[int] | None = None
    conditions: list[sa.ColumnElement[bool]] = []
    for word in words:
        ids = sa.union_all(*(sa.select(terms.c.recording).where(each) for each in word))
        found = connection.scalars(ids.limit(RARE + 1)).all()
        if len(found) <= RARE:
            rare = set(found) if rare is None else rare & set(found)
        else:
            own = sa.select(terms.c.term).where(terms.c.recording == recordings.c.id)
            conditions.append(own.where(sa.or_(*word)).exists())
    if rare is not None:
        conditions.append(recordings.c.id.in_(rare))
    return conditions


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
        fits = isinstance(value, str) if is_text else abs(float(value)) < 1 << 63
        if not fits or type(id_) is not int or not -(1 << 63) <= id_ < 1 << 63:
            raise ValueError
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise ValueError("there is no such page") from None
    id_column = recordings.c.id
    if descending:
        return sa.and_(column <= value, sa.or_(column < value, id_column < id_))
    return sa.and_(column >= value, sa.or_(column > value, id_column > id_))
