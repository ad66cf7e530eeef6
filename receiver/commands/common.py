"""What the commands share: options, progress bars, and errors in one line."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, TextIO, TypeVar

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
    except OSError as error:
        if error.filename is not None or error.errno == errno.EPIPE:  # Click ends quietly then
            raise
        abandon(sys.stdout)
        raise click.ClickException(f"the output cannot be written: {error.strerror}") from None


def abandon(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere, or Python fails at it when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def counted(storage: Storage, *, err: bool = False) -> Iterator[Any]:
    """Show how many of all recordings are done."""
    count, _ = _measure(storage)
    file = sys.stderr if err else sys.stdout
    with _bar(count, f"{count:,} recordings", file) as bar:
        yield bar


@contextmanager
def weighed(storage: Storage) -> Iterator[Any]:
    """Show how many of the bytes of all recordings are done."""
    count, total = _measure(storage)
    label = f"{count:,} recordings, {human_size(total)}"
    with _bar(total, label, sys.stdout) as bar:
        yield bar


@contextmanager
def _bar(length: int, label: str, file: TextIO) -> Iterator[Any]:
    """A progress bar; an output that cannot be written stops no work."""
    bar = click.progressbar(length=length, label=label, file=file)
    try:
        bar.__enter__()
    except OSError:
        bar = click.progressbar(length=length, file=io.StringIO())
    try:
        yield bar
    finally:
        with suppress(OSError):
            bar.render_finish()


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
