"""Searches of the catalog: which recordings are on a page, in SQL that each database is fast at."""

import json
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from .tables import SORTS, backwards, cut, folded, folder_term, recordings, terms

# A word of a search is rare up to this number of recordings, and then they are all looked at. For
# common words, recordings are gone through in the order of the page until that is full.
RARE = 5000


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


class Search:
    """The search for one page; raises `ValueError` for a sort or a page that does not exist."""

    def __init__(self, query: Query) -> None:
        if query.sort not in SORTS:
            raise ValueError(f"sort is one of {', '.join(SORTS)}")
        self._query = query
        self._column, is_descending = SORTS[query.sort]
        descending = is_descending is not bool(query.before)  # the page before is gone through back
        self._wanted = _filters(query)
        if cursor := query.before or query.after:
            self._wanted.append(_beyond(cursor, self._column, descending))
        columns = (self._column, recordings.c.id)
        self._order = [each.desc() if descending else each for each in columns]

    def ids(self, connection: sa.Connection) -> list[int]:
        """The recordings in their order, or back from `before`: one more than fit, if there are."""
        wanted = self._wanted + _matches(connection, _words(self._query))
        ids = sa.select(recordings.c.id).where(*wanted).order_by(*self._order)
        return list(connection.scalars(ids.limit(self._query.limit + 1)))

    def place_of(self, row: sa.Row[Any]) -> str:
        """A recording's place in the order, for `after` and `before`."""
        return json.dumps([row._mapping[self._column.name], row.id], ensure_ascii=False)


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
        conditions.append(_is_among(connection, recordings.c.id, rare))
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


def _is_among(
    connection: sa.Connection, column: sa.Column[int], ids: set[int]
) -> sa.ColumnElement[bool]:
    """Whether a column is one of some ids; in SQLite they are one value.

    It keeps the statements that it has prepared, and one for each number of ids takes much memory.
    """
    if connection.dialect.name == "sqlite":
        values = sa.func.json_each(json.dumps(sorted(ids))).table_valued("value")
        return column.in_(sa.select(values.c.value))
    return column.in_(ids)


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
