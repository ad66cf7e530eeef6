"""The catalog's tables: a row for each recording, and the words that find it."""

import hashlib
from dataclasses import asdict
from itertools import islice
from typing import Any, get_type_hints

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from ..numbers import digits_of, numbers_in
from ..storage.sidecars import LONGEST_LINE
from .description import Description
from .words import LONGEST_TERM, cut, words_in

MOST_TERMS = 10_000  # of one transcript: of many hours
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


# Of one version: those of another have other names. `OLDER` is what earlier releases made.
OLDER = ("catalog_terms", "catalog_recordings")
tables = sa.MetaData()
recordings = sa.Table(
    "catalog2_recordings",
    tables,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("original_id", sa.BigInteger, nullable=False, index=True),
    *(sa.Column(name, _type(name, hint)) for name, hint in get_type_hints(Description).items()),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
)
terms = sa.Table(
    "catalog2_terms",
    tables,
    sa.Column("recording", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("term", _bytewise, primary_key=True),
    sa.Index("catalog2_terms_by_term", "term", "recording"),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
    sqlite_with_rowid=False,
)
# The times that days may be of: when the call began, and when the recording was received.
TIMES = {"began": recordings.c.began, "received": recordings.c.received}
# By name: the column, and whether the largest value comes first; of times, that of the query.
SORTS: dict[str, tuple[sa.Column[Any] | None, bool]] = {
    "newest": (None, True),
    "oldest": (None, False),
    "longest": (recordings.c.duration, True),
    "largest": (recordings.c.size, True),
    "caller": (recordings.c.caller_name, False),
}
for _column in (recordings.c.began, recordings.c.received):  # with what the chart adds up
    sa.Index(f"catalog2_by_{_column.name}", _column, recordings.c.id, recordings.c.size)
for _column in (recordings.c.duration, recordings.c.size):
    sa.Index(f"catalog2_by_{_column.name}", _column, recordings.c.id)
sa.Index("catalog2_by_caller", recordings.c.caller_name, recordings.c.id)
# What recordings are filtered by: the first characters of terms that no text has.
FACETS = {"account": "\x1fa", "direction": "\x1fd", "extension": "\x1fe"}


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
    return {"id": id_, "original_id": key_of(each.original), **asdict(each)}


def terms_of(recording: Description) -> set[str]:
    """What a search finds a recording by: words, numbers from both ends, folders, facets."""
    each = recording
    found: set[str] = set()
    numbers = {digits_of(each.caller_name), digits_of(each.callee_name)}
    for text in (each.caller_number, each.callee_number, each.from_, each.to):
        numbers |= numbers_in(text)
    for digits in numbers - {""}:
        found |= {cut(digits), cut(backwards(digits))}
    texts = (
        *(each.caller_name, each.callee_name, each.caller_number, each.callee_number),
        *(each.from_, each.to, each.account, each.call_id, each.cdr_id, each.interaction_id),
        each.path.rpartition("/")[2],
    )
    found.update(words_in(" ".join(texts)))
    found.update(islice(dict.fromkeys(words_in(each.transcript)), MOST_TERMS))
    parts = each.folder.split("/") if each.folder else []
    found |= {folder_term("/".join(parts[: n + 1])) for n in range(len(parts))}
    facets = {"account": each.account, "direction": each.direction, "extension": each.extension}
    found |= {facet_term(name, value) for name, value in facets.items() if value}
    return found - {""}


def backwards(digits: str) -> str:
    return "<" + digits[::-1]


def folder_term(folder: str) -> str:
    return "/" + hashlib.sha256(folder.encode()).hexdigest()[:32]


def facet_term(name: str, value: str) -> str:
    """The term of what a recording is filtered by; of extensions, case does not count."""
    value = value.lower() if name == "extension" else value
    return FACETS[name] + cut(value.replace("\0", ""))[: LONGEST_TERM - len(FACETS[name])].rstrip()
