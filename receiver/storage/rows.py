"""Stored files as rows of tables, the same in every database, and the statements on them."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, BinaryIO, cast

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    and_,
    delete,
    event,
    func,
    insert,
    inspect,
    literal_column,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql

from ..core.naming import sidecar
from ..errors import StorageFailed
from ..formats import SIDECARS
from ..parts import sha256_of
from ..sql import Changed
from .paths import is_recording, newest_first, original, stems, was_beside

CHUNK_SIZE = 256 * 1024  # bytes; each upload has some copies of a chunk in memory
STATEMENT = 16 * 1024  # bytes that a statement takes besides its chunk; its path is the most of it
LEAST_PACKET = 128 * 1024  # bytes; MySQL's default is over 100 times that
INDEXED = 512  # characters of a path, because an index takes no more of one everywhere

tables = MetaData()

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
# SQLAlchemy gives no types to DDL.
EXTERNAL = DDL("ALTER TABLE kzr_chunks ALTER data SET STORAGE EXTERNAL")  # type: ignore[no-untyped-call]
event.listen(  # audio does not compress
    chunks, "after_create", EXTERNAL.execute_if(dialect="postgresql")
)

# By which the numbered names are found that belong to a name. Paths are ASCII: "C" compares bytes.
_BY_PATH = {
    "postgresql": f'(left(path, {INDEXED}) COLLATE "C")',
    "mysql": f"path({INDEXED})",
    "sqlite": "path",
}
_SORTED_PATH = {
    "postgresql": literal_column(f'left(path, {INDEXED}) COLLATE "C"', String),
    "mysql": files.c.path,
    "sqlite": files.c.path,
}

SCHEMA_VERSION = 1
# What takes the tables from the version before to each later one; new tables are made as above.
# Every statement must bear repetition, because MySQL commits each by itself.
UPGRADES: dict[int, tuple[str, ...]] = {}


@dataclass(frozen=True)
class Content:
    """What a file holds, which is read anew for each try."""

    file: BinaryIO
    size: int
    sha256: bytes

    @classmethod
    def of(cls, file: BinaryIO) -> "Content":
        file.seek(0)
        digest = bytes.fromhex(sha256_of(file))
        return cls(file, file.seek(0, os.SEEK_END), digest)

    def is_in(self, row: Row[Any]) -> bool:
        return (self.size, self.sha256) == (row.size, row.sha256)

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        self.file.seek(0)
        for start in range(0, self.size, CHUNK_SIZE):
            yield start, self.file.read(CHUNK_SIZE)


def upgrade(connection: Connection) -> None:
    """Create the tables, or bring older ones up to date."""
    version = 0
    if inspect(connection).has_table(schema.name):
        version = connection.execute(select(schema.c.version)).scalar() or 0
    if version > SCHEMA_VERSION:
        raise StorageFailed(
            f"the tables are of version {version}, and this program knows none after "
            f"{SCHEMA_VERSION}: install a newer release"
        )
    if version == 0:
        tables.create_all(connection)
        connection.execute(insert(schema).values(version=SCHEMA_VERSION))
    _index(connection)
    for later in range(version + 1, SCHEMA_VERSION + 1) if version else ():
        for statement in UPGRADES[later]:
            connection.execute(text(statement))
        connection.execute(update(schema).values(version=later))


def _index(connection: Connection) -> None:
    """Create the index by path, which older releases work with, too."""
    kind = connection.dialect.name
    if kind == "postgresql":  # where there are many recordings, it takes its time
        connection.execute(text("SET LOCAL statement_timeout = 0"))
    if any(each["name"] == "kzr_files_path" for each in _indexes(connection)):
        return
    _adopt(connection)
    connection.execute(text(f"CREATE INDEX kzr_files_path ON kzr_files ({_BY_PATH[kind]})"))


def _adopt(connection: Connection) -> None:
    """Give what an earlier release put beside a recording the name that it has today."""
    olds = connection.execute(select(files).where(files.c.path.like("%~.%"))).all()
    for old in olds:
        about, _, kind = old.path.rpartition("~.")
        if was_beside(old.path.rpartition("/")[2]):
            new = sidecar(about, kind)
            if find(connection, [new]):
                remove(connection, {old.path: old})
            else:
                _change(connection, old, path=new, path_sha256=path_hash(new))


def _indexes(connection: Connection) -> list[Any]:
    with warnings.catch_warnings(action="ignore"):  # of expressions, which are not looked at
        return list(inspect(connection).get_indexes(files.name))


def family(path: str) -> list[str]:
    """The stored paths of a recording and of all that may lie beside it."""
    return [path, *(sidecar(path, kind) for kind in SIDECARS)]


def etag(digest: bytes, modified: float) -> str:
    """What tells a recording from others, and from the same bytes when they come again later."""
    return f"{digest.hex()}-{round(modified * 1e6):x}"


def path_hash(path: str) -> bytes:
    return sha256(path.encode("utf-8", "surrogateescape")).digest()


def find(connection: Connection, paths: list[str]) -> dict[str, Row[Any]]:
    """What is stored at some paths."""
    query = select(files).where(files.c.path_sha256.in_([path_hash(path) for path in paths]))
    return {row.path: row for row in connection.execute(query)}


def search(connection: Connection, row: Row[Any], content: Content) -> Row[Any] | None:
    """Look for the content under the path of `row`, and under its numbered names."""
    if content.is_in(row):
        return row
    same = (files.c.sha256 == content.sha256, files.c.size == content.size)
    found = connection.execute(select(files).where(_is_older(connection, row.path), *same))
    return next((each for each in found if _is_version(each.path, row.path)), None)


def older(connection: Connection, name: str) -> list[str]:
    """The stored paths of the recordings that were superseded at a name, the newest first."""
    found = connection.execute(select(files.c.path).where(_is_older(connection, name)))
    return newest_first(path for (path,) in found if _is_version(path, name))


def _is_version(path: str, name: str) -> bool:
    return is_recording(path.rpartition("/")[2]) and original(path) == name


def _is_older(connection: Connection, name: str) -> ColumnElement[bool]:
    """Whether a path begins as the numbered names of a name do; those are few, by the index."""
    indexed = _SORTED_PATH[connection.dialect.name]
    return or_(
        *(
            and_(
                indexed >= start[:INDEXED],
                indexed <= (start + "\x7f")[:INDEXED],
                func.substr(files.c.path, 1, len(start)) == start,
            )
            for start in (f"{stem}~" for stem in stems(name))
        )
    )


def store(connection: Connection, path: str, content: Content, modified: float) -> None:
    """Store a file; the row comes first, so that writers of one path wait for each other there."""
    values = {
        "path": path,
        "path_sha256": path_hash(path),
        "size": content.size,
        "sha256": content.sha256,
        "modified": modified,
        "times_sent": 1,
    }
    (file_id,) = cast(Row[Any], connection.execute(insert(files), values).inserted_primary_key)
    fitting = largest_piece(connection)
    for start, data in content.chunks():
        for offset in range(0, len(data), fitting):
            piece = {"start": start + offset, "data": data[offset : offset + fitting]}
            connection.execute(insert(chunks), {"file_id": file_id} | piece)


def largest_piece(connection: Connection) -> int:
    """The bytes that one statement may store: MySQL takes them escaped, in one packet."""
    packet: int | None = connection.info.get("max_packet")
    if packet is None:
        return CHUNK_SIZE
    if packet < LEAST_PACKET:
        raise StorageFailed(f"max_allowed_packet is {packet}: set it to {LEAST_PACKET} or more")
    return min(CHUNK_SIZE, (packet - STATEMENT) // 2)


def confirm(connection: Connection, row: Row[Any]) -> None:
    """Make sure that what another transaction stored is durable.

    InnoDB shows it a moment before its log is on the disk. That is written in order, so that it
    is when this transaction's own change is.
    """
    _change(connection, row, times_sent=files.c.times_sent + 1)


def hold(connection: Connection, row: Row[Any]) -> None:
    """Let no other transaction change the row, or what lies beside its file, before this ends."""
    _change(connection, row, path=row.path)


def rename(connection: Connection, row: Row[Any], path: str) -> None:
    """Give a recording, and what lies beside it, another path that no recording has.

    It keeps its id: who is reading it reads on.
    """
    _change(connection, row, path=path, path_sha256=path_hash(path))
    # Only now nobody else can put anything beside it.
    remove(connection, find(connection, family(path)[1:]))
    beside = find(connection, family(row.path)[1:])
    for kind in SIDECARS:
        if about := beside.get(sidecar(row.path, kind)):
            new = sidecar(path, kind)
            _change(connection, about, path=new, path_sha256=path_hash(new))


def _change(connection: Connection, row: Row[Any], **values: Any) -> None:
    """Change the row, unless another transaction has renamed or removed it since it was read."""
    same = (files.c.id == row.id, files.c.path_sha256 == row.path_sha256)
    if connection.execute(update(files).where(*same).values(**values)).rowcount != 1:
        raise Changed


def remove(connection: Connection, rows: dict[str, Row[Any]]) -> None:
    for row in rows.values():
        same = (files.c.id == row.id, files.c.path_sha256 == row.path_sha256)
        if connection.execute(delete(files).where(*same)).rowcount != 1:
            raise Changed
