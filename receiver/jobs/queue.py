"""Queues of jobs in SQLite or Redis, through huey, that a crash of the worker does not empty.

huey forgets a job when a worker takes it. Here it is set aside instead until it is done, and goes
back into the queue when its worker has died; so a job may run twice, but never not at all.
"""

import fcntl
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from huey.api import Huey
from huey.storage import RedisStorage, SqliteStorage
from redis.exceptions import RedisError

from ..config import require_parts
from ..errors import SettingError

FILE_MODE = 0o640
ALIVE = 30  # seconds after its last word that a worker counts as dead
NAME = "receiver"

require_parts(
    "huey",
    {
        Huey: ("dequeue", "execute", "deserialize_task"),
        SqliteStorage: (
            "sql",
            "db",
            "table_kv",
            "table_sched",
            "index_sched",
            "table_task",
        ),
        RedisStorage: ("dequeue", "read_schedule", "convert_ts"),
    },
)

logger = logging.getLogger("receiver.queues")


class Queue(Huey):  # type: ignore[misc]  # huey has no types
    """huey, but a job is only forgotten once it was executed, or is in the queue again."""

    def dequeue(self) -> Any:
        data = self.storage.dequeue()
        if data is None:
            return None
        task = self.deserialize_task(data)
        task.taken = data
        return task

    def execute(self, task: Any, timestamp: Any = None) -> Any:
        result = super().execute(task, timestamp)
        if hasattr(task, "taken"):
            self.storage.forget(task.taken)
        return result


class SqliteQueue(SqliteStorage):  # type: ignore[misc]  # huey has no types
    """A queue in a file, for one machine and one worker process with any number of threads."""

    # Without huey's index for priorities: there are none, and it doubles what a commit writes.
    ddl = [
        SqliteStorage.table_kv,
        SqliteStorage.table_sched,
        SqliteStorage.index_sched,
        SqliteStorage.table_task,
        "create table if not exists taken (data blob not null, queue text not null)",
    ]

    def sql(
        self, query: str, params: Any = None, commit: bool = False, results: bool = False
    ) -> Any:
        """Let a statement commit itself: it gives back SQLite's lock before it waits for Python's.

        Between huey's BEGIN and COMMIT a busy process would keep all others waiting.
        """
        return super().sql(query, params, results=results)

    def dequeue(self) -> bytes | None:
        if not self.sql("select 1 from task limit 1", results=True):  # without a lock
            return None
        with self.db(commit=True) as cursor:
            cursor.execute("select id, data from task order by id limit 1")
            found = cursor.fetchone()
            if found:
                cursor.execute("delete from task where id = ?", found[:1])
                cursor.execute("insert into taken values (?, ?)", (found[1], self.name))
        return found[1] if found else None

    def forget(self, data: bytes) -> None:
        self.sql("delete from taken where data = ?", (self.to_blob(data),), commit=True)

    def read_schedule(self, now: Any) -> list[bytes]:
        """Move what is due into the queue, in one step; nothing is left for huey to do."""
        due = (self.name, now.timestamp())
        with self.db(commit=True) as cursor:
            cursor.execute(
                "insert into task (queue, data) select queue, data from schedule "
                "where queue = ? and timestamp <= ? order by timestamp",
                due,
            )
            cursor.execute("delete from schedule where queue = ? and timestamp <= ?", due)
        return []

    def start(self) -> None:
        """Put back what a worker that died had taken; raises `SettingError` where one lives."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock = os.open(f"{self.filename}-worker", flags, FILE_MODE)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with the process
        except BlockingIOError:
            raise SettingError(
                f"another worker uses {self.filename}: stop it, or share a queue in Redis"
            ) from None
        with self.db(commit=True) as cursor:
            cursor.execute("insert into task (queue, data) select queue, data from taken")
            cursor.execute("delete from taken")

    def warn(self) -> None:
        """Nothing is to be said: each job is on disk."""

    def release(self) -> None:
        """Let another worker use the queue."""
        os.close(self._lock)


class RedisQueue(RedisStorage):  # type: ignore[misc]  # huey has no types
    """A queue in Redis, for any number of machines and workers."""

    # What is due goes into the queue in one step.
    MOVE_DUE = """
        local due = redis.call('zrangebyscore', KEYS[1], '-inf', ARGV[1])
        for _, data in ipairs(due) do
            redis.call('lpush', KEYS[2], data)
            redis.call('zrem', KEYS[1], data)
        end
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.worker = f"{socket.gethostname()}-{uuid4().hex}"
        self.workers_key = f"receiver.workers.{self.name}"
        self._move_due = self.conn.register_script(self.MOVE_DUE)

    def taken_key(self, worker: str) -> str:
        return f"receiver.taken.{self.name}.{worker}"

    def dequeue(self) -> bytes | None:
        data: bytes | None = self.conn.blmove(
            self.queue_key, self.taken_key(self.worker), self.read_timeout, "RIGHT", "LEFT"
        )
        return data

    def forget(self, data: bytes) -> None:
        self.conn.lrem(self.taken_key(self.worker), 1, data)

    def read_schedule(self, now: Any) -> list[bytes]:
        """Move what is due into the queue, and what dead workers had taken; every second."""
        self._move_due(keys=[self.schedule_key, self.queue_key], args=[self.convert_ts(now)])
        self.start()
        for name in self.conn.smembers(self.workers_key):
            worker = name.decode()
            if not self.conn.exists(f"{self.taken_key(worker)}.alive"):
                self._recover(worker)
        return []

    def start(self) -> None:
        """Tell that this worker lives, and may have taken jobs."""
        self.conn.set(f"{self.taken_key(self.worker)}.alive", "", ex=ALIVE)
        self.conn.sadd(self.workers_key, self.worker)

    def warn(self) -> None:
        """Warn of a Redis that would forget what it has acknowledged when its machine crashes."""
        with suppress(RedisError):  # some do not tell
            told = self.conn.config_get("append*")
            if (told["appendonly"], told["appendfsync"]) != ("yes", "always"):
                logger.warning("Redis may lose jobs: set appendonly yes and appendfsync always")

    def _recover(self, worker: str) -> None:
        while self.conn.lmove(self.taken_key(worker), self.queue_key, "RIGHT", "RIGHT"):
            pass
        self.conn.srem(self.workers_key, worker)


def open_queue(url: str) -> Queue:
    """Open the queue at `sqlite:///PATH` or `redis://...`; raises `SettingError` for others."""
    if url.startswith("sqlite:///"):
        told = url.removeprefix("sqlite:///")
        if "?" in told:
            raise SettingError("KZR_QUEUE: write %3F for ? in the path, and %25 for %")
        path = Path(unquote(told)).absolute()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE))
        except OSError as error:
            raise SettingError(f"KZR_QUEUE: cannot open {path}: {error.strerror}") from error
        return Queue(
            NAME, results=False, storage_class=SqliteQueue, filename=path, fsync=True, cache_mb=1
        )
    if urlsplit(url).scheme in ("redis", "rediss", "unix"):
        return Queue(NAME, results=False, storage_class=RedisQueue, url=url)
    raise SettingError("KZR_QUEUE: expected sqlite:///PATH or redis://HOST")
