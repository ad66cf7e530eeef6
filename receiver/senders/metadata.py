"""What Kazoo tells about a recording, in the query or in a form's JSON document."""

from typing import Any
from urllib.parse import unquote_to_bytes

from ..errors import IncompleteBody
from ..storage import sidecars

MOST_FIELDS = 64
LONGEST_NAME = 64  # characters
LONGEST_VALUE = 1024  # characters
LONGEST_JSON = 64 * 1024  # bytes


def from_query(query: str) -> dict[str, str]:
    """The fields of a WSGI query string, but for the recording's name and the sender's token.

    Kazoo percent-encodes some characters and sends others, UTF-8 among them, as they are.
    """
    fields: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = (
            unquote_to_bytes(part.encode("latin-1")).decode("utf-8", "replace")
            for part in pair.partition("=")
        )
        if name and name.lower() not in ("token", "recording"):
            if not value.startswith("call_recording_") and len(fields) < MOST_FIELDS:
                fields[name[:LONGEST_NAME]] = value[:LONGEST_VALUE]
    return fields


def from_json(data: bytes) -> dict[str, Any]:
    """The fields of a JSON document; raises `IncompleteBody` unless it holds an object."""
    try:
        document = sidecars.from_json(data)
    except ValueError as error:
        raise IncompleteBody(f"the metadata is no JSON object: {error}") from error
    return dict(list(document.items())[:MOST_FIELDS])
