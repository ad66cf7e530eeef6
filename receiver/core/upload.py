"""The receiver: a PUT, or a POST, becomes a stored recording."""

from functools import partial

from flask import Blueprint, Flask, Response, current_app, request, url_for
from flask.blueprints import BlueprintSetupState

from ..errors import InvalidName
from ..parts import Outcome, exchange, parts
from .naming import NO_NAME, PlainConverter, RecordingConverter, RecordingName

uploads = Blueprint("uploads", __name__)


def at_every_path(app: Flask, blueprint: Blueprint) -> None:
    """Register a blueprint for `KZR_URL_PREFIX`, which stands for the root, and for all folders."""
    if app.config["URL_PREFIX"]:
        app.register_blueprint(blueprint, url_prefix=app.config["URL_PREFIX"])
    app.register_blueprint(blueprint, name=f"{blueprint.name}-folders")


@uploads.record
def know_names(state: BlueprintSetupState) -> None:
    state.app.url_map.converters.update(recording=RecordingConverter, plain=PlainConverter)


@uploads.route("/<recording:name>", methods=["PUT", "POST"])
@uploads.route("/<plain:name>", methods=["PUT", "POST"])
def store(name: RecordingName) -> Response:
    """Answer 201 or 200 once the recording is whole, durable and safe from being overwritten."""
    config, running, body = current_app.config, parts(), exchange().body

    running.access.check_writer(request)
    body.require(config["MAX_BYTES"])
    running.storage.check_space(body.length or 0, name.folder)
    incoming = partial(running.storage.incoming, name.folder)
    with body.as_file(incoming, config["CHUNK_SIZE"]) as file:
        only_new = request.headers.get("If-None-Match", "").strip() == "*"
        stored = running.storage.publish(file, name, body.metadata, only_new=only_new)
        exchange().stored = stored
    if running.jobs:
        running.jobs.add(stored)

    line = f"{stored.outcome}: {stored.path}, {body.received} bytes"
    if stored.kept_as:
        line += f"; the older recording is kept as {stored.kept_as}"
    response = Response(f"{line}\n", mimetype="text/plain")
    if stored.outcome is Outcome.CREATED:
        response.status_code = 201
        # Not with a 200: Apache takes that for an internal redirect (RFC 3875 section 6.2.2).
        url = url_for(".store", name=name)
        if len(url) <= 2048:  # nginx answers 502 to a header of 4 KiB
            response.location = url
    return response


@uploads.route("/", methods=["PUT", "POST"], strict_slashes=False)
def refuse() -> Response:
    """Answer a request for no recording at all."""
    raise InvalidName(NO_NAME)
