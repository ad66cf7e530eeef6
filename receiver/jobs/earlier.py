"""Queues of the releases that used huey: one that is empty makes room, and none is lost."""

import logging
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from ..errors import SettingError

# huey's table of each state in which a job waits; its rows are pickles, which are never loaded.
_WAITING = ("task", "schedule", "taken")
_HOURLY = b"receiver.jobs.hourly"  # no recording's job

logger = logging.getLogger("receiver.jobs")


def make_room(file: Path) -> None:
    """Remove an earlier release's queue where it is empty; raise `SettingError` where it is not."""
    given_up = require_empty(file)
    if given_up is None:
        return
    if given_up:
        logger.warning("%s: %d jobs that were given up are forgotten", file, given_up)
    for ending in ("", "-wal", "-shm", "-journal", "-worker"):
        with suppress(FileNotFoundError):
            Path(f"{file}{ending}").unlink()


def require_empty(file: Path) -> int | None:
    """The jobs that were given up in an earlier release's queue, None where there is none.

    Raises `SettingError` where jobs wait in it.
    """
    try:
        waiting, given_up = _count(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except sqlite3.Error as error:
        raise SettingError(f"KZR_QUEUE: cannot read {file}: {error}") from error
    if waiting:
        raise SettingError(
            f"KZR_QUEUE: {file} holds {waiting} jobs of an earlier release: let its worker do them "
            "(install commit d00f390 again, stop the receiver, and run python -m receiver.jobs "
            "until flask jobs tells 0 waiting), then start this one"
        )
    return given_up


def _count(file: Path) -> tuple[int, int]:
    """The jobs that wait in an earlier release's queue, and those that were given up.

    Raises `FileNotFoundError` where there is none: no file, or one of another kind.
    """
    if not file.stat().st_size:
        raise FileNotFoundError
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as database:
        there = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if not {"task", "schedule", "kv"} <= there:
            raise FileNotFoundError
        waiting = 0
        for table in there & {*_WAITING}:
            # Of our own names alone.
            counted = f"SELECT count(*) FROM {table} WHERE instr(data, ?) = 0"  # noqa: S608
            waiting += database.execute(counted, (_HOURLY,)).fetchone()[0]
        failed = "SELECT count(*) FROM kv WHERE key LIKE 'failed:%'"
        return waiting, database.execute(failed).fetchone()[0]
