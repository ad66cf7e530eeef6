"""What Kazoo tells about a recording, in the query or in a form's JSON document."""

import json
from typing import Any
from urllib.parse import unquote_to_bytes

from ..errors import IncompleteBody

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
        document = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise IncompleteBody(f"the metadata is no JSON object: {error}") from error
    return dict(list(document.items())[:MOST_FIELDS])


def to_bytes(fields: dict[str, Any]) -> bytes:
    """The fields as the text of a JSON file; nothing where there are none."""
    if not fields:
        return b""
    return json.dumps(fields, ensure_ascii=False, indent=1).encode("utf-8", "replace") + b"\n"
