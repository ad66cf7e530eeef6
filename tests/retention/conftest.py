"""Where recordings are kept, held, purged and erased."""

import pytest

from receiver.parts import Storage
from receiver.storage import open_storage


@pytest.fixture
def storage(backend):
    """Each kind of storage, opened in this process."""
    storage = open_storage(backend.url)
    yield storage
    if engine := getattr(storage, "engine", None):
        engine.dispose()


@pytest.fixture
def directory(tmp_path) -> Storage:
    return open_storage(str(tmp_path / "directory"))


@pytest.fixture
def catalog(tmp_path):
    pytest.importorskip("sqlalchemy")
    from receiver.catalog.catalog import Catalog

    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    yield catalog
    catalog.close()
