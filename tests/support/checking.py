"""The command that checks a deployed receiver."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from support.paths import PROJECT
from support.receivers import Receiver


class Checked:
    """What the command printed, by the first word of its lines."""

    def __init__(self, url: str, *, cwd: Path = PROJECT, **settings: object) -> None:
        environ = {name: value for name, value in os.environ.items() if name[:4] != "KZR_"}
        result = subprocess.run(
            [sys.executable, "-m", "flask", "--app", str(PROJECT / "app.py"), "check", url],
            cwd=cwd,
            env=environ | {f"KZR_{name.upper()}": str(value) for name, value in settings.items()},
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.status, self.text, self.errors = result.returncode, result.stdout, result.stderr
        assert "Traceback" not in self.text + self.errors
        lines = self.text.splitlines()
        self.ok = [line[5:] for line in lines if line.startswith("ok   ")]
        self.notes = [line[5:] for line in lines if line.startswith("note ")]
        self.failed = [
            f"{line[5:]} ->{advice[4:]}"
            for line, advice in pairwise(lines)
            if line.startswith("FAIL ")
        ]


def url_of(server: Receiver, credentials: str = "", path: str = "/kzr") -> str:
    return f"http://{credentials}127.0.0.1:{server.port}{path}"
