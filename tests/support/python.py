"""Python in a process of its own, in which the receiver is only what a folder holds of it."""

import os
import subprocess
import sys
from pathlib import Path
from sysconfig import get_path


def environ_with_only(folder: Path) -> dict[str, str]:
    """Without `site`, whose path files would find the rest of an editable installation."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}:{get_path('purelib')}"}


def run_with_only(folder: Path, code: str) -> str:
    """Run code, and return what it prints."""
    shown = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=folder,
        env=environ_with_only(folder),
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout
