"""The commands for administrators: `flask --app app COMMAND`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import with_appcontext
from jinja2.filters import do_filesizeformat

from ..errors import ReceiverError, SettingError


@click.command()
@click.argument("url")
def check(url: str) -> None:
    """Send recordings to a running receiver as Kazoo and FreeSWITCH do, and say what to change.

    URL is the "url" of a callflow, and may lead through nginx or Apache. The check needs none of
    the receiver's settings, reads nothing but answers, and tells which recordings it left behind.
    It exits with 1 if anything failed.

    \b
    Example:
      flask --app app check http://kazoo:a-long-secret@10.0.0.5:8000/kzr
    """
    from ..check.checks import run  # no server needs it

    sys.exit(not run(url))


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO")
@click.option("--jobs", default=4, show_default=True, help="Recordings to copy at a time.")
@with_appcontext
def copy(source: str, destination: str, jobs: int) -> None:
    """Copy every recording from one storage to another, with what lies beside it.

    FROM and TO are what KZR_STORAGE takes: a folder, or the URL of a bucket or a database. FROM
    stays as it is. What TO has already is not copied again, so that a copy that broke off goes on
    where it was; nothing in TO is overwritten. Each copy is read back, and its SHA-256 compared.
    It exits with 1 if anything failed.

    \b
    Example:
      flask --app app copy /srv/recordings s3://bucket/recordings
    """
    from ..storage import open_storage
    from ..storage.copying import copy_all

    if "://" not in source and not os.path.isdir(source):
        raise click.BadParameter(f"there is no folder {source}", param_hint="FROM")
    with _errors():
        old = open_storage(source, read_only=True)
        new = open_storage(destination, min_free=current_app.config["MIN_FREE"])
        count = total = 0
        for recording in old.scan():
            count += 1
            total += recording.size
        label = f"{count:,} recordings, {do_filesizeformat(total)}"
        with click.progressbar(length=total, label=label) as bar:
            report = copy_all(old, new, jobs=jobs, progress=lambda copied: bar.update(copied.size))
    for line in report.failed:
        click.echo(line, err=True)
    click.echo(
        f"{report.copied:,} copied, {report.identical:,} were there already, "
        f"{len(report.failed):,} failed"
    )
    sys.exit(bool(report.failed))


@click.command("reindex")
@with_appcontext
def reindex_() -> None:
    """Make the catalog what the storage says, whatever it held before.

    KZR_STORAGE and KZR_CATALOG are those of the receiver, which may run meanwhile.
    """
    from ..catalog.indexing import reindex

    catalog = _extension("catalog", "there is no catalog: set KZR_CATALOG=yes")
    storage = current_app.extensions["storage"]
    with _errors():
        count = sum(1 for _ in storage.scan())
        with click.progressbar(length=count, label=f"{count:,} recordings") as bar:
            reindex(catalog, storage, progress=bar.update)


@click.group("jobs", invoke_without_command=True)
@click.pass_context
@with_appcontext
def jobs_(context: click.Context) -> None:
    """Show what is still to be done after storing, and what was given up.

    It exits with 1 if any job was given up: `jobs retry` enqueues those again.
    """
    if context.invoked_subcommand:
        return
    with _errors():
        jobs = _extension("jobs", "nothing is to be done after storing: see KZR_ON_STORED")
        failures = list(jobs.failures())
        click.echo(f"{jobs.waiting():,} waiting, {len(failures):,} given up")
    for failure in failures:
        when = datetime.fromtimestamp(failure.when).isoformat(" ", "seconds")
        click.echo(f"{when} {failure.kind} {failure.event.path}: {failure.reason}")
    context.exit(bool(failures))


@jobs_.command()
@with_appcontext
def retry() -> None:
    """Enqueue all jobs again that were given up."""
    with _errors():
        jobs = _extension("jobs", "nothing is to be done after storing: see KZR_ON_STORED")
        failures = list(jobs.failures())
        for failure in failures:
            jobs.retry(failure)
    click.echo(f"{len(failures):,} enqueued again")


def _extension(name: str, reason: str) -> Any:
    if name not in current_app.extensions:
        raise click.ClickException(reason)
    return current_app.extensions[name]


@contextmanager
def _errors() -> Iterator[None]:
    """Tell of what went wrong in one line."""
    try:
        yield
    except SettingError as error:
        raise click.ClickException(str(error)) from None
    except ReceiverError as error:
        raise click.ClickException(error.description) from None


def register(app: Flask) -> None:
    """Add the commands to `flask --app app`."""
    from .retention import COMMANDS  # here, because they use the helpers above

    for command in (check, copy, reindex_, jobs_, *COMMANDS):
        app.cli.add_command(command)
