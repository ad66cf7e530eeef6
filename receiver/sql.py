"""How databases are reached, for recordings and for the catalog, and what their errors mean."""

import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    InterfaceError,
    OperationalError,
)
from sqlalchemy.pool import ConnectionPoolEntry

from .core.publish import FILE_MODE
from .errors import SettingError

DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "sqlite": "sqlite+pysqlite",
}
POOL_TIMEOUT = 10  # seconds
CONNECT_TIMEOUT = 5  # seconds
IDLE_TIMEOUT = 600  # seconds
TRIES = 40  # of a transaction; each but the last was in the way of another that did commit
RETRY_PAUSE = 0.02  # seconds

# PostgreSQL's SQLSTATEs, MySQL's numbers (from 1000) and SQLite's result codes (below 100).
_AGAIN = {"40001", "40P01", 1020, 1213}  # serialization failures and deadlocks
_FULL = {"53100", 1021, 1114, 13}
_REFUSED = {1044, 1045, 1049, 1130, 1698}  # as a user, a password or a database that is wrong
_FAILED = {
    1142,
    1143,
    1153,
    1197,
    1227,
    1290,
    1792,
    1836,
}  # what MySQL has among operational errors
# libpq has no SQLSTATE for a connection that the server refuses.
_REFUSAL = re.compile(r"FATAL: .*(authentication failed|does not exist|pg_hba\.conf|not permitted)")


T = TypeVar("T")


class Busy(Exception):
    """Other clients were in the way for too long; the same may work later."""


class Changed(Exception):
    """Another transaction has changed what this one had read: it is to be tried again."""


class Database:
    """The database that `url`, the value of `setting`, names. Nothing connects before it is used.

    `name` is the URL without user and password, and `kind` "postgresql", "mysql" or "sqlite", of
    which `file` is the file. `connections` is how many a process has at most, and `timeout` after
    how many seconds a server that does not answer is given up. Without `durable`, SQLite may lose
    the latest commits in a power failure.
    """

    def __init__(
        self, url: str, setting: str, *, connections: int, timeout: int, durable: bool = True
    ) -> None:
        scheme = url.partition("://")[0]
        self.setting = f"{setting}={scheme}://..."
        parsed = self._parse(url, scheme)
        self.kind = parsed.get_backend_name()
        shown = URL.create(scheme, host=parsed.host, port=parsed.port, database=parsed.database)
        self.name = shown.render_as_string()
        self.file = Path(parsed.database or "").absolute() if self.kind == "sqlite" else None
        self._timeout = timeout
        self._lock_timeout = max(1, timeout * 2 // 3)  # shorter, so that the connection lives on
        self._durable = durable
        options: dict[str, Any] = {}
        if self.file:  # one that vanishes must not be taken for a new one
            name = f"file:{quote(str(self.file))}"
            parsed = parsed.set(database=name).update_query_dict({"mode": "rw", "uri": "true"})
        else:
            options["isolation_level"] = "READ COMMITTED"
        try:
            self.engine = create_engine(
                parsed,
                connect_args=self._connect_args(),
                pool_size=connections,
                max_overflow=0,
                pool_timeout=POOL_TIMEOUT,
                pool_pre_ping=True,  # after a restart of the server, connections are new ones
                hide_parameters=True,
                **options,
            )
        except ImportError as error:
            raise SettingError(
                f"{self.setting}: {error}: .venv/bin/pip install '.[{self.kind}]'"
            ) from error
        self._writer = self.engine.execution_options(writes=True)
        event.listen(self.engine, "connect", self._set_session)
        if self.kind == "postgresql":
            event.listen(self.engine, "do_connect", self._connect_patiently)
        if self.kind == "sqlite":
            event.listen(self.engine, "begin", _begin)
            event.listen(self.engine, "connect", self._note_file)
            event.listen(self.engine, "checkout", self._check_file)

    def create_file(self) -> None:
        """Create SQLite's file where it is missing, not for everybody to read."""
        if self.file:
            with suppress(FileExistsError):
                flags = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(self.file, flags, FILE_MODE))

    def is_missing(self) -> bool:
        """Whether SQLite's file is not there, or no longer."""
        return bool(self.file and not self.file.exists())

    def _note_file(self, connection: object, record: ConnectionPoolEntry) -> None:
        record.info["inode"] = self._inode()

    def _check_file(self, connection: object, record: ConnectionPoolEntry, proxy: object) -> None:
        """Close a connection to a file that was removed: what it wrote there would be lost."""
        if not self.is_current(record.info):
            raise DisconnectionError

    def is_current(self, info: Mapping[Any, Any]) -> bool:
        """Whether the connection that has this `info` is to the file that is there now."""
        inode: int = info["inode"]
        return inode == self._inode()

    def _inode(self) -> int:
        return 0 if self.is_missing() else os.stat(str(self.file)).st_ino

    def transaction(self, work: Callable[[Connection], T]) -> T:
        """Do all of `work` or nothing; again where other transactions got in the way."""
        for _ in range(TRIES):
            try:
                with self._writer.begin() as connection:
                    return work(connection)
            except (Changed, IntegrityError):
                pass
            except DBAPIError as error:
                if code_of(error) not in _AGAIN:
                    raise
            time.sleep(random.uniform(0, RETRY_PAUSE))  # noqa: S311 - no secret
        raise Busy("too many writers are at the same recording")

    @contextmanager
    def schema_lock(self) -> Iterator[None]:
        """Hold off other receivers that start now; SQLite's transactions do by themselves."""
        if self.kind == "sqlite":
            yield
            return
        lock, unlock = "pg_advisory_lock(77827882)", "pg_advisory_unlock(77827882)"
        if self.kind == "mysql":
            lock = f"GET_LOCK('kzr_schema', {self._lock_timeout})"
            unlock = "RELEASE_LOCK('kzr_schema')"
        with self.engine.connect() as connection:
            if connection.execute(text(f"SELECT {lock}")).scalar() == 0:
                raise Busy("another receiver is preparing it")
            try:
                yield
            finally:
                connection.execute(text(f"SELECT {unlock}"))

    def _parse(self, url: str, scheme: str) -> URL:
        if scheme not in DRIVERS:
            schemes = ", ".join(f"{known}://" for known in DRIVERS)
            raise SettingError(f"{self.setting}: expected one of {schemes}")
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            parsed = None
        # Of a password with an "@", a part would pass for the host.
        if parsed is None or scheme != "sqlite" and (url.count("@") > 1 or not parsed.database):
            raise SettingError(
                f"{self.setting}: expected {scheme}://USER:PASSWORD@HOST/DATABASE, with special "
                "characters of the password percent-encoded"
            )
        if scheme == "sqlite" and parsed.database in (None, "", ":memory:"):
            raise SettingError(f"{self.setting}: expected sqlite:////PATH/OF/A/FILE")
        if scheme == "sqlite" and "?" in url:  # what follows would be no part of the path
            raise SettingError(f"{self.setting}: write %3F for ? in the path, and %25 for %")
        return parsed.set(drivername=DRIVERS[scheme])

    def _connect_args(self) -> dict[str, Any]:
        if self.kind == "postgresql":
            return {
                "connect_timeout": CONNECT_TIMEOUT,
                "tcp_user_timeout": self._timeout * 1000,
                "keepalives_idle": self._timeout,
                "keepalives_interval": 10,
                "keepalives_count": 3,
                "fallback_application_name": "kazoo-receiver",
            }
        if self.kind == "mysql":
            return {
                "connect_timeout": CONNECT_TIMEOUT,
                "read_timeout": self._timeout,
                "write_timeout": self._timeout,
            }
        return {"timeout": self._timeout}

    def _connect_patiently(self, dialect: object, record: object, args: Any, options: Any) -> Any:
        """Connect to PostgreSQL such that a server that does not answer is given up."""
        from psycopg import Connection, OperationalError

        patience = self._timeout

        class PatientConnection(Connection[Any]):
            def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
                started = time.monotonic()
                try:
                    return super().wait(gen, interval, patience if timeout is None else timeout)
                except OperationalError as error:
                    if timeout is not None or time.monotonic() < started + patience:
                        raise
                    self.close()
                    raise OperationalError(f"no answer in {patience} s") from error

        return PatientConnection.connect(*args, **options)

    def _set_session(self, connection: Any, record: ConnectionPoolEntry) -> None:
        """Set what a connection depends on, whatever its server's defaults are."""
        if self.kind == "sqlite":
            connection.isolation_level = None  # `_begin` begins transactions
            self._use_write_ahead_log(connection)
        cursor = connection.cursor()
        for statement in self._session():
            cursor.execute(statement)
        if self.kind == "mysql":
            cursor.execute("SELECT @@SESSION.max_allowed_packet")
            record.info["max_packet"] = int(cursor.fetchone()[0])
        cursor.close()
        connection.commit()

    def _use_write_ahead_log(self, connection: sqlite3.Connection) -> None:
        """Switch a new file; SQLite does not wait for others that do so at the same moment."""
        execute_when_free(connection, "PRAGMA journal_mode = WAL", self._timeout, RETRY_PAUSE)

    def _session(self) -> list[str]:
        if self.kind == "postgresql":
            return [
                f"SELECT set_config('statement_timeout', '{self._lock_timeout}s', false),"
                " set_config('idle_in_transaction_session_timeout', '60s', false)",
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'",
                "SELECT set_config('transaction_timeout', '0', false)"
                " WHERE current_setting('transaction_timeout', true) IS NOT NULL",
            ]
        if self.kind == "mysql":
            return [
                "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',"
                f" innodb_lock_wait_timeout = {self._lock_timeout}, wait_timeout = {IDLE_TIMEOUT}"
                " /*M! , max_statement_time = 0 */"  # MariaDB's own, and not for a large recording
            ]
        return [
            f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}",
            "PRAGMA foreign_keys = ON",
            # KiB, for each connection: a worker has many, and the system caches for all of them.
            f"PRAGMA cache_size = -{2000 if self._durable else 500}",
        ]


def execute_when_free(
    connection: sqlite3.Connection, statement: str, timeout: float, pause: float
) -> None:
    """Execute a statement that other processes keep waiting, again after each `pause`, seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
        time.sleep(pause)


def _begin(connection: Connection) -> None:
    """Begin a transaction of SQLite's; one that writes waits for others here and nowhere else."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def code_of(error: BaseException | None) -> str | int | None:
    """The driver's code of an error: of PostgreSQL a text, of the others a number."""
    cause = getattr(error, "orig", None)
    if cause and cause.args and isinstance(cause.args[0], int):
        return cause.args[0]
    if result := getattr(cause, "sqlite_errorcode", 0):
        return int(result) & 0xFF  # without what an extended code adds
    state: str | None = getattr(cause, "sqlstate", None)
    return state


def line_of(error: DBAPIError) -> str:
    """The first line of the driver's message."""
    message = str(error.orig.args[-1] if error.orig and error.orig.args else error.orig)
    return (message.strip().splitlines() or ["no reason given"])[0][:200]


def is_full(error: DBAPIError) -> bool:
    return code_of(error) in _FULL


def is_passing(error: DBAPIError) -> bool:
    """Whether the same may work later: the server is away, too slow or busy."""
    passes = isinstance(error, OperationalError | InterfaceError) and code_of(error) not in _FAILED
    return passes or error.connection_invalidated


def is_refused(error: BaseException | None) -> bool:
    """Whether a server refused a connection for what the URL says, so that waiting is no use."""
    if not isinstance(error, DBAPIError):
        return False
    return code_of(error) in _REFUSED or bool(_REFUSAL.search(str(error.orig)))
