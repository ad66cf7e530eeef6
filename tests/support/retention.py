"""Commands, and what lies beside recordings."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing

from receiver.core.naming import RecordingName
from receiver.errors import CatalogUnavailable
from receiver.parts import Storage
from support.paths import PROJECT

ACCOUNT = "4f8c2d6ba1e04be39c1d7f60a2b3c4d5"
OTHER_ACCOUNT = "0123456789abcdef0123456789abcdef"
DAY = 24 * 60 * 60
CALL = RecordingName(f"{ACCOUNT}/USER", "abc@10.0.0.1", "mp3")
BARE = RecordingName("", "bare@10.0.0.1", "")
TOLD = {
    "caller_id_number": "+15551234567",
    "caller_id_name": "Ann",
    "callee_id_number": "1001",
    "from": "+15551234567@acme.example.com",
    "to": "1001@acme.example.com",
}


def told(**fields: object) -> bytes:
    return json.dumps(TOLD | fields).encode()


def in_days(days: float) -> float:
    return time.time() + days * DAY


def run(url: str, *arguments: object, answer: str = "", **settings: object):
    """`flask --app app` with a storage and further settings."""
    environ = {name: value for name, value in os.environ.items() if name[:4] != "KZR_"}
    environ |= {f"KZR_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", *map(str, arguments)],
        cwd=PROJECT,
        env=environ | {"KZR_STORAGE": url},
        input=answer,
        capture_output=True,
        text=True,
        timeout=120,
    )


def etag_of(storage: Storage, path: str) -> str:
    with closing(storage.open(path)) as recording:
        return recording.etag


def attach(storage: Storage, path: str, kind: str, data: bytes) -> None:
    storage.attach(path, kind, data, etag_of(storage, path))


class Down:
    """A catalog that cannot be reached."""

    def __getattr__(self, name: str):
        raise CatalogUnavailable("the catalog cannot be reached: refused")
