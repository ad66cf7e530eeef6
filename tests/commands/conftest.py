"""A service that commands are run for."""

import shutil
from collections.abc import Iterator

import pytest

from support.fronts import world_readable_folder
from support.shell import Service


@pytest.fixture
def service() -> Iterator[Service]:
    folder = world_readable_folder()
    yield Service(folder)
    shutil.rmtree(folder)
