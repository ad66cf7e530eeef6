"""Whether the receiver can do its work, for monitors and load balancers."""

from flask import Blueprint, Response

from ..errors import ReceiverError
from ..parts import parts

health = Blueprint("health", __name__)


@health.get("/healthz")
def check() -> Response:
    """Answer 200 where all is well, else 503 with the reason; anybody may ask."""
    return _answer(with_catalog=True)


@health.get("/healthz/storage")
def check_storage() -> Response:
    """Answer 200 while uploads are acknowledged: they are, with or without the catalog."""
    return _answer(with_catalog=False)


def _answer(*, with_catalog: bool) -> Response:
    running = parts()
    try:
        running.storage.check()
        if running.jobs:
            running.jobs.check()
        if running.catalog and with_catalog:
            running.catalog.check()
    except ReceiverError as error:
        return Response(f"{error}\n", 503, mimetype="text/plain")
    return Response("ok\n", mimetype="text/plain")
