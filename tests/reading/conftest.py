"""A receiver that is read from, on every storage and in every server."""

from collections.abc import Iterator

import pytest

from support.clients import Client
from support.reading import SERVERS, reading


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp(request.param)
    with reading(request.param, folder, request.getfixturevalue) as started:
        yield started
