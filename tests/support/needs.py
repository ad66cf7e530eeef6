"""What a test needs of the machine: without it, it skips, or fails on CI."""

import os
import shutil

import pytest


def need(program: str) -> str:
    """Return the program's path; without it, a test skips, except on CI, where it fails."""
    if path := shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
        return path
    message = f"{program} is not installed: see the list of packages in tests/run.sh"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def need_root() -> None:
    if os.geteuid() != 0:
        assert os.environ.get("CI") != "true", "run the tests as root on CI"
        pytest.skip("mounting and tracing need root")
