"""`copy`: every recording of one storage in another."""

import os
import sys

import click
from flask import current_app
from flask.cli import with_appcontext

from ..storage import open_storage
from ..storage.copying import copy_all
from .common import one_line, threads, weighed


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO")
@threads
@with_appcontext
def copy(source: str, destination: str, threads: int) -> None:
    """Copy every recording from one storage to another, with what lies beside it.

    FROM and TO are what KZR_STORAGE takes: a folder, or the URL of a bucket or a database. FROM
    stays as it is. What TO has already is not copied again, so that a copy that broke off goes on
    where it was; nothing in TO is overwritten. Each copy is read back, and its SHA-256 compared.
    It exits with 1 if anything failed.

    \b
    Example:
      flask --app app copy /srv/recordings s3://bucket/recordings
    """
    if "://" not in source and not os.path.isdir(source):
        raise click.BadParameter(f"there is no folder {source}", param_hint="FROM")
    with one_line():
        old = open_storage(source, read_only=True)
        new = open_storage(destination, min_free=current_app.config["MIN_FREE"])
        with weighed(old) as bar:
            report = copy_all(
                old, new, threads=threads, progress=lambda copied: bar.update(copied.size)
            )
    for line in report.failed:
        click.echo(line, err=True)
    click.echo(
        f"{report.copied:,} copied, {report.identical:,} were there already, "
        f"{len(report.failed):,} failed"
    )
    sys.exit(bool(report.failed))
