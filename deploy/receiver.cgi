#!/opt/kazoo-receiver/.venv/bin/python
"""The receiver as a CGI program; CHANGE the path above, too. See deploy/htaccess."""

import os
import sys
from wsgiref.handlers import CGIHandler

# CHANGE: where the project is.
sys.path.insert(0, "/opt/kazoo-receiver")
# CHANGE: where recordings are stored.
os.environ["KZR_STORAGE"] = "/srv/recordings"
# wsgiref hands over the raw bytes of what it knows as latin-1, as PEP 3333 has it; not of this.
os.environ["REQUEST_URI"] = os.environb[b"REQUEST_URI"].decode("latin-1")

from app import app  # noqa: E402 (it reads the settings)

CGIHandler().run(app)
