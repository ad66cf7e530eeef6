"""Searches of the catalog: which recordings are on a page, in SQL that each database is fast at."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from math import isfinite
from typing import Any

import sqlalchemy as sa

from ..numbers import digits_of
from .tables import (
    FACETS,
    SORTS,
    TIMES,
    backwards,
    facet_term,
    folder_term,
    recordings,
    terms,
)
from .words import cut, folded, parts_of

# A word of a search is rare up to this number of recordings, and then they are all looked at. For
# common words, recordings are gone through in the order of the page until that is full.
RARE = 5000
LONGEST_NUMBER = 12  # words that a number may be written in
LEAST_DIGITS = 2  # of a number of which the end is looked for
TRUNK_DIGITS = 5  # of a number whose zeros at the beginning may be left out


@dataclass(frozen=True)
class Query:
    """What somebody looks for; `after` or `before` is a page's `next` or `previous`.

    `text` is words that the recording's names, numbers, ids and transcript begin with, all of them;
    of numbers also their last digits. `shortest` is in seconds. `since` and `until` are days of the
    catalog's time zone: of `time`, which is "began" or "received".
    """

    text: str = ""
    folder: str = ""
    account: str = ""
    direction: str = ""
    extension: str = ""
    shortest: int = 0
    since: date | None = None
    until: date | None = None
    time: str = "began"
    sort: str = "newest"
    after: str = ""
    before: str = ""
    limit: int = 50


# A term, or what terms begin with and what comes after the last of them.
Range = tuple[str, str | None]


@dataclass(frozen=True)
class Word:
    """What has one of some terms."""

    ranges: tuple[Range, ...]

    def lists(self) -> list[sa.Select[tuple[int]]]:
        """The recordings' ids, in parts that are fast one by one."""
        return [Word((each,)).ids() for each in self.ranges]

    def ids(self) -> sa.Select[tuple[int]]:
        return sa.select(terms.c.recording).where(self._is_one(terms.c.term))

    def has(self, connection: sa.Connection) -> sa.ColumnElement[bool]:
        """Whether a recording has it; this looks at its own terms.

        For EXISTS, MariaDB would first collect all recordings that have the word, and so would
        PostgreSQL with the index of terms.
        """
        term = terms.c.term.concat("") if connection.dialect.name == "postgresql" else terms.c.term
        own = sa.select(sa.literal_column("1", sa.Integer)).where(
            terms.c.recording == recordings.c.id
        )
        return own.where(self._is_one(term)).limit(1).scalar_subquery() == 1

    def _is_one(self, term: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        return sa.or_(
            *(
                term == start if end is None else sa.and_(term >= start, term < end)
                for start, end in self.ranges
            )
        )


@dataclass(frozen=True)
class Long:
    """What takes some seconds or longer."""

    seconds: int

    def lists(self) -> list[sa.Select[tuple[int]]]:
        return [self.ids()]

    def ids(self) -> sa.Select[tuple[int]]:
        return sa.select(recordings.c.id).where(recordings.c.duration >= float(self.seconds))

    def has(self, connection: sa.Connection) -> sa.ColumnElement[bool]:
        return recordings.c.duration >= float(self.seconds)


Condition = Word | Long


@dataclass(frozen=True)
class Number:
    """A number in several words, which may also be several numbers."""

    whole: Word
    words: tuple[Word, ...]


class Search:
    """The search for one page; raises `ValueError` for a sort or a page that does not exist."""

    def __init__(self, query: Query, zone: tzinfo | None) -> None:
        if query.sort not in SORTS or query.time not in TIMES:
            raise ValueError(f"sort is one of {', '.join(SORTS)}, time one of {', '.join(TIMES)}")
        self._query = query
        column, is_descending = SORTS[query.sort]
        self._column = TIMES[query.time] if column is None else column
        descending = is_descending is not bool(query.before)  # the page before is gone through back
        self._wanted = _filters(query, zone)
        if cursor := query.before or query.after:
            self._wanted.append(_beyond(cursor, self._column, descending))
        columns = (self._column, recordings.c.id)
        self._order = [each.desc() if descending else each for each in columns]

    def ids(self, connection: sa.Connection) -> list[int]:
        """The recordings in their order, or back from `before`: one more than fit, if there are."""
        wanted = self._wanted + _matches(connection, _conditions(connection, self._query))
        ids = sa.select(recordings.c.id).where(*wanted).order_by(*self._order)
        return list(connection.scalars(ids.limit(self._query.limit + 1)))

    def place_of(self, row: sa.Row[Any]) -> str:
        """A recording's place in the order, for `after` and `before`."""
        return json.dumps([row._mapping[self._column.name], row.id], ensure_ascii=False)


def _conditions(connection: sa.Connection, query: Query) -> list[Condition]:
    """What a recording has to have, all of it.

    The folder and the account come first, because they tend to be the rarest.
    """
    folder = folder_term(query.folder)
    found: list[Condition] = [Word(((folder, folder + "!"),))] if query.folder else []
    for name in FACETS:
        if value := getattr(query, name):
            found.append(Word(((facet_term(name, value), None),)))
    for each in _words(query.text):
        if isinstance(each, Word):
            found.append(each)
        elif any(_find(connection, [ids], 1) for ids in each.whole.lists()):
            found.append(each.whole)
        else:
            found += each.words
    return found + ([Long(query.shortest)] if query.shortest else [])


def _words(text: str) -> list[Word | Number]:
    """The words of a text that somebody looks for."""
    words = folded(text).split()
    found: list[Word | Number] = []
    at = 0
    while at < len(words):
        single = _word(words[at])
        for end in range(min(len(words), at + LONGEST_NUMBER), at + 1, -1):
            digits = digits_of(" ".join(words[at:end]))
            if len(digits) >= LEAST_DIGITS:
                parts = [part for word in words[at:end] for part in _word(word)]
                found.append(Number(Word(_ranges(_ends(digits))), tuple(parts)))
                at = end
                break
        else:
            found += single
            at += 1
    return list(dict.fromkeys(found))


def _word(word: str) -> list[Word]:
    """A word of which all parts have to be there, or which is a number."""
    parts = [part for part in parts_of(word) if part]
    digits = digits_of(word)
    if len(digits) >= LEAST_DIGITS:
        return [Word(_ranges([*parts[:1], *_ends(digits)]))]
    return [Word(_ranges([part])) for part in parts]


def _ends(digits: str) -> list[str]:
    """What terms of numbers begin with that begin or end with some digits.

    Zeros that are dialled before a number of the same country, or of another, are not a part of it.
    """
    found = [digits, backwards(digits)]
    national = digits.lstrip("0")
    if digits.startswith("0") and len(national) >= TRUNK_DIGITS:
        found += [national, backwards(national)]
    return found


def _ranges(starts: Sequence[str]) -> tuple[Range, ...]:
    return tuple((each, each + chr(0x10FFFF)) for each in dict.fromkeys(map(cut, starts)) if each)


def _matches(
    connection: sa.Connection, conditions: list[Condition]
) -> list[sa.ColumnElement[bool]]:
    """The conditions for recordings that have all of it."""
    rare: set[int] | None = None
    common = []
    for condition in conditions:
        found = {id_ for ids in condition.lists() for id_ in _find(connection, [ids])}
        if len(found) > RARE:
            common.append(condition)
        else:
            rare = found if rare is None else rare & found
    if rare is None and len(common) > 1:  # which may seldom come together
        lists = [each.ids() for each in common if isinstance(each, Word)]
        long = [each for each in common if isinstance(each, Long)]
        together = _find(connection, lists, long=long)
        if len(together) <= RARE:
            rare, common = set(together), []
    wanted = [condition.has(connection) for condition in common]
    if rare is not None:
        wanted.append(_is_among(connection, recordings.c.id, rare))
    elif any(isinstance(each, Word) for each in common):
        if connection.dialect.name == "postgresql":
            # It takes them for rare, and would look at all recordings to sort those that are left.
            connection.execute(sa.text("SET LOCAL enable_sort = off"))
    return wanted


def _find(
    connection: sa.Connection,
    lists: list[sa.Select[tuple[int]]],
    most: int | None = None,
    long: Sequence[Long] = (),
) -> list[int]:
    """Some recordings that are in all lists of ids; if there are fewer than `most`, all of them.

    Without `most`, one more than are rare. `long` is looked up for each that is in all the lists.
    """
    query, *others = lists
    # Not INTERSECT, which does not end before it has them all. The sum keeps SQLite from looking
    # up each recording of the one word by the primary key.
    (column,) = query.selected_columns
    for other in others:
        query = query.where((column + 0).in_(other.subquery().select()))
    for each in long:
        lasts = sa.select(recordings.c.duration).where(recordings.c.id == column)
        query = query.where(lasts.correlate(terms).scalar_subquery() >= float(each.seconds))
    return list(connection.scalars(query.limit(most or RARE + 1)))


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


def _filters(query: Query, zone: tzinfo | None) -> list[sa.ColumnElement[bool]]:
    time = TIMES[query.time]
    wanted: list[sa.ColumnElement[bool]] = []
    if query.since:
        wanted.append(time >= midnight(query.since, zone))
    if query.until:
        wanted.append(time < midnight(query.until + timedelta(days=1), zone))
    return wanted


def midnight(day: date, zone: tzinfo | None) -> float:
    """When a day begins; without a zone, in the system's."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def _beyond(cursor: str, column: sa.Column[Any], descending: bool) -> sa.ColumnElement[bool]:
    """The recordings after a place in the order, in a form that every database's indexes serve."""
    try:
        value, id_ = json.loads(cursor)
        if not _is_value(column, value) or not _is_whole(id_):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise ValueError("there is no such page") from None
    id_column = recordings.c.id
    if descending:
        return sa.and_(column <= value, sa.or_(column < value, id_column < id_))
    return sa.and_(column >= value, sa.or_(column > value, id_column > id_))


def _is_value(column: sa.Column[Any], value: object) -> bool:
    """Whether a column of every database can be compared with a value."""
    if isinstance(column.type, sa.String):
        return isinstance(value, str) and "\0" not in value.encode().decode()
    if isinstance(column.type, sa.BigInteger):
        return _is_whole(value)
    return _is_whole(value) or type(value) is float and isfinite(value)


def _is_whole(value: object) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 63
