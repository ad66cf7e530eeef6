"""Whether the receiver can do its work, for monitors and load balancers."""

from flask import Blueprint, Response, current_app, request

from ..access import is_in
from ..errors import ReceiverError
from ..parts import exchange, parts

health = Blueprint("health", __name__)


@health.get("/healthz")
def check() -> Response:
    """Answer 200 where all is well, else 503; anybody may ask.

    The reason, which may name hosts and paths, is in the log, and for `KZR_METRICS_ALLOW`.
    """
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
        exchange().reason = str(error)
        may_know = is_in(request.remote_addr, current_app.config["METRICS_ALLOW"])
        line = str(error) if may_know else "not well: the receiver's log tells why"
        return Response(f"{line}\n", 503, mimetype="text/plain")
    return Response("ok\n", mimetype="text/plain")
