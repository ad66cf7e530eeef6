"""The commands for administrators: `kazoo-receiver COMMAND`, or `flask --app app COMMAND`."""

from flask import Flask

from .catalog import reindex_
from .check import check
from .copy import copy
from .jobs import jobs_
from .retention import erase_, hold_, holds_, purge_, verify_

COMMANDS = (check, copy, reindex_, jobs_, hold_, holds_, purge_, erase_, verify_)


def init_app(app: Flask) -> None:
    for command in COMMANDS:
        app.cli.add_command(command)
