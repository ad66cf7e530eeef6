"""What was received, in SQL, for people to find; disposable, because the storage is the truth."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any, get_type_hints

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from .description import LONGEST_TEXT, Description
from .errors import CatalogUnavailable, SettingError

DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
LONGEST_TERM = 64  # characters
MOST_TERMS = 2000  # of one recording
# A word of a search is rare up to this number of recordings, and then they are all looked at. For
# common words, recordings are gone through in the order of the page until that is full.
RARE = 1000
TRIES = 3

_bytewise = (
    sa.String(LONGEST_TERM)
    .with_variant(sa.String(LONGEST_TERM, collation="C"), "postgresql")
    .with_variant(mysql.VARCHAR(LONGEST_TERM, collation="utf8mb4_bin"), "mysql", "mariadb")
)
_line = sa.String(LONGEST_TEXT).with_variant(
    mysql.VARCHAR(LONGEST_TEXT, collation="utf8mb4_bin"), "mysql", "mariadb"
)
_text = sa.Text().with_variant(mysql.LONGTEXT(collation="utf8mb4_bin"), "mysql", "mariadb")


def _type(name: str, hint: type) -> sa.types.TypeEngine[Any]:
    if hint is int:
        return sa.BigInteger()
    if hint is float:
        return sa.Double()
    return _text if name in ("path", "folder", "original", "transcript") else _line


_tables = sa.MetaData()  # of one version: a newer one would have tables of other names
_recordings = sa.Table(
    "catalog_recordings",
    _tables,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("original_id", sa.BigInteger, nullable=False, index=True),
    sa.Column("day", sa.Integer, nullable=False),  # datetime.date.toordinal
    *(sa.Column(name, _type(name, hint)) for name, hint in get_type_hints(Description).items()),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
)
_terms = sa.Table(
    "catalog_terms",
    _tables,
    sa.Column("recording", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("term", _bytewise, primary_key=True),
    sa.Index("catalog_terms_by_term", "term", "recording"),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
    sqlite_with_rowid=False,
)
# By name: the column, and whether the largest value comes first.
SORTS = {
    "newest": (_recordings.c.received, True),
    "oldest": (_recordings.c.received, False),
    "longest": (_recordings.c.duration, True),
    "largest": (_recordings.c.size, True),
    "caller": (_recordings.c.caller_name, False),
}
for _column in (_recordings.c.received, _recordings.c.duration, _recordings.c.size):
    sa.Index(f"catalog_by_{_column.name}", _column, _recordings.c.id)
sa.Index("catalog_by_caller", _recordings.c.caller_name, _recordings.c.id)
sa.Index("catalog_by_day", _recordings.c.day, _recordings.c.size)


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
        self._engine = _engine(url)
        self._is_ready = False

    def check(self) -> None:
        """Raise `CatalogUnavailable` where the catalog cannot be searched now."""
        with self._connection() as connection:
            connection.execute(sa.select(_recordings.c.id).limit(1))

    def add(self, descriptions: Iterable[Description]) -> None:
        """Add recordings, or replace what is known of them."""
        rows = {_id(each.path): each for each in descriptions}
        if not rows:
            return
        for attempt in range(TRIES):
            try:
                with self._connection() as connection:
                    _remove(connection, list(rows))
                    connection.execute(
                        _recordings.insert(), [_row(id_, each) for id_, each in rows.items()]
                    )
                    connection.execute(
                        _terms.insert(),
                        [
                            {"recording": id_, "term": term}
                            for id_, each in rows.items()
                            for term in sorted(terms(each))
                        ],
                    )
                return
            except IntegrityError:  # another receiver adds the same recording
                if attempt == TRIES - 1:
                    raise CatalogUnavailable("the catalog: too many writers at once") from None

    def remove(self, paths: Iterable[str]) -> None:
        """Forget recordings that are no longer stored."""
        ids = [_id(path) for path in paths]
        with self._connection() as connection:
            for start in range(0, len(ids), 1000):
                _remove(connection, ids[start : start + 1000])

    def paths(self) -> Iterator[str]:
        """The stored paths of all recordings."""
        last = -(1 << 63)
        while True:
            with self._connection() as connection:
                rows = connection.execute(
                    sa.select(_recordings.c.id, _recordings.c.path)
                    .where(_recordings.c.id > last)
                    .order_by(_recordings.c.id)
                    .limit(10_000)
                ).all()
            if not rows:
                return
            yield from (path for _, path in rows)
            last = rows[-1].id

    def get(self, path: str) -> Description | None:
        """What is known of the recording that is stored at `path`."""
        with self._connection() as connection:
            found = connection.execute(_select().where(_recordings.c.id == _id(path))).first()
        return _description(found) if found else None

    def versions(self, recording: Description) -> list[Description]:
        """The recordings that have or had the same name, this one among them, newest first."""
        with self._connection() as connection:
            found = connection.execute(
                _select()
                .where(_recordings.c.original_id == _id(recording.original))
                .order_by(_recordings.c.received.desc(), _recordings.c.id)
            )
            return [_description(row) for row in found]

    def days(self, since: date) -> dict[date, tuple[int, int]]:
        """The number of recordings and their bytes, by day."""
        day, size = _recordings.c.day, _recordings.c.size
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
        order = [each.desc() if descending else each for each in (column, _recordings.c.id)]
        with self._connection() as connection:
            wanted += _matches(connection, _words(query))
            found = connection.execute(
                _select(_recordings.c.id).where(*wanted).order_by(*order).limit(query.limit + 1)
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
                _tables.create_all(self._engine)
                self._is_ready = True
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).partition("\n")[0][:200]
            raise CatalogUnavailable(f"the catalog cannot be reached: {reason}") from error


def terms(recording: Description) -> set[str]:
    """What a search finds a recording by: words, last digits of numbers, folders."""
    each = recording
    found: set[str] = set()
    for number in (each.caller_number, each.callee_number, each.from_, each.to):
        if digits := re.sub(r"\D", "", number.partition("@")[0]):
            found |= {digits, _backwards(digits)}
    texts = (
        *(each.caller_name, each.callee_name, each.caller_number, each.callee_number),
        *(each.from_, each.to, each.account, each.call_id, each.cdr_id, each.interaction_id),
        *(each.path.rpartition("/")[2], each.transcript),
    )
    for word in " ".join(texts).split():
        found |= {_folded(word), *map(_folded, re.findall(r"\w{3,}", word))}
    found = {term[:LONGEST_TERM] for term in sorted(found, key=len)[:MOST_TERMS] if term}
    parts = each.folder.split("/") if each.folder else []
    return found | {_folder_term("/".join(parts[: n + 1])) for n in range(len(parts))}


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        if driver := DRIVERS.get(parsed.drivername):
            parsed = parsed.set(drivername=f"{parsed.drivername}+{driver}")
        engine = sa.create_engine(parsed, pool_pre_ping=True, pool_timeout=10)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise SettingError(f"KZR_CATALOG cannot be used: {type(error).__name__}") from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
    return engine


def _configure_sqlite(connection: Any, _: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _id(path: str) -> int:
    """A recording's id; it comes from its path, so that each new catalog has the same."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big", signed=True)


def _row(id_: int, each: Description) -> dict[str, Any]:
    day = datetime.fromtimestamp(each.received).toordinal()
    return {"id": id_, "original_id": _id(each.original), "day": day, **asdict(each)}


def _remove(connection: sa.Connection, ids: list[int]) -> None:
    connection.execute(_terms.delete().where(_terms.c.recording.in_(ids)))
    connection.execute(_recordings.delete().where(_recordings.c.id.in_(ids)))


def _select(*more: sa.Column[Any]) -> sa.Select[Any]:
    return sa.select(*(_recordings.c[field.name] for field in fields(Description)), *more)


def _description(row: sa.Row[Any]) -> Description:
    return Description(**{field.name: row._mapping[field.name] for field in fields(Description)})


def _folded(word: str) -> str:
    """A word without case and accents."""
    plain = unicodedata.normalize("NFKD", word.casefold())
    return "".join(char for char in plain if not unicodedata.combining(char)).strip("\0")


def _backwards(digits: str) -> str:
    return "<" + digits[::-1]


def _folder_term(folder: str) -> str:
    return "/" + hashlib.sha256(folder.encode()).hexdigest()[:32]


def _words(query: Query) -> list[list[sa.ColumnElement[bool]]]:
    """For each word of a query, the conditions of which a recording's terms meet one."""
    words = []
    for word in query.text.split():
        folded = _folded(word)[:LONGEST_TERM]
        starts = [folded]
        if re.fullmatch(r"\+?[\d().-]{2,}", word):
            digits = re.sub(r"\D", "", word)
            starts += [digits, _backwards(digits)]
        words.append([_begins(start) for start in dict.fromkeys(starts) if start])
    if query.folder:
        words.append([_terms.c.term == _folder_term(query.folder)])
    return [word for word in words if word]


def _begins(start: str) -> sa.ColumnElement[bool]:
    return sa.and_(_terms.c.term >= start, _terms.c.term < start + chr(0x10FFFF))


def _matches(
    connection: sa.Connection, words: list[list[sa.ColumnElement[bool]]]
) -> list[sa.ColumnElement[bool]]:
    """The conditions for recordings that have all words."""
    rare: set[int] | None = None
    conditions: list[sa.ColumnElement[bool]] = []
    for word in words:
        ids = sa.union_all(*(sa.select(_terms.c.recording).where(each) for each in word))
        found = connection.scalars(ids.limit(RARE + 1)).all()
        if len(found) <= RARE:
            rare = set(found) if rare is None else rare & set(found)
        else:
            own = sa.select(_terms.c.term).where(_terms.c.recording == _recordings.c.id)
            conditions.append(own.where(sa.or_(*word)).exists())
    if rare is not None:
        conditions.append(_recordings.c.id.in_(rare))
    return conditions


def _filters(query: Query) -> list[sa.ColumnElement[bool]]:
    wanted: list[sa.ColumnElement[bool]] = []
    if query.since:
        wanted.append(_recordings.c.received >= _midnight(query.since))
    if query.until:
        wanted.append(_recordings.c.received < _midnight(query.until + timedelta(days=1)))
    return wanted


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day).timestamp()


def _cursor(row: sa.Row[Any], column: sa.Column[Any]) -> str:
    return json.dumps([row._mapping[column.name], row.id], ensure_ascii=False)


def _beyond(cursor: str, column: sa.Column[Any], descending: bool) -> sa.ColumnElement[bool]:
    """The recordings after a place in the order, in a form that every database's indexes serve."""
    try:
        value, id_ = json.loads(cursor)
    except ValueError:
        value = id_ = None
    if not isinstance(id_, int) or not isinstance(value, (str, int, float)):
        raise ValueError("there is no such page")
    id_column = _recordings.c.id
    if descending:
        return sa.and_(column <= value, sa.or_(column < value, id_column < id_))
    return sa.and_(column >= value, sa.or_(column > value, id_column > id_))
