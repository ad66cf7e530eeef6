"""The queue: jobs are put into a table, taken by workers, and finished or tried again.

Any number of workers may share it. A worker is known to live by its `beat`, a number that grows:
the others tell by their own clocks for how long it has not, so that no clock that is set makes a
worker dead or its jobs wait.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from hashlib import sha256
from typing import Any, TypeVar, cast
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler

from ..errors import StorageUnavailable
from ..parts import Backlog, Outcome, Stored
from ..sql import Busy, Database, execute_when_free, line_of
from .event import Event
from .tables import jobs, tables, times, workers

WAITING, TAKEN, DONE, GIVEN_UP = "waiting", "taken", "done", "given up"
CONNECTIONS = 16  # at most, of each process: one for each of a worker's threads
ANSWER_TIMEOUT = 10  # seconds without a word from the server
TRIES = 10
FIRST_PAUSE = 5  # seconds
PAUSE_FACTOR = 3  # from one pause to the next: the last is nine hours
KEPT = 30 * 24 * 60 * 60  # seconds for which it is known that a job was done
STEP = 500  # rows that are changed or read at a time
BUSY_PAUSE = 0.001  # seconds
SLACK = 2.0  # seconds by which clocks may differ that are right
HOUR = 60 * 60
LONGEST_REASON = 1000  # characters

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One kind of work for one recording; `tries` were begun, this one too."""

    id: int
    key: bytes
    kind: str
    event: Event
    tries: int
    reason: str = ""
    due: float = 0.0


class Lost(Exception):
    """This worker was taken for dead, and what it had taken was given to others."""


@dataclass
class _Batch:
    """Rows that one transaction writes for all who wait for it."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    is_written: bool = False
    error: StorageUnavailable | None = None


class Queue:
    """The queue in the database at `url`, the value of `setting`.

    With `durable` false, a power failure may undo the latest changes: a worker's, whose jobs are
    done again then. Its tables are made when it is first used, and again where they were removed.
    Methods raise `StorageUnavailable` where it cannot be used.
    """

    def __init__(self, url: str, setting: str, *, durable: bool = True) -> None:
        self._database = Database(
            url,
            setting,
            connections=CONNECTIONS,
            timeout=ANSWER_TIMEOUT,
            durable=durable,
        )
        self.name, self.file = self._database.name, self._database.file
        self.setting = setting
        self._is_ready = False
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._batch = _Batch()
        self._writer: PoolProxiedConnection | None = None  # whoever has the turn uses it

    def close(self) -> None:
        """Close the connections; others are opened when it is used again."""
        self._close_writer()
        self._database.engine.dispose()

    def prepare(self) -> None:
        """Make the tables where they are missing."""
        with self._errors():
            self._prepare()

    def _prepare(self) -> None:
        self._database.create_file()
        with self._database.schema_lock():
            self._database.transaction(tables.create_all)
        self._is_ready = True

    def exists(self) -> bool:
        """Whether there is a queue already."""
        if self._database.is_missing():
            return False
        with self._errors(), self._database.engine.connect() as connection:
            return sa.inspect(connection).has_table(jobs.name)

    def add(self, stored: Stored, kinds: Sequence[str]) -> None:
        """Enqueue a recording's jobs, with those that other threads enqueue now."""
        rows = _rows(stored, kinds)
        with self._lock:
            batch = self._batch
            batch.rows += rows
        with self._turn:
            if not batch.is_written:
                with self._lock:
                    self._batch = _Batch()
                try:
                    self._write(batch.rows)
                except StorageUnavailable as error:
                    batch.error = error
                except BaseException as error:
                    batch.error = StorageUnavailable(f"the queue of jobs failed: {error}")
                    raise
                finally:
                    batch.is_written = True
        if batch.error:
            raise StorageUnavailable(batch.error.description) from batch.error

    def add_missing(self, stored: Stored, kinds: Sequence[str]) -> bool:
        """Enqueue a recording's jobs, and return whether any was not known yet."""
        rows = _rows(stored, kinds)
        return bool(self._change(lambda connection: _insert(connection, rows)))

    def check(self) -> None:
        """Raise where nothing can be enqueued now."""
        self._change(lambda connection: _set_time(connection, "checked", now(connection)))

    def register(self) -> str:
        """Begin to live as a worker, and return its id."""
        worker = uuid4().hex

        def begin(connection: sa.Connection) -> str:
            connection.execute(sa.insert(workers).values(id=worker, beat=0))
            known = sa.select(workers.c.id)
            _give_back(connection, jobs.c.taken_by.not_in(known))
            return worker

        return self._change(begin)

    def leave(self, worker: str) -> None:
        """End a worker's life; what it has taken and not finished is given back."""

        def leave(connection: sa.Connection) -> None:
            connection.execute(sa.delete(workers).where(workers.c.id == worker))
            _give_back(connection, jobs.c.taken_by == worker)

        self._change(leave)

    def beat(self, worker: str, running: Collection[int]) -> dict[str, int]:
        """Tell that a worker lives, and return the beats of the others; or raise `Lost`.

        `running` are the ids of the jobs that it does. What else it has taken it never learned of,
        because the connection broke: it is given back.
        """

        def beat(connection: sa.Connection) -> dict[str, int]:
            _live(connection, worker)
            unknown = sa.and_(jobs.c.taken_by == worker, jobs.c.id.not_in(running))
            _give_back(connection, unknown)
            others = sa.select(workers.c.id, workers.c.beat).where(workers.c.id != worker)
            current, latest = now(connection), _time(connection, "worker")
            if latest is not None and latest > current + SLACK:  # the clock was set back
                _make_due(connection, current)
            _set_time(connection, "worker", current)
            return {id_: beat for id_, beat in connection.execute(others)}

        return self._change(beat)

    def bury(self, worker: str, beat: int) -> bool:
        """Give back what a dead worker had taken, unless its beat is another by now."""

        def bury(connection: sa.Connection) -> bool:
            same = (workers.c.id == worker, workers.c.beat == beat)
            if not connection.execute(sa.delete(workers).where(*same)).rowcount:
                return False
            _give_back(connection, jobs.c.taken_by == worker)
            return True

        return self._change(bury)

    def take(self, worker: str, kinds: Sequence[str], limit: int) -> list[Job]:
        """Take jobs that are due, of several kinds by turns; or raise `Lost`."""

        def take(connection: sa.Connection) -> list[Job]:
            found = _due(connection, kinds, limit, lock=True)
            if not found:
                return []
            _live(connection, worker)
            connection.execute(
                sa.update(jobs)
                .where(jobs.c.id.in_([job.id for job in found]), jobs.c.state == WAITING)
                .values(state=TAKEN, taken_by=worker, tries=jobs.c.tries + 1)
            )
            return found

        # Mostly there is nothing, and SQLite's lock stays free for uploads.
        if self.file and not self._read(lambda connection: _due(connection, kinds, 1)):
            return []
        return self._change(take)

    def finish(self, job: Job, worker: str) -> None:
        """Note that a job is done; or raise `Lost`."""
        self._finish(job, worker, DONE, KEPT)

    def fail(self, job: Job, worker: str, reason: str) -> None:
        """Let a job be tried again after a pause, or give it up; or raise `Lost`."""
        state, pause = (GIVEN_UP, 0.0) if job.tries >= TRIES else (WAITING, pause_after(job.tries))
        self._finish(job, worker, state, pause, reason[:LONGEST_REASON])

    def _finish(self, job: Job, worker: str, state: str, pause: float, reason: str = "") -> None:
        def finish(connection: sa.Connection) -> int:
            due = now(connection) + pause
            return connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job.id, jobs.c.key == job.key, jobs.c.taken_by == worker)
                .values(state=state, due=due, taken_by="", reason=reason)
            ).rowcount

        if not self._change(finish):
            raise Lost(f"job {job.kind} of {job.event.path} was given to another worker, or erased")

    def claim_hour(self) -> bool:
        """Whether an hour has passed since this last returned that, to whatever worker."""

        def claim(connection: sa.Connection) -> bool:
            current, latest = now(connection), _time(connection, "hourly")
            if latest is not None and latest <= current < latest + HOUR:
                return False
            _set_time(connection, "hourly", current)
            return latest is not None and latest <= current

        return self._change(claim)

    def forget_old(self) -> None:
        """Forget what was done long ago, in small steps: others come between."""

        def forget(connection: sa.Connection, kind: str) -> int:
            old = (jobs.c.state == DONE, jobs.c.kind == kind, jobs.c.due <= now(connection))
            ids = connection.scalars(sa.select(jobs.c.id).where(*old).limit(STEP)).all()
            connection.execute(sa.delete(jobs).where(jobs.c.id.in_(ids)))
            return len(ids)

        for kind in self._read(lambda connection: _kinds(connection, DONE)):
            while self._change(partial(forget, kind=kind)) == STEP:
                time.sleep(0.01)

    def forget(self, path: str, etag: str, kinds: Sequence[str]) -> None:
        """Forget all jobs of a recording."""
        keys = [key_of(kind, path, etag) for kind in kinds]
        self._change(
            lambda connection: connection.execute(sa.delete(jobs).where(jobs.c.key.in_(keys)))
        )

    def retry(self) -> int:
        """Enqueue again what was given up; return how much it was."""

        def retry(connection: sa.Connection) -> int:
            given_up = sa.select(jobs.c.id).where(jobs.c.state == GIVEN_UP).limit(STEP)
            ids = connection.scalars(given_up).all()
            connection.execute(
                sa.update(jobs)
                .where(jobs.c.id.in_(ids), jobs.c.state == GIVEN_UP)
                .values(state=WAITING, due=0.0, tries=0)
            )
            return len(ids)

        total = 0
        while count := self._change(retry):
            total += count
        return total

    def given_up(self) -> Iterator[Job]:
        """The jobs that were given up, with the reason, and when as `due`."""
        last = 0
        while True:
            page = (
                sa.select(jobs)
                .where(jobs.c.state == GIVEN_UP, jobs.c.id > last)
                .order_by(jobs.c.id)
                .limit(STEP)
            )
            found = self._read(partial(_all, query=page))
            if not found:
                return
            yield from map(_job, found)
            last = found[-1].id

    def backlog(self) -> Backlog:
        def read(connection: sa.Connection) -> Backlog:
            count = (
                sa.select(jobs.c.state, jobs.c.kind, sa.func.count())
                .where(jobs.c.state.in_((WAITING, TAKEN, GIVEN_UP)))
                .group_by(jobs.c.state, jobs.c.kind)
            )
            waiting: dict[str, int] = {}
            given_up: dict[str, int] = {}
            for state, kind, number in connection.execute(count):
                found = given_up if state == GIVEN_UP else waiting
                found[kind] = found.get(kind, 0) + number
            begun = connection.scalar(
                sa.select(sa.func.min(jobs.c.received)).where(jobs.c.state.in_((WAITING, TAKEN)))
            )
            oldest = 0.0 if begun is None else max(0.0, time.time() - begun)
            return Backlog(waiting, given_up, oldest, _time(connection, "worker") or 0.0)

        return self._read(read)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """Insert jobs in one commit; into SQLite past SQLAlchemy, which takes longer than it."""
        if not self.file:
            self._change(lambda connection: _insert(connection, rows))
            return
        with self._errors():
            try:
                self._write_to_file(rows)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                    raise
                self._empty_log()  # which may take up the very room that is missing
                self._write_to_file(rows)

    def _write_to_file(self, rows: list[dict[str, Any]]) -> None:
        if self._writer is None or not self._database.is_current(self._writer.info):
            self._close_writer()
            self._make_ready()
            self._writer = self._database.engine.raw_connection()
            cast(sqlite3.Connection, self._writer.driver_connection).execute(
                "PRAGMA busy_timeout = 0"
            )
        statement = _insertion(self._database.engine.dialect)
        driver = cast(sqlite3.Connection, self._writer.driver_connection)
        try:
            _begin(driver)
            driver.executemany(statement.string, _parameters(statement, rows))
            driver.execute("COMMIT")
        except BaseException:
            self._close_writer()  # which rolls back
            raise
        if not self._database.is_current(self._writer.info):
            raise Busy("its file was removed")

    def _empty_log(self) -> None:
        connection = self._database.engine.raw_connection()
        try:
            driver = cast(sqlite3.Connection, connection.driver_connection)
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer:
            writer.invalidate()  # the pool's others wait for locks
            writer.close()

    def _make_ready(self) -> None:
        if not self._is_ready or self._database.is_missing():
            self._prepare()

    def _change(self, work: Callable[[sa.Connection], T]) -> T:
        with self._errors():
            self._make_ready()
            result = self._database.transaction(work)
            if self._database.is_missing():  # and what was written is lost
                raise Busy("its file was removed")
            return result

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        with self._errors():
            self._make_ready()
            with self._database.engine.connect() as connection:
                return work(connection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Busy as error:
            raise _unavailable(str(error)) from error
        except PoolTimeout as error:
            raise _unavailable(f"all {CONNECTIONS} connections are in use") from error
        except DBAPIError as error:
            raise _unavailable(line_of(error)) from error
        except sqlite3.Error as error:
            raise _unavailable(str(error)) from error
        except (OSError, RuntimeError) as error:  # PyMySQL raises those for what it lacks
            raise _unavailable(getattr(error, "strerror", "") or str(error)) from error


def _all(connection: sa.Connection, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
    return connection.execute(query).all()


def _begin(driver: sqlite3.Connection) -> None:
    """Begin to write, soon after other processes have ended: SQLite itself sleeps ever longer."""
    execute_when_free(driver, "BEGIN IMMEDIATE", ANSWER_TIMEOUT, BUSY_PAUSE)


def enqueue(connection: sa.Connection, stored: Stored, kinds: Sequence[str]) -> None:
    """Enqueue a recording's jobs in a transaction of the storage's, which is in one database."""
    _insert(connection, _rows(stored, kinds))


def key_of(kind: str, path: str, etag: str) -> bytes:
    return sha256(f"{kind}\0{path}\0{etag}".encode("utf-8", "surrogateescape")).digest()


def pause_after(tries: int) -> float:
    """The seconds after a failure until the next try."""
    return FIRST_PAUSE * float(PAUSE_FACTOR) ** (tries - 1)


def now(connection: sa.Connection) -> float:
    """The time, of a clock that all share who use a database."""
    if connection.dialect.name == "sqlite":
        return time.time()
    is_mysql = connection.dialect.name == "mysql"
    clock = "unix_timestamp(now(6))" if is_mysql else "extract(epoch from clock_timestamp())"
    return float(connection.scalar(sa.text(f"SELECT {clock}")) or 0)


def _unavailable(reason: str) -> StorageUnavailable:
    return StorageUnavailable(f"the queue of jobs cannot be used: {reason}")


def _rows(stored: Stored, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a recording's jobs."""
    about = {
        "path": stored.path,
        "etag": stored.etag,
        "outcome": str(stored.outcome),
        "kept_as": stored.kept_path or "",
        "received": round(time.time(), 3),
        "state": WAITING,
        "due": 0.0,
        "tries": 0,
        "taken_by": "",
        "reason": "",
    }
    return [
        {"key": key_of(kind, stored.path, stored.etag), "kind": kind, **about} for kind in kinds
    ]


def _insert(connection: sa.Connection, rows: list[dict[str, Any]]) -> int:
    """Insert those jobs that are not known, and return their number.

    Not all storages tell a recording from the same bytes that were deleted before it came: what
    was done for those is done anew for one that is not `identical`.
    """
    if not rows:
        return 0
    if connection.dialect.name == "mysql":
        new = [row["key"] for row in rows if row["outcome"] != Outcome.IDENTICAL]
        ended = (jobs.c.key.in_(new), jobs.c.state.in_((DONE, GIVEN_UP)))
        connection.execute(sa.delete(jobs).where(*ended))
    statement = _insertion(connection.dialect)
    return connection.exec_driver_sql(statement.string, _parameters(statement, rows)).rowcount


def _parameters(statement: SQLCompiler, rows: list[dict[str, Any]]) -> Any:
    """Rows as a driver takes them, in one order: so those who insert the same wait, and no more."""
    ordered = sorted(rows, key=lambda row: row["key"])
    if names := statement.positiontup:
        return [tuple(row[name] for name in names) for row in ordered]
    return ordered


@cache
def _insertion(dialect: sa.Dialect) -> SQLCompiler:
    """The statement that inserts a job; made once, because that takes longer than to execute it."""
    if dialect.name == "mysql":
        known = sa.insert(jobs).prefix_with("IGNORE")
    else:
        insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
        new = insert(jobs)
        ended = sa.or_(*(jobs.c.state == sa.literal_column(f"'{end}'") for end in (DONE, GIVEN_UP)))
        is_new = new.excluded.outcome != sa.literal_column(f"'{Outcome.IDENTICAL}'")
        again = ("outcome", "kept_as", "received", "state", "due", "tries", "taken_by", "reason")
        known = new.on_conflict_do_update(
            index_elements=["key"],
            set_={name: new.excluded[name] for name in again},
            where=sa.and_(ended, is_new),
        )
    columns = [column.name for column in jobs.c if column.name != "id"]
    compiled = known.inline().compile(dialect=dialect, column_keys=columns)
    assert isinstance(compiled, SQLCompiler)  # noqa: S101 - for mypy: dialects of SQL make one
    return compiled


def _due(
    connection: sa.Connection, kinds: Sequence[str], limit: int, *, lock: bool = False
) -> list[Job]:
    """Jobs that may be taken now, at most `limit`: of each kind the first, then the second."""
    query = sa.select(jobs).order_by(jobs.c.due, jobs.c.id).limit(limit)
    if lock and connection.dialect.name != "sqlite":
        query = query.with_for_update(skip_locked=_can_skip(connection.dialect))
    current, found = now(connection), []
    for kind in kinds:
        is_due = (jobs.c.state == WAITING, jobs.c.kind == kind, jobs.c.due <= current)
        found.append(connection.execute(query.where(*is_due)).all())
    turns = [row for turn in range(limit) for rows in found for row in rows[turn : turn + 1]]
    return [_job(row, tries=row.tries + 1) for row in turns[:limit]]


def _can_skip(dialect: Any) -> bool:
    """Whether a server knows SKIP LOCKED; without, workers wait for each other a moment."""
    if dialect.name == "postgresql":
        return True
    return bool(dialect.server_version_info >= ((10, 6) if dialect.is_mariadb else (8, 0, 1)))


def _job(row: Any, tries: int | None = None) -> Job:
    event = Event(row.path, row.etag, row.outcome, row.received, row.kept_as)
    tries = row.tries if tries is None else tries
    return Job(row.id, row.key, row.kind, event, tries, row.reason, row.due)


def _live(connection: sa.Connection, worker: str) -> None:
    lives = sa.update(workers).where(workers.c.id == worker).values(beat=workers.c.beat + 1)
    if not connection.execute(lives).rowcount:
        raise Lost("this worker was taken for dead: what it had taken was given to others")


def _give_back(connection: sa.Connection, taken: sa.ColumnElement[bool]) -> None:
    """Let others do what was taken; what was begun as often as anything may be is given up."""
    those = (jobs.c.state == TAKEN, taken)
    reason = "its worker died each time that it ran"
    connection.execute(
        sa.update(jobs)
        .where(*those, jobs.c.tries >= TRIES)
        .values(state=GIVEN_UP, due=now(connection), taken_by="", reason=reason)
    )
    connection.execute(sa.update(jobs).where(*those).values(state=WAITING, due=0.0, taken_by=""))


def _make_due(connection: sa.Connection, current: float) -> None:
    """Let nothing wait for longer than its pause, though the clock was set back."""
    for tries in range(1, TRIES):
        latest = current + pause_after(tries)
        late = (jobs.c.state == WAITING, jobs.c.tries == tries, jobs.c.due > latest)
        connection.execute(sa.update(jobs).where(*late).values(due=latest))


def _kinds(connection: sa.Connection, state: str) -> list[str]:
    """The kinds of jobs that are in a state, each found by the index."""
    found: list[str] = []
    first = sa.func.min(jobs.c.kind)
    while kind := connection.scalar(
        sa.select(first).where(jobs.c.state == state, jobs.c.kind > (found or [""])[-1])
    ):
        found.append(kind)
    return found


def _time(connection: sa.Connection, name: str) -> float | None:
    return connection.scalar(sa.select(times.c.at).where(times.c.name == name))


def _set_time(connection: sa.Connection, name: str, at: float) -> None:
    changed = connection.execute(sa.update(times).where(times.c.name == name).values(at=at))
    if not changed.rowcount:
        connection.execute(sa.insert(times).values(name=name, at=at))
