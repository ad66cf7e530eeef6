"""Commands, and what lies beside recordings."""

import os
import subprocess
import sys
from contextlib import closing

from receiver.errors import CatalogUnavailable
from receiver.storage import Storage
from support.paths import PROJECT


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
