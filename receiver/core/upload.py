"""The receiver: a PUT, or a POST, becomes a stored recording."""

from flask import Blueprint, Response, current_app, g, request, url_for

from ..access import Access
from ..errors import InvalidName
from ..senders import metadata
from ..storage import Outcome, Storage
from .naming import NO_NAME, RecordingName

uploads = Blueprint("uploads", __name__)


@uploads.route("/<recording:name>", methods=["PUT", "POST"])
@uploads.route("/<plain:name>", methods=["PUT", "POST"])
def store(name: RecordingName) -> Response:
    """Answer 201 or 200 once the recording is whole, durable and safe from being overwritten."""
    config = current_app.config
    access: Access = current_app.extensions["access"]
    storage: Storage = current_app.extensions["storage"]

    access.check_writer(request)
    g.body.require(config["MAX_BYTES"])
    storage.check_space(g.body.length or 0)
    with g.body.as_file(storage.incoming, config["CHUNK_SIZE"]) as file:
        only_new = request.headers.get("If-None-Match", "").strip() == "*"
        g.stored = stored = storage.publish(file, name, _metadata(), only_new=only_new)
    if jobs := current_app.extensions.get("jobs"):
        jobs.add(stored)

    line = f"{stored.outcome}: {stored.path}, {g.body.received} bytes"
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


def _metadata() -> bytes:
    """What the sender tells about the recording, as the text of its JSON file."""
    told = metadata.from_query(request.environ.get("QUERY_STRING", ""))
    return metadata.to_bytes(told | g.body.fields)


@uploads.route("/", methods=["PUT", "POST"], strict_slashes=False)
def refuse() -> Response:
    """Answer a request for no recording at all."""
    raise InvalidName(NO_NAME)
