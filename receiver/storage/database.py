"""Recordings in a database: PostgreSQL, MariaDB, MySQL or SQLite."""

import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from sqlalchemy import Connection, Row, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ..core.naming import sidecar
from ..core.publish import storage_errors
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
from ..parts import Listed, Name, Outcome, Recording, Stored, warn
from ..sql import Busy, Database, code_of, is_full, is_passing, is_refused, line_of
from . import rows
from .base import BackEnd, held, spool_folder
from .paths import is_recording, number_of, numbered, original, recording_of
from .rows import Content, chunks, files
from .sidecars import HOLD, LONGEST

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECTIONS = 16  # at most, of each process: one for each of a worker's threads
ANSWER_TIMEOUT = 30  # seconds without a word from the server
PAGE = 1000  # rows of a listing in memory

_BUSY = {5, 6}  # SQLite's result codes that pass

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


class DatabaseStorage(BackEnd):
    """Recordings in the database that `url` names; everything that publishing does is one commit.

    `min_free` is for the disk that recordings arrive on: SQLite's own, else that of `$TMPDIR`.

    What `also` does with a stored recording is part of that commit; it may be done again where
    others were in the way.
    """

    also: Callable[[Connection, Stored], object] | None = None

    def __init__(self, url: str, *, min_free: int = 0, supersede: bool = True) -> None:
        self._database = database = Database(
            url, "KZR_STORAGE", connections=CONNECTIONS, timeout=ANSWER_TIMEOUT
        )
        self.engine = database.engine
        spool = database.file.parent if database.file else spool_folder()
        super().__init__(spool, min_free, supersede)

    def prepare(self) -> None:
        """Create the tables where they are missing; warn of settings that lose recordings."""
        try:
            with self._errors():
                self._database.create_file()
                self._check_limits()
                with self._database.schema_lock():
                    self._database.transaction(rows.upgrade)
                self._warn()
            self.sweep()
        except (ReceiverError, RuntimeError) as error:  # PyMySQL raises those for what it lacks
            if isinstance(error, StorageUnavailable) and not is_refused(error.__cause__):
                raise
            raise SettingError(f"{self._database.setting}: {error}") from error
        finally:
            # A worker that is forked later must not share a connection; none is used before.
            self.engine.dispose()

    def _check_limits(self) -> None:
        """Refuse a server that would refuse each larger recording, however often it is sent."""
        with self.engine.connect() as connection:
            rows.largest_piece(connection)

    def _warn(self) -> None:
        with self.engine.connect() as connection:
            for setting, query, durable in _DURABILITY[self._database.kind]:
                if connection.execute(text(query)).scalar() not in durable:
                    logging.getLogger(__name__).warning(
                        "%s acknowledges recordings before they are durable: set %s = %s",
                        self._database.name,
                        setting,
                        durable[0],
                    )

    def check(self) -> None:
        super().check()
        with self._errors(), self.engine.connect() as connection:
            connection.execute(select(files.c.id).limit(1))

    def publish(
        self, file: BinaryIO, name: Name, metadata: bytes = b"", *, only_new: bool = False
    ) -> Stored:
        name = self.known_as(name)
        with self._errors():
            content = Content.of(file)
            received = os.fstat(file.fileno()).st_mtime
            about = Content.of(io.BytesIO(metadata)) if metadata else None

            def publish(connection: Connection) -> Stored:
                stored = self._publish(connection, name, content, received, about, only_new)
                if self.also:
                    self.also(connection, stored)
                return stored

            return self._database.transaction(publish)

    def _publish(
        self,
        connection: Connection,
        name: Name,
        content: Content,
        received: float,
        about: Content | None,
        only_new: bool,
    ) -> Stored:
        path, etag = str(name), rows.etag(content.sha256, received)
        stored = Stored(Outcome.CREATED, path, etag=etag)
        there = rows.find(connection, rows.family(path))
        old = there.pop(path, None)
        if old is None:
            rows.remove(connection, there)  # what lies there belongs to no recording
        else:
            same = rows.search(connection, old, content)
            if only_new:
                raise NameExists.by(path, rows.etag(same.sha256, same.modified) if same else "")
            if same:
                rows.confirm(connection, same)
                etag = rows.etag(same.sha256, same.modified)
                return Stored(Outcome.IDENTICAL, path, etag=etag)
            if not self._supersede:
                raise NameTaken(f"another recording is stored as {path}: it was kept")
            older = rows.older(connection, path)
            kept = numbered(path, max(map(number_of, older), default=0) + 1)
            stored = Stored(Outcome.SUPERSEDED, path, kept.rpartition("/")[2], etag)
            rows.rename(connection, old, kept)
        rows.store(connection, path, content, received)
        if about:
            rows.store(connection, sidecar(path, "json"), about, received)
        return stored

    def open(self, path: str) -> Recording:
        with self._errors(), self.engine.connect() as connection:
            row = rows.find(connection, [path]).get(path)
        return self._recording(row, path)

    def open_described(self, path: str) -> tuple[Recording, bytes | None]:
        key = sidecar(path, "json")
        with self._errors(), self.engine.connect() as connection:
            found = rows.find(connection, [path, key])
        recording = self._recording(found.get(path), path)
        about = found.get(key)
        return recording, self._file(about).read(LONGEST) if about else b""

    def _recording(self, row: Row[Any] | None, path: str) -> Recording:
        if row is None:
            raise NotStored(f"no recording is stored as {path}")
        etag = rows.etag(row.sha256, row.modified)
        return Recording(self._file(row), row.size, row.modified, etag, noted=row.sha256.hex())

    def _file(self, row: Row[Any]) -> io.BufferedReader:
        return io.BufferedReader(ChunkReader(self, row.id, row.size))

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

    def scan(self, prefix: str = "", odd: Callable[[str], object] = warn) -> Iterator[Listed]:
        page = select(files).order_by(files.c.id).limit(PAGE)
        if prefix:  # LIKE would compare as each database likes to
            page = page.where(func.substr(files.c.path, 1, len(prefix)) == prefix)
        last = 0
        while True:
            with self._errors(), self.engine.connect() as connection:
                found = connection.execute(page.where(files.c.id > last)).all()
            if not found:
                return
            last = found[-1].id
            for row in found:
                if is_recording(row.path.rpartition("/")[2]):
                    yield Listed(row.path, row.size, row.modified)

    def sidecars(self) -> Iterator[str]:
        last = 0
        while True:
            page = select(files.c.id, files.c.path).where(files.c.id > last)
            with self._errors(), self.engine.connect() as connection:
                found = connection.execute(page.order_by(files.c.id).limit(PAGE)).all()
            if not found:
                return
            last = found[-1].id
            yield from (row.path for row in found if recording_of(row.path))

    def versions(self, path: str) -> list[str]:
        name = original(path)
        with self._errors(), self.engine.connect() as connection:
            newest = rows.find(connection, [name])
            return [*newest, *rows.older(connection, name)]

    def put(self, path: str, file: BinaryIO, modified: float) -> Outcome:
        parts = path.split("/")
        if not (path.isascii() and path.isprintable()) or {"", ".", ".."} & {*parts}:
            raise StorageFailed(f"could not store: no path of a recording: {path!a}")
        with self._errors():
            content = Content.of(file)

            def put(connection: Connection) -> Outcome:
                row = rows.find(connection, [path]).get(path)
                if row is None:
                    rows.store(connection, path, content, modified)
                    return Outcome.CREATED
                if not content.is_in(row):
                    raise NameTaken(f"another recording is stored as {path}")
                rows.confirm(connection, row)
                return Outcome.IDENTICAL

            return self._database.transaction(put)

    def attach(self, path: str, kind: str, data: bytes, etag: str) -> None:
        beside, about = sidecar(path, kind), Content.of(io.BytesIO(data))

        def attach(connection: Connection) -> None:
            rows.hold(connection, _stored(connection, path, etag))
            rows.remove(connection, rows.find(connection, [beside]))
            if data:
                rows.store(connection, beside, about, time.time())

        with self._errors():
            self._database.transaction(attach)

    def delete(self, path: str, etag: str = "") -> None:
        def remove(connection: Connection) -> None:
            rows.hold(connection, _stored(connection, path, etag))
            family = rows.find(connection, rows.family(path))
            if sidecar(path, HOLD) in family:
                raise held(path)
            rows.remove(connection, family)

        with self._errors():
            self._database.transaction(remove)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the database's errors into those of storages, each with one line."""
        name = self._database.name
        try:
            with storage_errors():
                yield
        except Busy as error:
            raise StorageUnavailable(f"{name}: {error}") from error
        except PoolTimeout as error:
            raise StorageUnavailable(
                f"{name} is too slow: all {CONNECTIONS} connections are in use"
            ) from error
        except DBAPIError as error:
            if is_full(error):
                raise StorageFull(f"{name} is full: {line_of(error)}") from error
            # SQLite's other operational errors are as lasting as any of a file.
            is_sqlite = self._database.kind == "sqlite"
            if code_of(error) in _BUSY if is_sqlite else is_passing(error):
                raise StorageUnavailable(f"cannot use {name}: {line_of(error)}") from error
            raise StorageFailed(f"{name} failed: {line_of(error)}") from error


def _stored(connection: Connection, path: str, etag: str) -> Row[Any]:
    row = rows.find(connection, [path]).get(path)
    if row is None:
        raise NotStored(f"no recording is stored as {path}")
    if etag and rows.etag(row.sha256, row.modified) != etag:
        raise NotStored(f"another recording is stored as {path}")
    return row


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
