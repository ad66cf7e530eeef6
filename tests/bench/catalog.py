"""Times what people ask of a catalog of a million recordings."""

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields
from datetime import date, datetime, timedelta
from pathlib import Path
from random import Random
from statistics import median

import click
import psycopg
import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from receiver.catalog.catalog import Catalog
from receiver.catalog.description import Description
from receiver.catalog.search import Query
from receiver.catalog.tables import id_of, recordings, row_of, tables, terms, terms_of
from support.databases import PostgreSQL

RECORDINGS = 1_000_000
BATCH = 2_000
REPEATS = 30  # of a search: most take so little that a few would tell of the machine's other work
ACCOUNTS = [f"{number:032x}" for number in range(50)]
FIRST = "Ann Bob Carla Dmitri Elif Farid Greta Hugo Ines Jörg Kofi Lena Mei Nils Olga Paul".split()
LAST = "Smith Müller García Rossi Novák Silva Haddad Okafor Tanaka Weber Dubois Larsen".split()
EVERY = 90  # seconds between two recordings: three years of them
START = datetime(2024, 1, 1).timestamp()
EMPTY = {field.name: field.type() for field in fields(Description) if isinstance(field.type, type)}


def recording(number: int, random: Random) -> Description:
    account = random.choice(ACCOUNTS)
    call_id = f"{random.getrandbits(64):016x}@10.0.0.{number % 250}"
    path = f"{account}/{call_id}.mp3"
    return Description(
        **EMPTY
        | {
            "path": path,
            "original": path,
            "folder": account,
            "account": account,
            "call_id": call_id,
            "caller_name": f"{random.choice(FIRST)} {random.choice(LAST)}",
            "caller_number": f"+1555{random.randrange(10_000_000):07}",
            "callee_number": f"{random.randrange(1000, 4000)}",
            "cdr_id": f"202611-{call_id}",
            "interaction_id": f"{63_868_000_000 + number}-{random.getrandbits(32):08x}",
            "size": random.randrange(10_000, 5_000_000),
            "received": START + number * EVERY,
            "began": START + number * EVERY - random.randrange(1, 3600),
            "direction": random.choice(("inbound", "outbound")),
            "duration": float(random.randrange(1, 3600)),
            "extension": "mp3",
        }
    )


def fill(file: Path) -> None:
    """Fill a catalog in SQLite as `Catalog.add` does, but all at once and before its indexes."""
    random = Random(0)
    engine = sa.create_engine(f"sqlite:///{file}")
    indexes = [index for table in tables.sorted_tables for index in table.indexes]
    with sqlite3.connect(file, isolation_level=None) as database:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        for table in tables.sorted_tables:
            database.execute(str(CreateTable(table).compile(engine)))
        database.execute("BEGIN")
        columns = ", ".join(f":{column.name}" for column in recordings.columns)
        starts = range(0, RECORDINGS, BATCH)
        with click.progressbar(starts, label=f"{RECORDINGS:,} rows", file=sys.stderr) as bar:
            for start in bar:
                rows = [recording(number, random) for number in range(start, start + BATCH)]
                database.executemany(
                    f"INSERT INTO {recordings.name} VALUES ({columns})",
                    [row_of(id_of(each), each) for each in rows],
                )
                found = [(id_of(each), term) for each in rows for term in sorted(terms_of(each))]
                database.executemany(f"INSERT INTO {terms.name} VALUES (?, ?)", found)
        database.execute("COMMIT")
        for index in indexes:
            database.execute(str(CreateIndex(index).compile(engine)))
    database.close()
    engine.dispose()


def copy_tables(source: Path, url: str) -> None:
    """Fill the catalog in PostgreSQL with the rows of the one in SQLite."""
    with sqlite3.connect(source) as rows, psycopg.connect(url) as connection:
        for table in tables.sorted_tables:
            columns = ", ".join(f'"{column.name}"' for column in table.columns)
            with connection.cursor().copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
                for row in rows.execute(f"SELECT {columns} FROM {table.name}"):
                    copy.write_row(row)
    rows.close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")  # as autovacuum does sooner or later


def searches(catalog: Catalog) -> dict[str, Query]:
    """What is asked, by what it is called."""
    middle = START + RECORDINGS // 2 * EVERY
    one = catalog.search(Query(since=date.fromtimestamp(middle), sort="oldest")).recordings[7]
    day = date.fromtimestamp(middle)
    deep = Query(until=day, limit=1)
    return {
        "first page": Query(),
        "page in the middle": Query(after=catalog.search(deep).next),
        "a Call-ID": Query(text=one.call_id),
        "last 7 digits of a number": Query(text=one.caller_number[-7:]),
        "a first name": Query(text="jorg"),
        "first and last name": Query(text="jörg müller"),
        "name and day": Query(text="larsen", since=day, until=day),
        "name in an account": Query(text="greta", account=one.account),
        "number in several words": Query(text=spelled(one.caller_number)),
        "name, inbound, of 50 minutes": Query(text="jorg", direction="inbound", shortest=3000),
        "nothing like it": Query(text="zebra"),
        "longest first": Query(sort="longest"),
        "longest of a name": Query(text="olga", sort="longest"),
    }


def spelled(number: str) -> str:
    """A number such as +1 (555) 123-4567."""
    digits = number[-10:]
    return f"+1 ({digits[:3]}) {digits[3:6]}-{digits[6:]}"


def rows(folder: Path) -> Iterator[list[str]]:
    """Measure; yield the cells of a table, its head first."""
    found: dict[str, list[str]] = {}
    with ExitStack() as stack:
        server = stack.enter_context(PostgreSQL())
        urls = {"SQLite": f"sqlite:///{folder}/catalog.sqlite", "PostgreSQL": server.new_url()}
        for name, url in urls.items():
            if name == "SQLite":
                fill(folder / "catalog.sqlite")
            catalog = Catalog(url)
            if name != "SQLite":
                catalog.check()  # which creates the tables
                copy_tables(folder / "catalog.sqlite", url)
            today = date.fromtimestamp(START + RECORDINGS * EVERY)
            asked = {
                what: lambda query=query, catalog=catalog: catalog.search(query)
                for what, query in searches(catalog).items()
            }
            asked["chart of 30 days"] = lambda catalog=catalog, today=today: catalog.days(
                today - timedelta(days=30), today
            )
            asked["accounts to choose from"] = lambda catalog=catalog: catalog.values(
                "account", 200
            )
            for what, ask in asked.items():
                ask()
                times = []
                for _ in range(REPEATS):
                    started = time.perf_counter()
                    ask()
                    times.append((time.perf_counter() - started) * 1000)
                found.setdefault(what, []).append(f"{median(times):.1f}")
            catalog.close()
    yield [f"ms among {RECORDINGS:,} recordings, medians of {REPEATS}", *urls]
    for what, times in found.items():
        yield [what, *times]
