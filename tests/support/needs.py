"""What tests need of the machine: without it they skip, except on CI, where nothing may."""

import os
import shutil

import pytest


def need(program: str) -> str:
    """Return the program's path."""
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not path:
        pytest.skip(f"{program} is not installed: see the list of packages in tests/run.sh")
    return path


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting and tracing need root")
