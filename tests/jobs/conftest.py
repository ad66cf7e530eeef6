"""Where work after storing finds recordings."""

import pytest

from receiver.parts import Storage
from receiver.storage import open_storage


@pytest.fixture
def storage(tmp_path) -> Storage:
    return open_storage(str(tmp_path / "recordings"))


@pytest.fixture
def catalog(tmp_path):
    from receiver.catalog.catalog import Catalog

    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    yield catalog
    catalog.close()
