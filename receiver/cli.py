"""The commands for administrators: `flask --app app COMMAND`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask import Flask, current_app
from flask.cli import with_appcontext
from jinja2.filters import do_filesizeformat

from .errors import ReceiverError, SettingError


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
    from .check import run  # no server needs it

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
    from .copying import copy_all
    from .storage import open_storage

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
    if "catalog" not in current_app.extensions:
        raise click.ClickException("there is no catalog: set KZR_CATALOG=yes")
    from .indexing import reindex

    storage, catalog = current_app.extensions["storage"], current_app.extensions["catalog"]
    with _errors():
        count = sum(1 for _ in storage.scan())
        with click.progressbar(length=count, label=f"{count:,} recordings") as bar:
            reindex(catalog, storage, progress=bar.update)


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
    for command in (check, copy, reindex_):
        app.cli.add_command(command)
