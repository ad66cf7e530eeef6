"""`copy`: every recording of one storage in another."""

import os
import sys

import click
from flask.cli import ScriptInfo

from .. import config
from ..errors import SettingError
from ..storage import open_storage
from ..storage.copying import copy_all
from ..storage.existing import local_path, refuse_as_root, require_existing
from .common import one_line, threads, weighed
from .service import Service, become_owner, say


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO")
@threads
@click.pass_obj
def copy(script: ScriptInfo, source: str, destination: str, threads: int) -> None:
    """Copy every recording from one storage to another, with what lies beside it.

    FROM and TO are what KZR_STORAGE takes: a folder, or the URL of a bucket or a database. In place
    of a URL with a password, which others could see, env:NAME is a variable that holds it, of the
    environment or among the settings. FROM stays as it is; a folder TO has to be there. What TO has
    already is not copied again, so that a copy that broke off goes on where it was; nothing in TO
    is overwritten. Each copy is read back, and its SHA-256 compared. It exits with 1 if anything
    failed.

    \b
    Example:
      kazoo-receiver copy /srv/recordings s3://bucket/recordings
    """
    with one_line():
        if isinstance(script, Service):
            script.read_settings()
        source, destination = meant(source), meant(destination)
        require_existing(source)
        require_existing(destination, may_be_empty=True)
        if isinstance(script, Service):
            become_owner(destination if local_path(destination) else source)
            say(source, destination)
        refuse_as_root(destination)
        old = open_storage(source, read_only=True)
        new = open_storage(destination, min_free=config.load()["MIN_FREE"])
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


def meant(url: str) -> str:
    """A storage as it was given, or as the environment has it."""
    if not url.startswith("env:"):
        return url
    if not (found := os.environ.get(url.removeprefix("env:"))):
        raise SettingError(f"{url}: the environment has no such variable")
    return found
