"""A catalog in each database, and a storage for it."""

import pytest

from receiver.parts import Storage
from receiver.storage import open_storage


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.sqlite"
    return request.getfixturevalue(request.param).new_url()


@pytest.fixture
def catalog(url):
    from receiver.catalog.catalog import Catalog

    catalog = Catalog(url)
    yield catalog
    catalog.close()


@pytest.fixture
def storage(tmp_path) -> Storage:
    return open_storage(str(tmp_path / "recordings"))
