"""The tables of the queue: a row for each job, and what workers tell each other."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql

LONGEST_KIND = 32  # characters

_ASCII: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "ascii",
    "mysql_collate": "ascii_bin",
}
_TEXT = Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")

tables = MetaData()  # of one version: a newer one would have tables of other names

jobs = Table(
    "kzr_jobs",
    tables,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    # Of the kind, the path and the ETag, which together may be longer than an index takes.
    Column(
        "key",
        LargeBinary(32).with_variant(mysql.BINARY(32), "mysql"),
        nullable=False,
        unique=True,
    ),
    Column("kind", String(LONGEST_KIND), nullable=False),
    Column("path", String(8192), nullable=False),
    Column("etag", String(255), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("kept_as", String(8192), nullable=False),
    Column("received", Double, nullable=False),  # seconds (POSIX), as all times
    Column("state", String(8), nullable=False),
    # When it may be taken: at once where that is 0. When what is done may be forgotten.
    Column("due", Double, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("taken_by", String(32), nullable=False),  # a worker's id, "" for nobody's
    Column("reason", _TEXT, nullable=False),  # of the latest failure
    Index("kzr_jobs_due", "state", "kind", "due"),
    **_ASCII,
)
workers = Table(
    "kzr_job_workers",
    tables,
    Column("id", String(32), primary_key=True),
    Column("beat", BigInteger, nullable=False),  # which grows as long as it lives
    **_ASCII,
)
times = Table(
    "kzr_job_times",
    tables,
    Column("name", String(16), primary_key=True),
    Column("at", Double, nullable=False),
    **_ASCII,
)
