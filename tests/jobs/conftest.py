"""Where work after storing finds recordings."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from receiver.parts import Storage
from receiver.storage import open_storage

if TYPE_CHECKING:
    from support import queues


@pytest.fixture
def storage(tmp_path) -> Storage:
    return open_storage(str(tmp_path / "recordings"))


@pytest.fixture
def catalog(tmp_path):
    from receiver.catalog.catalog import Catalog

    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    yield catalog
    catalog.close()


@pytest.fixture
def start_worker(tmp_path) -> Iterator[Callable[..., "queues.Worker"]]:
    """Start workers of jobs; what a test leaves running ends with it."""
    from support.queues import Worker

    with ExitStack() as stack:

        def start(*shift: Path, **settings: object) -> Worker:
            worker = Worker(tmp_path, *shift, **settings)
            stack.callback(worker.kill)
            return worker

        yield start
