"""Whether the receiver can do its work, for monitors and load balancers."""

from typing import TYPE_CHECKING

from flask import Blueprint, Response, current_app

from ..errors import ReceiverError
from ..storage import Storage

if TYPE_CHECKING:
    from ..catalog.catalog import Catalog

health = Blueprint("health", __name__)


@health.get("/healthz")
def check() -> Response:
    """Answer 200 where all is well, else 503 with the reason; anybody may ask."""
    return _answer(with_catalog=True)


@health.get("/healthz/storage")
def check_storage() -> Response:
    """Answer 200 while recordings can be stored: they are, with or without the catalog."""
    return _answer(with_catalog=False)


def _answer(*, with_catalog: bool) -> Response:
    storage: Storage = current_app.extensions["storage"]
    catalog: Catalog | None = current_app.extensions.get("catalog")
    try:
        storage.check()
        if catalog and with_catalog:
            catalog.check()
    except ReceiverError as error:
        return Response(f"{error.description}\n", 503, mimetype="text/plain")
    return Response("ok\n", mimetype="text/plain")
