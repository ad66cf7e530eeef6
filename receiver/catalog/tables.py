"""The catalog's tables: a row for each recording, and the words that find it."""

import hashlib
import re
import unicodedata
from dataclasses import asdict
from datetime import date, datetime
from typing import Any, get_type_hints

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from ..storage.sidecars import LONGEST_LINE
from .description import Description

LONGEST_TERM = 64  # characters
MOST_TERMS = 2000  # of one recording
LATEST = (1 << 43) / 1000 - 1  # seconds, in the year 2248: the ids of later recordings begin here

_bytewise = (
    sa.String(LONGEST_TERM)
    .with_variant(sa.String(LONGEST_TERM, collation="C"), "postgresql")
    .with_variant(mysql.VARCHAR(LONGEST_TERM, collation="utf8mb4_bin"), "mysql", "mariadb")
)
_line = sa.String(LONGEST_LINE).with_variant(
    mysql.VARCHAR(LONGEST_LINE, collation="utf8mb4_bin"), "mysql", "mariadb"
)
_text = sa.Text().with_variant(mysql.LONGTEXT(collation="utf8mb4_bin"), "mysql", "mariadb")


def _type(name: str, hint: type) -> sa.types.TypeEngine[Any]:
    if hint is int:
        return sa.BigInteger()
    if hint is float:
        return sa.Double()
    return _text if name in ("path", "folder", "original", "transcript") else _line


tables = sa.MetaData()  # of one version: a newer one would have tables of other names
recordings = sa.Table(
    "catalog_recordings",
    tables,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("original_id", sa.BigInteger, nullable=False, index=True),
    sa.Column("day", sa.Integer, nullable=False),  # datetime.date.toordinal
    *(sa.Column(name, _type(name, hint)) for name, hint in get_type_hints(Description).items()),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
)
terms = sa.Table(
    "catalog_terms",
    tables,
    sa.Column("recording", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("term", _bytewise, primary_key=True),
    sa.Index("catalog_terms_by_term", "term", "recording"),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
    sqlite_with_rowid=False,
)
# By name: the column, and whether the largest value comes first.
SORTS = {
    "newest": (recordings.c.received, True),
    "oldest": (recordings.c.received, False),
    "longest": (recordings.c.duration, True),
    "largest": (recordings.c.size, True),
    "caller": (recordings.c.caller_name, False),
}
for _column in (recordings.c.received, recordings.c.duration, recordings.c.size):
    sa.Index(f"catalog_by_{_column.name}", _column, recordings.c.id)
sa.Index("catalog_by_caller", recordings.c.caller_name, recordings.c.id)
sa.Index("catalog_by_day", recordings.c.day, recordings.c.size)


def key_of(path: str) -> int:
    """A number for a path, which is shorter to look up."""
    data = path.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big", signed=True)


def id_of(each: Description) -> int:
    """A recording's id, which few others have: its milliseconds, and then some bits of its path.

    So rows lie in the order of time, in which they come and are looked at, and a new catalog has
    the same ids.
    """
    milliseconds = int(min(max(each.received, -LATEST), LATEST) * 1000)
    return milliseconds << 20 | key_of(each.path) & 0xFFFFF


def row_of(id_: int, each: Description) -> dict[str, Any]:
    day = day_of(each.received)
    return {"id": id_, "original_id": key_of(each.original), "day": day, **asdict(each)}


def day_of(received: float) -> int:
    """The number of a day; of a time that no calendar has, that of the first or the last day."""
    try:
        return datetime.fromtimestamp(received).toordinal()
    except (OverflowError, ValueError, OSError):
        return 1 if received < 0 else date.max.toordinal()


def terms_of(recording: Description) -> set[str]:
    """What a search finds a recording by: words, last digits of numbers, folders."""
    each = recording
    found: set[str] = set()
    for number in (each.caller_number, each.callee_number, each.from_, each.to):
        if digits := re.sub(r"\D", "", number.partition("@")[0]):
            found |= {digits, backwards(digits)}
    texts = (
        *(each.caller_name, each.callee_name, each.caller_number, each.callee_number),
        *(each.from_, each.to, each.account, each.call_id, each.cdr_id, each.interaction_id),
        *(each.path.rpartition("/")[2], each.transcript),
    )
    for word in " ".join(texts).split():
        found |= {folded(word), *map(folded, re.findall(r"\w{3,}", word))}
    found = {cut(term) for term in sorted(found, key=len)[:MOST_TERMS]} - {""}
    parts = each.folder.split("/") if each.folder else []
    return found | {folder_term("/".join(parts[: n + 1])) for n in range(len(parts))}


def folded(word: str) -> str:
    """A word without case and accents, and without the NUL that PostgreSQL does not take."""
    plain = unicodedata.normalize("NFKD", word.casefold())
    return "".join(char for char in plain if char != "\0" and not unicodedata.combining(char))


def cut(term: str) -> str:
    """A term as it is stored; to MariaDB, those with spaces at their ends are the same."""
    return term[:LONGEST_TERM].strip()


def backwards(digits: str) -> str:
    return "<" + digits[::-1]


def folder_term(folder: str) -> str:
    return "/" + hashlib.sha256(folder.encode()).hexdigest()[:32]
