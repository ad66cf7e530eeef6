"""What the commands share: options, progress bars, and errors in one line."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import click
from jinja2.filters import do_filesizeformat as human_size

from ..errors import ReceiverError, SettingError
from ..parts import Storage
from ..storage.parallel import THREADS

__all__ = ["human_size"]

MOST_THREADS = 1000
F = TypeVar("F", bound=Callable[..., Any])


def at_least_one(context: click.Context, option: click.Parameter, value: str) -> int:
    if not (value.isascii() and value.isdigit() and 0 < int(value) <= MOST_THREADS):
        raise click.ClickException(f"--threads is a number from 1 to {MOST_THREADS}")
    return int(value)


def threads_option(what: str) -> Callable[[F], F]:
    """The option `--threads`; `what` its threads do."""
    return click.option(
        "--threads",
        "--jobs",  # its name before jobs were only those of the queue
        "threads",
        metavar="NUMBER",
        default=str(THREADS),
        show_default=True,
        callback=at_least_one,
        help=what,
    )


threads = threads_option("Recordings at a time.")


@contextmanager
def one_line() -> Iterator[None]:
    """Tell of what goes wrong in one line."""
    try:
        yield
    except (SettingError, ReceiverError) as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def counted(storage: Storage, *, err: bool = False) -> Iterator[Any]:
    """Show how many of all recordings are done."""
    count, _ = _measure(storage)
    file = sys.stderr if err else sys.stdout
    with click.progressbar(length=count, label=f"{count:,} recordings", file=file) as bar:
        yield bar


@contextmanager
def weighed(storage: Storage) -> Iterator[Any]:
    """Show how many of the bytes of all recordings are done."""
    count, total = _measure(storage)
    label = f"{count:,} recordings, {human_size(total)}"
    with click.progressbar(length=total, label=label) as bar:
        yield bar


def _measure(storage: Storage) -> tuple[int, int]:
    """The number of recordings, and their bytes."""
    count = total = 0
    for recording in storage.scan(odd=lambda line: None):  # the work itself tells
        count += 1
        total += recording.size
    return count, total


def local_time(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp).isoformat(" ", "seconds")


def complain(lines: Iterable[str]) -> None:
    for line in sorted(lines):
        click.echo(line, err=True)
