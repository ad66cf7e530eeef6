"""Compares each storage with a plain client of the same server.

Eight threads store recordings of 1 MB. The plain client puts the same bytes into the same server,
in one object or one transaction, durably, and does nothing else: it has no file, compares nothing,
and would overwrite.
"""

import itertools
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import unquote, urlsplit

import obstore
import psycopg
import pymysql
from obstore.store import from_url

from receiver.core.naming import RecordingName
from receiver.parts import Storage
from receiver.storage import open_storage
from receiver.storage.rows import CHUNK_SIZE
from support.buckets import Moto, Rclone, Server
from support.databases import MariaDB, PostgreSQL

THREADS = 8
SIZE = 1_000_000  # bytes
BODY = os.urandom(SIZE)
CHUNKS = [(start, BODY[start : start + CHUNK_SIZE]) for start in range(0, SIZE, CHUNK_SIZE)]
COUNT = itertools.count()
TABLE = "CREATE TABLE plain (number bigint, start int, data {}, PRIMARY KEY (number, start))"

Store = Callable[[], object]  # stores one recording
Contest = tuple[Storage, Callable[[], Store]]  # the second makes a plain client for one thread


@contextmanager
def directory(folder: Path) -> Iterator[Contest]:
    root = os.open(folder, os.O_DIRECTORY)

    def store() -> None:
        with open(folder / f"{next(COUNT)}.mp3", "xb") as file:
            file.write(BODY)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(root)

    yield open_storage(str(folder / "storage")), lambda: store


def bucket(kind: type[Server], folder: Path) -> AbstractContextManager[Contest]:
    @contextmanager
    def contest() -> Iterator[Contest]:
        server = kind(folder)
        os.environ |= server.environ
        url = f"s3://{server.create_bucket()}"
        client = from_url(url, client_options={"allow_http": True})

        def store() -> None:
            obstore.put(client, f"plain/{next(COUNT)}.mp3", BODY, use_multipart=False)

        try:
            yield open_storage(url), lambda: store
        finally:
            server.stop()

    return contest()


@contextmanager
def postgresql(folder: Path) -> Iterator[Contest]:
    with PostgreSQL() as server:
        url = server.new_url()
        with psycopg.connect(url) as connection:
            connection.execute(TABLE.format("bytea"))
        yield open_storage(url), lambda: inserting(psycopg.connect(url), "%s")


@contextmanager
def mariadb(folder: Path) -> Iterator[Contest]:
    with MariaDB() as server:
        url = urlsplit(server.new_url())

        def connect() -> pymysql.Connection:
            return pymysql.connect(
                host=url.hostname,
                port=url.port,
                user=url.username,
                password=unquote(url.password),
                database=url.path[1:],
            )

        connection = connect()
        connection.cursor().execute(TABLE.format("longblob"))
        connection.close()
        yield open_storage(url.geturl()), lambda: inserting(connect(), "%s")


@contextmanager
def sqlite(folder: Path) -> Iterator[Contest]:
    path = folder / "plain.sqlite"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    connect().execute(TABLE.format("blob"))
    yield open_storage(f"sqlite:///{folder}/storage.sqlite"), lambda: inserting(connect(), "?")


def inserting(connection, mark: str) -> Store:
    """One transaction of INSERTs for each recording, through the database's own driver."""

    def store() -> None:
        number = next(COUNT)
        rows = [(number, start, data) for start, data in CHUNKS]
        statement = f"INSERT INTO plain VALUES ({mark}, {mark}, {mark})"
        connection.cursor().executemany(statement, rows)
        connection.commit()

    return store


CONTESTS: dict[str, Callable[[Path], AbstractContextManager[Contest]]] = {
    "directory": directory,
    "S3, rclone": lambda folder: bucket(Rclone, folder),
    "S3, moto": lambda folder: bucket(Moto, folder),
    "PostgreSQL": postgresql,
    "MariaDB": mariadb,
    "SQLite": sqlite,
}


def publishing(storage: Storage) -> Store:
    def store() -> None:
        with storage.incoming() as file:
            file.write(BODY)
            file.flush()
            storage.publish(file, RecordingName("", f"{next(COUNT)}@10.0.0.1", "mp3"))

    return store


def rate(clients: list[Store], seconds: float) -> float:
    """Recordings per second that the clients store together, each in a thread of its own."""
    done = [0] * len(clients)
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        while time.monotonic() < end:
            clients[number]()
            done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(clients))]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - started)


def rows(folder: Path, rounds: int, seconds: float) -> Iterator[list[str]]:
    """Measure; yield the cells of a table, its head first."""
    yield ["storage", "recordings/s", "MB/s", "plain client: recordings/s", "ratio"]
    for name, contest in CONTESTS.items():
        own = folder / name.replace(", ", "-")
        own.mkdir()
        with contest(own) as (storage, make_client):
            ours, plain = [], []
            clients = [make_client() for _ in range(THREADS)]
            for _ in range(rounds):
                ours.append(rate([publishing(storage)] * THREADS, seconds))
                plain.append(rate(clients, seconds))
            print(f"{name}: {median(ours):.0f}/s, plain {median(plain):.0f}/s", file=sys.stderr)
            ratio = median(mine / other for mine, other in zip(ours, plain, strict=True))
            speed = median(ours)
            yield [
                name,
                f"{speed:.0f}",
                f"{speed * SIZE / 1e6:.0f}",
                f"{median(plain):.0f}",
                f"{ratio:.2f}",
            ]
