"""What was received, in SQL, for people to find; disposable, because the storage is the truth."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import date, timedelta, tzinfo
from functools import lru_cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ..errors import CatalogUnavailable, NotStored, StorageFailed, StorageUnavailable
from ..parts import Storage
from ..shown import shown
from ..sql import Busy, Database, is_passing, line_of
from ..storage.paths import original
from .description import Description, look
from .search import Query, Search, midnight
from .tables import (
    FACETS,
    OLDER,
    TIMES,
    id_of,
    key_of,
    recordings,
    row_of,
    tables,
    terms,
    terms_of,
)

CONNECTIONS = 4  # at most, of each process
ANSWER_TIMEOUT = 10  # seconds without a word from the server
LOOKS_MOST = 20  # at a recording, while others change it or what lies beside it
FORGOTTEN_AT_ONCE = 200  # recordings

logger = logging.getLogger("receiver.indexing")


@dataclass(frozen=True)
class Page:
    """Some recordings in the order that was asked for; `next` and `previous` are "" at the ends."""

    recordings: Sequence[Description]
    next: str = ""
    previous: str = ""


class Catalog:
    """The catalog in the database at `url`. Its tables are created when they are first used.

    Its days are those of `zone`, without one those of the system's. Methods raise
    `CatalogUnavailable` where the database cannot be reached or fails.
    """

    def __init__(self, url: str, zone: tzinfo | None = None) -> None:
        self._database = Database(
            url, "KZR_CATALOG", connections=CONNECTIONS, timeout=ANSWER_TIMEOUT, durable=False
        )
        self._zone = zone
        self._is_ready = False
        self._is_partial = False

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
        all_paths = [path for path in paths if _is_text(path)]
        for start in range(0, len(all_paths), 1000):
            some = all_paths[start : start + 1000]
            with self._errors():
                self._database.transaction(partial(_remove, paths=some))

    def refresh(self, storage: Storage, path: str) -> None:
        """Add what is known now of the recording that is stored at `path`."""
        for error in self.follow(storage, [path]).values():
            raise error

    def forget(self, storage: Storage, paths: Iterable[str]) -> None:
        """Remove recordings, but those that are stored again."""
        gone = sorted(paths)
        for start in range(0, len(gone), FORGOTTEN_AT_ONCE):
            batch = gone[start : start + FORGOTTEN_AT_ONCE]
            self.remove(batch)
            for path, error in self.follow(storage, batch).items():
                if not isinstance(error, NotStored):
                    logger.warning("not in the catalog: %s: %s", shown(path), shown(error))

    def follow(self, storage: Storage, paths: Iterable[str]) -> dict[str, Exception]:
        """Make the rows of recordings what the storage says; return why some have none.

        It looks again after it wrote, until that changes nothing: what was erased, superseded or
        described by others meanwhile is as the storage has it now. What cannot be read has no row.
        """
        waiting = list(dict.fromkeys(paths))
        known: dict[str, object] = {}
        missing: dict[str, Exception] = {}
        for _ in range(LOOKS_MOST):
            changed: dict[str, Description | None] = {}
            for path in waiting:
                seen, error = _seen(storage, path)
                if error:
                    missing[path] = error
                else:
                    missing.pop(path, None)
                if path not in known or known[path] != seen:
                    changed[path] = seen[1] if seen else None
                known[path] = seen
            if not changed:
                return missing
            self.remove(path for path, found in changed.items() if found is None)
            for path, error in self._add_each(filter(None, changed.values())):
                missing[path], known[path] = error, None
            waiting = list(changed)
        self.remove(waiting)  # what is not known for certain must not stay
        unsettled = StorageUnavailable("others keep changing it: run flask --app app reindex")
        return missing | dict.fromkeys(waiting, unsettled)

    def _add_each(self, descriptions: Iterable[Description]) -> Iterator[tuple[str, Exception]]:
        """Add recordings, and yield those that the database does not take, with its reason."""
        rows = list(descriptions)
        try:
            self.add(rows)
        except CatalogUnavailable:
            raise
        except Exception as error:
            if len(rows) > 1:
                for row in rows:
                    yield from self._add_each([row])
            else:
                yield rows[0].path, error

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
        if not _is_text(path):
            return None
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

    def days(self, since: date, until: date, time: str = "began") -> dict[date, tuple[int, int]]:
        """The number of recordings and their bytes, by day; of days without, nothing."""
        days = [since + timedelta(days=n) for n in range((until - since).days + 1)]
        ends = [midnight(day, self._zone) for day in (*days, until + timedelta(days=1))]
        with self._connection() as connection:
            found = connection.execute(
                _totals(time, len(days)), {f"end_{n}": end for n, end in enumerate(ends)}
            ).all()
        return {days[int(row[0])]: (row[1], int(row[2])) for row in found if row[1]}

    def values(self, facet: str, most: int) -> list[str]:
        """The values that recordings are filtered by, such as their accounts: the first ones."""
        first = FACETS[facet]
        above = terms.alias()
        found = (
            sa.select(sa.func.min(terms.c.term).label("term"))
            .where(terms.c.term >= first, terms.c.term < first + chr(0x10FFFF))
            .cte("found", recursive=True)
        )
        # Each is one look into the index, however many recordings have it.
        following = sa.select(sa.func.min(above.c.term)).where(
            above.c.term > found.c.term, above.c.term < first + chr(0x10FFFF)
        )
        found = found.union_all(
            sa.select(following.scalar_subquery()).where(found.c.term.is_not(None))
        )
        query = sa.select(found.c.term).where(found.c.term.is_not(None)).limit(most)
        with self._connection() as connection:
            return [term.removeprefix(first) for term in connection.scalars(query)]

    def is_partial(self) -> bool:
        """Whether it lacks what an earlier release had in it, and nobody has made it anew."""
        with self._connection() as connection:
            if self._is_partial:
                self._is_partial = sa.inspect(connection).has_table(OLDER[-1])
        return self._is_partial

    def note_whole(self) -> None:
        """Drop what an earlier release had: all that is stored has been added."""
        with self._errors():
            self._database.transaction(_drop_older)

    def search(self, query: Query) -> Page:
        """Find recordings; raises `ValueError` for a sort or a page that does not exist."""
        search = Search(query, self._zone)
        with self._connection() as connection:
            # First only which, because databases sort whole rows, and transcripts are long.
            which = search.ids(connection)
            rows = _select(recordings.c.id).where(recordings.c.id.in_(which))
            by_id = {row.id: row for row in connection.execute(rows)}
        found = [by_id[id_] for id_ in which if id_ in by_id]
        more, found = len(found) > query.limit, found[: query.limit]
        if query.before:
            found = found[::-1]
        if not found:
            return Page([])
        return Page(
            [_description(row) for row in found],
            next=search.place_of(found[-1]) if more or query.before else "",
            previous=search.place_of(found[0]) if (more if query.before else query.after) else "",
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
            with self._database.engine.connect() as connection:
                self._is_partial = sa.inspect(connection).has_table(OLDER[-1])
        if self._is_partial and not self._is_ready:
            logger.warning("the catalog is of an earlier release: run kazoo-receiver reindex")
        self._is_ready = True


@lru_cache
def _totals(time: str, count: int) -> sa.CompoundSelect[int, int, int]:
    """The number of recordings and their bytes in `count` days, which lie between `end_0`, ..."""
    column = TIMES[time]
    ends: list[sa.BindParameter[float]] = [
        sa.bindparam(f"end_{number}", type_=sa.Double()) for number in range(count + 1)
    ]
    return sa.union_all(
        *(
            sa.select(
                sa.literal_column(str(number), sa.Integer),
                sa.func.count(),
                sa.func.sum(recordings.c.size),
            ).where(column >= ends[number], column < ends[number + 1])
            for number in range(count)
        )
    )


def _drop_older(connection: sa.Connection) -> None:
    for name in OLDER:
        sa.Table(name, sa.MetaData()).drop(connection, checkfirst=True)


def _seen(storage: Storage, path: str) -> tuple[tuple[str, Description] | None, Exception | None]:
    """What is stored at `path`, or why that cannot be told."""
    if not _is_text(path):
        return None, StorageFailed("its name is not UTF-8: rename it")
    try:
        return look(storage, path), None
    except Exception as error:
        return None, error


def _is_text(path: str) -> bool:
    """Whether a database takes a path: one that is not UTF-8 has surrogate escapes.

    PostgreSQL takes no NUL, either, which no stored path has.
    """
    return "\0" not in path and path.encode("utf-8", "replace").decode() == path


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
