"""The WSGI entry: `app`, or `application` as mod_wsgi and Passenger call it.

`python app.py` serves it with gunicorn, whose options it takes: `python app.py --help`.
"""

import sys

from receiver import create_app
from receiver.errors import SettingError

if __name__ == "__main__":
    from gunicorn.app.wsgiapp import run

    sys.argv[1:1] = ["-c", "python:receiver.serve", "app:app"]
    sys.exit(run(prog="app.py"))

try:
    application = app = create_app()
except SettingError as error:
    raise SystemExit(f"receiver: {error}") from None
