"""The WSGI entry: `app`, or `application` as mod_wsgi and Passenger call it.

`python app.py` serves it with gunicorn, whose options it takes: `python app.py --help`.
"""

import sys

import click
from flask.cli import ScriptInfo

from receiver import create_app
from receiver.errors import SettingError

if __name__ == "__main__":
    from receiver.serve import run

    sys.exit(run("app.py", "app:app", sys.argv[1:]))

# `flask --app app COMMAND` loads this file within the command, of which only `run` serves.
command = click.get_current_context(silent=True)
is_flasks = command is not None and command.find_object(ScriptInfo) is not None
try:
    application = app = create_app(serving=not is_flasks or command.info_name == "run")
except SettingError as error:
    raise SystemExit(f"receiver: {error}") from None
