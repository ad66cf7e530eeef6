"""The command for the shell: `kazoo-receiver`, with the service's settings, and as its user."""

import logging
import os
from functools import partial
from typing import TYPE_CHECKING, cast

import click

from . import commands, create_app
from .commands.common import one_line, threads_option
from .commands.jobs import NOTHING_TO_DO
from .commands.service import SETTINGS_FILE, Service
from .config import load
from .errors import SettingError
from .memory import keep_freed_blocks
from .parts import Parts
from .storage import open_configured
from .storage.existing import local_path, without_password

if TYPE_CHECKING:
    from .jobs.work import Jobs

GROUPS = {
    "Receive": {
        "serve": "receive recordings, with gunicorn's options: serve --help",
        "worker": "do what is to be done after storing",
        "init": "make the storage where there is none yet",
        "check": "ask a running receiver from outside, as Kazoo does",
    },
    "Look after": {
        "copy": "copy all recordings to another storage",
        "reindex": "make the catalog anew",
        "jobs": "list what is still to be done after storing; do it again",
        "verify": "read all recordings again, and tell which have changed",
    },
    "Keep and erase": {
        "hold": "keep a recording from purge and erase",
        "holds": "list what is kept so",
        "purge": "remove what is older than KZR_KEEP_DAYS",
        "erase": "erase all recordings of a number or a call",
    },
}


class Shell(click.Group):
    """Commands in groups."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, lines in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(list(lines.items()))


@click.group("kazoo-receiver", cls=Shell)
@click.option("--env", "file", metavar="FILE", help=f"The settings, in place of {SETTINGS_FILE}.")
@click.pass_context
def main(context: click.Context, file: str | None) -> None:
    """Receive Kazoo's call recordings, and look after those that are stored.

    Settings are those of the environment, and else the service's, in /etc/kazoo-receiver.env.
    Run by root, a command becomes the owner of the storage.
    """
    context.obj = Service(partial(create_app, serving=False), file)


@main.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def serve(service: Service, options: tuple[str, ...]) -> None:
    """Receive recordings; takes gunicorn's options: serve --help."""
    with one_line():
        if not {"-h", "--help", "-v", "--version"} & set(options):
            service.enter(may_create=True)
            if not os.access(".", os.X_OK):  # gunicorn enters the one that it is loaded in
                os.chdir("/")
        from .serve import run

        run("kazoo-receiver serve", "receiver:create_app()", options)


@main.command()
@click.pass_obj
def init(service: Service) -> None:
    """Make the storage that KZR_STORAGE names, where there is none yet."""
    with one_line():
        service.enter(may_create=True)
        settings = load()
        is_new = not os.path.exists(local_path(settings["STORAGE"]) or "/")
        open_configured(settings | {"STORAGE_NEW": True}).check()  # here it is asked for
    click.echo(f"ready: {without_password(settings['STORAGE'])}")
    if is_new and os.geteuid() == 0:
        path = local_path(settings["STORAGE"])
        click.echo(f"It is root's. Give it to the service's user: chown www-data: {path}")


@main.command()
@threads_option("Jobs to do at a time.")
@click.pass_obj
def worker(service: Service, threads: int) -> None:
    """Do what is to be done after storing, until it is told to stop."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    running: Parts = service.load_app().extensions["receiver"]
    with one_line():
        jobs = cast("Jobs | None", running.jobs)
        if jobs is None or not (jobs.kinds or jobs.hourly):
            raise SettingError(f"{NOTHING_TO_DO}; or KZR_KEEP_DAYS")
        _ = running.storage
        keep_freed_blocks()
        from .jobs.worker import Worker

        Worker(jobs, threads).run()


for _command in commands.COMMANDS:
    main.add_command(_command)
