"""A receiver with the page."""

import shutil
from contextlib import closing

import pytest

from support.receivers import Receiver


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    server = Receiver(
        tmp_path_factory.mktemp("browsed"), catalog="yes", readers="ann:secret jörg:x"
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def catalog(started: Receiver):
    from receiver.catalog.catalog import Catalog

    with closing(Catalog(f"sqlite:///{started.storage}/.catalog.sqlite")) as catalog:
        yield catalog


@pytest.fixture
def receiver(started: Receiver, catalog) -> Receiver:
    """A receiver with nothing in its storage and catalog."""
    catalog.remove(list(catalog.paths()))
    for entry in started.storage.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif not entry.name.startswith("."):  # the catalog
            entry.unlink()
    return started
