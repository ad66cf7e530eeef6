"""Folders beside pytest's own."""

import tempfile
from pathlib import Path

SHARED = "TESTS_SHARED"  # a variable: the folder that all processes of a run share


def world_readable_folder() -> Path:
    """A folder that the servers' own users can enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="receiver-"))
    folder.chmod(0o755)
    return folder
