"""A server of the S3 protocol for each class of tests."""

import pytest


@pytest.fixture(scope="class")
def server(request, tmp_path_factory):
    server = request.cls.SERVER(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()
