"""`jobs`: what is still to be done after storing."""

import time
from typing import TYPE_CHECKING, cast

import click
from flask.cli import with_appcontext

from ..parts import Backlog, parts
from .common import local_time, one_line

if TYPE_CHECKING:
    from ..jobs.work import Jobs

NOTHING_TO_DO = (
    "nothing is to be done after storing: set KZR_CHECKSUMS, KZR_ON_STORED, KZR_WEBHOOK_URL or "
    "KZR_TRANSCRIBE_URL"
)
QUIET = 60  # seconds after its last word that a worker is missed


def queued() -> "Jobs":
    """The receiver's jobs, or an error that says what to set."""
    if (jobs := parts().jobs) is None:
        raise click.ClickException(NOTHING_TO_DO)
    found = cast("Jobs", jobs)
    found.require()
    return found


@click.group("jobs", invoke_without_command=True)
@click.pass_context
@with_appcontext
def jobs_(context: click.Context) -> None:
    """Show what is still to be done after storing, and what was given up.

    It exits with 1 if any job was given up: `jobs retry` enqueues those again.
    """
    if context.invoked_subcommand:
        return
    with one_line():
        jobs = queued()
        backlog = jobs.backlog()
        for line in told(backlog, [*jobs.kinds]):
            click.echo(line)
        for job in jobs.given_up():
            click.echo(f"{local_time(job.due)} {job.kind} {job.event.path}: {job.reason}")
    context.exit(any(backlog.given_up.values()))


def told(backlog: Backlog, known: list[str]) -> list[str]:
    """Lines that tell of a backlog; `known` are the kinds of jobs that the settings ask for."""
    waiting, given_up = sum(backlog.waiting.values()), sum(backlog.given_up.values())
    lines = [f"{waiting:,} waiting, {given_up:,} given up"]
    for kind, count in sorted(backlog.waiting.items()):
        if count and kind not in known:
            lines.append(f"{count:,} of kind {kind} wait until the settings ask for that again")
    if waiting and backlog.lived < time.time() - QUIET:
        when = f"since {local_time(backlog.lived)}" if backlog.lived else "yet"
        lines.append(f"no worker has worked {when}: start kazoo-receiver worker")
    return lines


@jobs_.command()
@with_appcontext
def retry() -> None:
    """Enqueue all jobs again that were given up."""
    with one_line():
        count = queued().retry()
    click.echo(f"{count:,} enqueued again")
