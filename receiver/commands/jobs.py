"""`jobs`: what is still to be done after storing."""

from typing import TYPE_CHECKING, cast

import click
from flask.cli import with_appcontext

from ..parts import parts
from .common import local_time, one_line

if TYPE_CHECKING:
    from ..jobs.work import Jobs


def queued() -> "Jobs":
    """The receiver's jobs, or an error that says what to set."""
    if (jobs := parts().jobs) is None:
        raise click.ClickException("nothing is to be done after storing: see KZR_ON_STORED")
    return cast("Jobs", jobs)


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
        failures = list(jobs.failures())
        click.echo(f"{jobs.waiting():,} waiting, {len(failures):,} given up")
    for failure in failures:
        when = local_time(failure.when)
        click.echo(f"{when} {failure.kind} {failure.event.path}: {failure.reason}")
    context.exit(bool(failures))


@jobs_.command()
@with_appcontext
def retry() -> None:
    """Enqueue all jobs again that were given up."""
    with one_line():
        jobs = queued()
        failures = list(jobs.failures())
        for failure in failures:
            jobs.retry(failure)
    click.echo(f"{len(failures):,} enqueued again")
