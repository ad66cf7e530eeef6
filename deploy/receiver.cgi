#!/opt/kazoo-receiver/.venv/bin/python
"""The receiver as a CGI program; CHANGE the three paths. See deploy/htaccess."""

import os
import sys
from wsgiref.handlers import CGIHandler

sys.path.insert(0, "/opt/kazoo-receiver")
os.environ["KZR_STORAGE"] = "/srv/recordings"

from app import app  # noqa: E402 (it reads the settings)

CGIHandler().run(app)
