"""Recordings in a database: PostgreSQL, MariaDB, MySQL or SQLite."""

import io
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import quote

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Connection,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ..errors import (
    NameExists,
    NameTaken,
    NotStored,
    ReceiverError,
    SettingError,
    StorageFailed,
    StorageFull,
    StorageUnavailable,
)
from ..naming import SIDECARS, RecordingName, is_recording, sidecar
from .base import (
    FILE_MODE,
    Listed,
    Outcome,
    Recording,
    Storage,
    Stored,
    spool_folder,
    storage_errors,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "sqlite": "sqlite+pysqlite",
}
# Each upload has some copies of a chunk in memory, and MySQL takes one in a packet, in hexadecimal.
CHUNK_SIZE = 256 * 1024  # bytes
CONNECTIONS = 16  # at most, of each process: one for each of a worker's threads
POOL_TIMEOUT = 10  # seconds
CONNECT_TIMEOUT = 5  # seconds
ANSWER_TIMEOUT = 30  # seconds without a word from the server
LOCK_TIMEOUT = 20  # seconds; shorter, so that waiting for a lock leaves the connection usable
IDLE_TIMEOUT = 600  # seconds
TRIES = 40  # of a transaction; each but the last was in the way of another that did commit
RETRY_PAUSE = 0.02  # seconds
NUMBERS_AT_ONCE = 32  # numbered names that one query looks for
PAGE = 1000  # rows of a listing in memory

# PostgreSQL's SQLSTATEs, MySQL's numbers (from 1000) and SQLite's result codes (below 100).
_AGAIN = {"40001", "40P01", 1020, 1213}  # serialization failures and deadlocks
_FULL = {"53100", 1021, 1114, 13}
_REFUSED = {1044, 1045, 1049, 1130, 1698}  # as a user, a password or a database that is wrong
_FAILED = {1142, 1143, 1153, 1227, 1290, 1792, 1836}  # what MySQL has among operational errors
_BUSY = {5, 6}  # the only ones of SQLite's that pass
# libpq has no SQLSTATE for a connection that the server refuses.
_REFUSAL = re.compile(r"FATAL: .*(authentication failed|does not exist|pg_hba\.conf|not permitted)")

tables = MetaData()
T = TypeVar("T")

# Paths are ASCII, compared byte by byte. Their hash has the unique key, because paths may be
# longer than an index takes. The collation and the types for MySQL are no choice of its server's.
_ASCII: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "ascii",
    "mysql_collate": "ascii_bin",
}
_Hash = LargeBinary(32).with_variant(mysql.BINARY(32), "mysql")
_Id = BigInteger().with_variant(Integer, "sqlite")

files = Table(
    "kzr_files",
    tables,
    Column("id", _Id, primary_key=True),
    Column("path", String(8192), nullable=False),
    Column("path_sha256", _Hash, nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    Column("sha256", _Hash, nullable=False),
    Column("modified", Double, nullable=False),  # seconds (POSIX)
    Column("times_sent", Integer, nullable=False),
    **_ASCII,
    sqlite_autoincrement=True,  # a reader must not find another recording under its id
)
chunks = Table(
    "kzr_chunks",
    tables,
    Column("file_id", _Id, ForeignKey(files.c.id, ondelete="CASCADE"), primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),  # of `data` in the file
    Column("data", LargeBinary().with_variant(mysql.LONGBLOB, "mysql"), nullable=False),
    **_ASCII,
)
schema = Table("kzr_schema", tables, Column("version", Integer, nullable=False), **_ASCII)
EXTERNAL = DDL("ALTER TABLE kzr_chunks ALTER data SET STORAGE EXTERNAL")  # type: ignore[no-untyped-call]
event.listen(  # audio does not compress
    chunks, "after_create", EXTERNAL.execute_if(dialect="postgresql")
)

SCHEMA_VERSION = 1
# What takes the tables from the version before to each later one; new tables are made as above.
# Every statement must bear repetition, because MySQL commits each by itself.
UPGRADES: dict[int, tuple[str, ...]] = {}

# What each connection sets, whatever its server's defaults are.
_SESSION = {
    "postgresql": (
        f"SELECT set_config('statement_timeout', '{LOCK_TIMEOUT}s', false),"
        " set_config('idle_in_transaction_session_timeout', '60s', false)",
        "SELECT set_config('synchronous_commit', 'on', false)"
        " WHERE current_setting('synchronous_commit') = 'off'",
    ),
    "mysql": (
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',"
        f" innodb_lock_wait_timeout = {LOCK_TIMEOUT}, wait_timeout = {IDLE_TIMEOUT}",
    ),
    "sqlite": (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
    ),
}
_SCHEMA_LOCK = {
    "postgresql": ("SELECT pg_advisory_lock(77827882)", "SELECT pg_advisory_unlock(77827882)"),
    "mysql": (
        f"SELECT GET_LOCK('kzr_schema', {LOCK_TIMEOUT})",
        "SELECT RELEASE_LOCK('kzr_schema')",
    ),
}
# Server-wide settings without which a recording is acknowledged before it is durable.
_DURABILITY: dict[str, list[tuple[str, str, tuple[object, ...]]]] = {
    "postgresql": [
        ("fsync", "SHOW fsync", ("on",)),
        ("full_page_writes", "SHOW full_page_writes", ("on",)),
    ],
    "mysql": [
        (
            "innodb_flush_log_at_trx_commit",
            "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit",
            (1, 3),
        )
    ],
    "sqlite": [],
}


class _Changed(Exception):
    """Another transaction has changed what this one had read: it is to be tried again."""


@dataclass(frozen=True)
class Content:
    """What a file holds, which is read anew for each try."""

    file: BinaryIO
    size: int
    sha256: bytes

    @classmethod
    def of(cls, file: BinaryIO) -> "Content":
        file.seek(0)
        digest = file_digest(file, "sha256").digest()  # type: ignore[arg-type]
        return cls(file, file.seek(0, os.SEEK_END), digest)

    def is_in(self, row: Row[Any]) -> bool:
        return (self.size, self.sha256) == (row.size, row.sha256)

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        self.file.seek(0)
        for start in range(0, self.size, CHUNK_SIZE):
            yield start, self.file.read(CHUNK_SIZE)


class DatabaseStorage(Storage):
    """Recordings in the database that `url` names; everything that publishing does is one commit.

    `min_free` is for the disk that recordings arrive on: SQLite's own, else that of `$TMPDIR`.
    """

    def __init__(self, url: str, *, min_free: int = 0, supersede: bool = True) -> None:
        self._scheme = url.partition("://")[0]
        parsed = _parse(url)
        kind = self._kind = parsed.get_backend_name()
        shown = URL.create(
            self._scheme, host=parsed.host, port=parsed.port, database=parsed.database
        )
        self._name = shown.render_as_string()
        self._file = Path(parsed.database or "").absolute() if kind == "sqlite" else None
        super().__init__(self._file.parent if self._file else spool_folder(), min_free, supersede)
        options: dict[str, Any] = {}
        if self._file:  # one that vanishes must not be taken for a new one
            name = f"file:{quote(str(self._file))}"
            parsed = parsed.set(database=name).update_query_dict({"mode": "rw", "uri": "true"})
        else:
            options["isolation_level"] = "READ COMMITTED"
        try:
            self.engine = create_engine(
                parsed,
                connect_args=_connect_args(kind),
                pool_size=CONNECTIONS,
                max_overflow=0,
                pool_timeout=POOL_TIMEOUT,
                pool_pre_ping=True,  # after a restart of the server, connections are new ones
                hide_parameters=True,
                **options,
            )
        except ImportError as error:
            raise SettingError(
                f"KZR_STORAGE={self._scheme}://...: {error}: pip install '.[{kind}]'"
            ) from error
        self._writer = self.engine.execution_options(writes=True)
        event.listen(self.engine, "connect", self._set_session)
        if kind == "postgresql":
            event.listen(self.engine, "do_connect", _patient_connection)
        if kind == "sqlite":
            event.listen(self.engine, "begin", _begin)

    def prepare(self) -> None:
        """Create the tables where they are missing; warn of settings that lose recordings."""
        try:
            with self._errors():
                if self._file:
                    with suppress(FileExistsError):
                        flags = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                        os.close(os.open(self._file, flags, FILE_MODE))
                with self._schema_lock():
                    self._transaction(self._upgrade)
                self._warn()
            self.sweep()
        except (ReceiverError, RuntimeError) as error:  # PyMySQL raises those for what it lacks
            if isinstance(error, StorageUnavailable) and not _is_refused(error.__cause__):
                raise
            reason = getattr(error, "description", error)
            raise SettingError(f"KZR_STORAGE={self._scheme}://...: {reason}") from error
        finally:
            # A worker that is forked later must not share a connection; none is used before.
            self.engine.dispose()

    def _set_session(self, connection: Any, record: object) -> None:
        if self._kind == "sqlite":
            connection.isolation_level = None  # `_begin` begins transactions
        cursor = connection.cursor()
        for statement in _SESSION[self._kind]:
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    def _warn(self) -> None:
        with self.engine.connect() as connection:
            for setting, query, durable in _DURABILITY[self._kind]:
                if connection.execute(text(query)).scalar() not in durable:
                    logging.getLogger(__name__).warning(
                        "%s acknowledges recordings before they are durable: set %s = %s",
                        self._name,
                        setting,
                        durable[0],
                    )

    @contextmanager
    def _schema_lock(self) -> Iterator[None]:
        """Hold off other receivers that start now; SQLite's transactions do by themselves."""
        if self._kind == "sqlite":
            yield
            return
        lock, unlock = _SCHEMA_LOCK[self._kind]
        with self.engine.connect() as connection:
            if connection.execute(text(lock)).scalar() == 0:
                raise StorageUnavailable(f"{self._name}: another receiver is preparing it")
            try:
                yield
            finally:
                connection.execute(text(unlock))

    def _upgrade(self, connection: Connection) -> None:
        version = 0
        if inspect(connection).has_table(schema.name):
            version = connection.execute(select(schema.c.version)).scalar() or 0
        if version == SCHEMA_VERSION:
            return
        if version > SCHEMA_VERSION:
            raise SettingError(
                f"KZR_STORAGE={self._scheme}://...: the tables are of version {version}, and this "
                f"program knows none after {SCHEMA_VERSION}: install a newer release"
            )
        if version == 0:
            tables.create_all(connection)
            connection.execute(insert(schema).values(version=SCHEMA_VERSION))
            return
        for later in range(version + 1, SCHEMA_VERSION + 1):
            for statement in UPGRADES[later]:
                connection.execute(text(statement))
        connection.execute(update(schema).values(version=SCHEMA_VERSION))

    def publish(
        self, file: BinaryIO, name: RecordingName, metadata: bytes = b"", *, only_new: bool = False
    ) -> Stored:
        with self._errors():
            content = Content.of(file)
            about = Content.of(io.BytesIO(metadata)) if metadata else None
            return self._transaction(
                lambda connection: self._publish(connection, name, content, about, only_new)
            )

    def _publish(
        self,
        connection: Connection,
        name: RecordingName,
        content: Content,
        about: Content | None,
        only_new: bool,
    ) -> Stored:
        path, stored = str(name), Stored(Outcome.CREATED, str(name))
        there = _find(connection, _family(path))
        old = there.pop(path, None)
        if old is None:
            _remove(connection, there)  # what lies there belongs to no recording
        elif only_new:
            raise NameExists(f"a recording is stored as {path}")
        else:
            same, number = _search(connection, name, old, content)
            if same:
                _confirm(connection, same)
                return Stored(Outcome.IDENTICAL, path)
            if not self._supersede:
                raise NameTaken(f"another recording is stored as {path}: it was kept")
            stored = Stored(Outcome.SUPERSEDED, path, name.numbered(number))
            _rename(connection, old, there, _in_folder(name, number))
        now = time.time()
        _insert(connection, path, content, now)
        if about:
            _insert(connection, sidecar(path, "json"), about, now)
        return stored

    def open(self, path: str) -> Recording:
        with self._errors(), self.engine.connect() as connection:
            row = _find(connection, [path]).get(path)
        if row is None:
            raise NotStored(f"no recording is stored as {path}")
        file = io.BufferedReader(ChunkReader(self, row.id, row.size))
        return Recording(file, row.size, row.modified, row.sha256.hex())

    def read_chunk(self, file_id: int, position: int) -> tuple[int, bytes]:
        """The chunk with a file's byte at `position`, and where it starts."""
        query = (
            select(chunks.c.start, chunks.c.data)
            .where(chunks.c.file_id == file_id, chunks.c.start <= position)
            .order_by(chunks.c.start.desc())
            .limit(1)
        )
        with self._errors(), self.engine.connect() as connection:
            row = connection.execute(query).first()
        if row is None or position >= row.start + len(row.data):
            raise StorageFailed("the recording was deleted meanwhile, or lacks a part")
        return row.start, row.data

    def scan(self, prefix: str = "") -> Iterator[Listed]:
        page = select(files).order_by(files.c.id).limit(PAGE)
        if prefix:  # LIKE would compare as each database likes to
            page = page.where(func.substr(files.c.path, 1, len(prefix)) == prefix)
        last = 0
        while True:
            with self._errors(), self.engine.connect() as connection:
                rows = connection.execute(page.where(files.c.id > last)).all()
            if not rows:
                return
            last = rows[-1].id
            for row in rows:
                if is_recording(row.path.rpartition("/")[2]):
                    yield Listed(row.path, row.size, row.modified)

    def put(self, path: str, file: BinaryIO, modified: float) -> Outcome:
        parts = path.split("/")
        if not (path.isascii() and path.isprintable()) or {"", ".", ".."} & {*parts}:
            raise StorageFailed(f"could not store: no path of a recording: {path!a}")
        with self._errors():
            content = Content.of(file)

            def put(connection: Connection) -> Outcome:
                row = _find(connection, [path]).get(path)
                if row is None:
                    _insert(connection, path, content, modified)
                    return Outcome.CREATED
                if not content.is_in(row):
                    raise NameTaken(f"another recording is stored as {path}")
                _confirm(connection, row)
                return Outcome.IDENTICAL

            return self._transaction(put)

    def delete(self, path: str) -> None:
        def remove(connection: Connection) -> None:
            there = _find(connection, _family(path))
            if path not in there:
                raise NotStored(f"no recording is stored as {path}")
            _remove(connection, there)

        with self._errors():
            self._transaction(remove)

    def _transaction(self, work: Callable[[Connection], T]) -> T:
        """Do all of `work` or nothing; again where other transactions got in the way."""
        for _ in range(TRIES):
            try:
                with self._writer.begin() as connection:
                    return work(connection)
            except (_Changed, IntegrityError):
                pass
            except DBAPIError as error:
                if _code(error) not in _AGAIN:
                    raise
            time.sleep(random.uniform(0, RETRY_PAUSE))
        raise StorageUnavailable(f"{self._name}: too many writers are at the same recording")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the database's errors into those of storages, each with one line."""
        try:
            with storage_errors():
                yield
        except PoolTimeout as error:
            raise StorageUnavailable(
                f"{self._name} is too slow: all {CONNECTIONS} connections are in use"
            ) from error
        except DBAPIError as error:
            code, line = _code(error), _line(error)
            if code in _FULL:
                raise StorageFull(f"{self._name} is full: {line}") from error
            passes = isinstance(error, OperationalError | InterfaceError) and code not in _FAILED
            if self._kind == "sqlite":
                passes = code in _BUSY
            if passes or error.connection_invalidated:
                raise StorageUnavailable(f"cannot use {self._name}: {line}") from error
            raise StorageFailed(f"{self._name} failed: {line}") from error


class ChunkReader(io.RawIOBase):
    """A stored file, read chunk by chunk; no connection is held between reads."""

    def __init__(self, storage: DatabaseStorage, file_id: int, size: int) -> None:
        self._storage = storage
        self._id = file_id
        self._size = size
        self._position = 0
        self._start, self._data = 0, b""  # the latest chunk

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        if self._position >= self._size:
            return 0
        if not self._start <= self._position < self._start + len(self._data):
            self._start, self._data = self._storage.read_chunk(self._id, self._position)
        view = memoryview(buffer).cast("B")
        begin = self._position - self._start
        data = self._data[begin : begin + len(view)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def _parse(url: str) -> URL:
    scheme = url.partition("://")[0]
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    # Of a password with an "@", a part would pass for the host.
    if parsed is None or scheme != "sqlite" and (url.count("@") > 1 or not parsed.database):
        raise SettingError(
            f"KZR_STORAGE={scheme}://...: expected {scheme}://USER:PASSWORD@HOST/DATABASE, with "
            "special characters of the password percent-encoded"
        )
    if scheme == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise SettingError("KZR_STORAGE=sqlite://...: expected sqlite:////PATH/OF/A/FILE")
    return parsed.set(drivername=DRIVERS[scheme])


def _connect_args(kind: str) -> dict[str, Any]:
    if kind == "postgresql":
        return {
            "connect_timeout": CONNECT_TIMEOUT,
            "tcp_user_timeout": ANSWER_TIMEOUT * 1000,
            "keepalives_idle": ANSWER_TIMEOUT,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "fallback_application_name": "kazoo-receiver",
        }
    if kind == "mysql":
        return {
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": ANSWER_TIMEOUT,
            "write_timeout": ANSWER_TIMEOUT,
        }
    return {"timeout": ANSWER_TIMEOUT}


def _patient_connection(dialect: object, record: object, args: Any, options: Any) -> Any:
    """Connect to PostgreSQL such that a server that does not answer is given up."""
    from psycopg import Connection
    from psycopg.errors import OperationalError

    class PatientConnection(Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            started = time.monotonic()
            try:
                return super().wait(gen, interval, ANSWER_TIMEOUT if timeout is None else timeout)
            except OperationalError as error:
                if timeout is not None or time.monotonic() < started + ANSWER_TIMEOUT:
                    raise
                self.close()
                raise OperationalError(f"no answer in {ANSWER_TIMEOUT} s") from error

    return PatientConnection.connect(*args, **options)


def _begin(connection: Connection) -> None:
    """Begin a transaction of SQLite's; one that writes waits for others here and nowhere else."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _family(path: str) -> list[str]:
    """The stored paths of a recording and of all that may lie beside it."""
    return [path, *(sidecar(path, kind) for kind in SIDECARS)]


def _in_folder(name: RecordingName, number: int) -> str:
    filename = name.numbered(number)
    return f"{name.folder}/{filename}" if name.folder else filename


def _hash(path: str) -> bytes:
    return sha256(path.encode("utf-8", "surrogateescape")).digest()


def _find(connection: Connection, paths: list[str]) -> dict[str, Row[Any]]:
    """What is stored at some paths."""
    query = select(files).where(files.c.path_sha256.in_([_hash(path) for path in paths]))
    return {row.path: row for row in connection.execute(query)}


def _search(
    connection: Connection, name: RecordingName, row: Row[Any], content: Content
) -> tuple[Row[Any] | None, int]:
    """Look for the content under the name, which has `row`, and under its numbered names.

    Returns its row, if there is one, and the first free number.
    """
    there: dict[str, Row[Any]] = {}
    for number in count():
        path = _in_folder(name, number)
        if number % NUMBERS_AT_ONCE == 1:
            numbers = range(number, number + NUMBERS_AT_ONCE)
            there = _find(connection, [_in_folder(name, n) for n in numbers])
        if number:
            if path not in there:
                break
            row = there[path]
        if content.is_in(row):
            return row, number
    return None, number


def _insert(connection: Connection, path: str, content: Content, modified: float) -> None:
    """Store a file; the row comes first, so that writers of one path wait for each other there."""
    values = {
        "path": path,
        "path_sha256": _hash(path),
        "size": content.size,
        "sha256": content.sha256,
        "modified": modified,
        "times_sent": 1,
    }
    (file_id,) = cast(Row[Any], connection.execute(insert(files), values).inserted_primary_key)
    for start, data in content.chunks():
        connection.execute(insert(chunks), {"file_id": file_id, "start": start, "data": data})


def _confirm(connection: Connection, row: Row[Any]) -> None:
    """Make sure that what another transaction stored is durable.

    InnoDB shows it a moment before its log is on the disk. That is written in order, so that it
    is when this transaction's own change is.
    """
    _change(connection, row, times_sent=files.c.times_sent + 1)


def _rename(connection: Connection, row: Row[Any], beside: dict[str, Row[Any]], path: str) -> None:
    """Give a recording, and what lies beside it, another path that no recording has.

    It keeps its id: who is reading it reads on.
    """
    _change(connection, row, path=path, path_sha256=_hash(path))
    _remove(connection, _find(connection, _family(path)[1:]))
    for kind in SIDECARS:
        if about := beside.get(sidecar(row.path, kind)):
            new = sidecar(path, kind)
            _change(connection, about, path=new, path_sha256=_hash(new))


def _change(connection: Connection, row: Row[Any], **values: Any) -> None:
    """Change the row, unless another transaction has renamed or removed it since it was read."""
    same = (files.c.id == row.id, files.c.path_sha256 == row.path_sha256)
    if connection.execute(update(files).where(*same).values(**values)).rowcount != 1:
        raise _Changed


def _remove(connection: Connection, rows: dict[str, Row[Any]]) -> None:
    for row in rows.values():
        same = (files.c.id == row.id, files.c.path_sha256 == row.path_sha256)
        if connection.execute(delete(files).where(*same)).rowcount != 1:
            raise _Changed


def _code(error: BaseException | None) -> str | int | None:
    """The driver's code of an error: of PostgreSQL a text, of the others a number."""
    cause = getattr(error, "orig", None)
    if cause and cause.args and isinstance(cause.args[0], int):
        return cause.args[0]
    if result := getattr(cause, "sqlite_errorcode", 0):
        return int(result) & 0xFF  # without what an extended code adds
    state: str | None = getattr(cause, "sqlstate", None)
    return state


def _line(error: DBAPIError) -> str:
    """The first line of the driver's message."""
    message = str(error.orig.args[-1] if error.orig and error.orig.args else error.orig)
    return (message.strip().splitlines() or ["no reason given"])[0][:200]


def _is_refused(error: BaseException | None) -> bool:
    """Whether a server refused a connection for what the URL says, so that waiting is no use."""
    if not isinstance(error, DBAPIError):
        return False
    return _code(error) in _REFUSED or bool(_REFUSAL.search(str(error.orig)))
