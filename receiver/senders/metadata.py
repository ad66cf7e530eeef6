"""What Kazoo tells about a recording, in the query or in a form."""

import json
import re
from codecs import BOM_UTF8, register_error
from typing import Any
from urllib.parse import unquote_to_bytes

from ..errors import IncompleteBody
from ..storage.sidecars import IDS

MOST_FIELDS = 64
LONGEST_NAME = 64  # characters
LONGEST_VALUE = 1024  # characters
LONGEST_JSON = 64 * 1024  # bytes
DEEPEST = 64  # levels of a JSON document: some readers take no more
LONGEST_NUMBER = 300  # digits; what is larger fits into no float, which most readers make of it

# What a query has that is encoded as forms are: no space but as "+", and nothing else as it is, but
# for the characters that some libraries leave (JavaScript's, .NET's).
_AS_FORMS_ARE = re.compile(r"(?:[A-Za-z0-9*._~!'()=&+-]|%(?!20)[0-9A-Fa-f]{2})*")
_INNER_PLUS = re.compile(r"(?<=[^+])\++(?=[^+])")


def from_query(query: str) -> dict[str, str]:
    """The fields of a WSGI query string, but for the recording's name and the sender's token.

    Kazoo percent-encodes some characters and sends others, UTF-8 among them, as they are; a space
    is never "+". Where all of a query is encoded as forms are, it is, in names and in numbers, of
    which the first "+" is their own.
    """
    fields: dict[str, str] = {}
    is_form = _AS_FORMS_ARE.fullmatch(query) is not None
    for pair in query.split("&"):
        sent, _, value = pair.partition("=")
        name = _decoded(sent)
        if is_form and name.lower().endswith(("name", "number")):
            value = _INNER_PLUS.sub(lambda match: " " * len(match[0]), value)
        note(fields, name, _decoded(value))
    return fields


def _decoded(text: str) -> str:
    if text.isascii() and "%" not in text:  # as most is
        return text
    return as_text(unquote_to_bytes(text.encode("latin-1")))


def note(fields: dict[str, str], name: str, value: str) -> None:
    """Add a field where there is room, unless it is the recording's name or a token.

    For an id there always is, and an empty one does not count: it tells recordings apart.
    """
    name = name[:LONGEST_NAME]
    if name and name.lower() not in ("token", "recording"):
        if not value.startswith("call_recording_") and (value or name not in IDS):
            if name in fields or name in IDS or len(fields) < MOST_FIELDS:
                fields[name] = value[:LONGEST_VALUE]


def from_json(data: bytes) -> dict[str, Any]:
    """The fields of a JSON document; raises `IncompleteBody` unless it holds an object.

    What other readers would not take is text in it: `NaN`, and numbers that are too large.
    """
    encoding = json.detect_encoding(data)
    try:
        is_utf8 = encoding.startswith("utf-8")
        text = as_text(data.removeprefix(BOM_UTF8)) if is_utf8 else data.decode(encoding)
        document = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=str)
        if not isinstance(document, dict):
            raise ValueError("it is no object")
        _check_depth(document)
    except (ValueError, RecursionError) as error:
        reason = error if isinstance(error, ValueError) else _TOO_DEEP
        raise IncompleteBody(f"the metadata is no JSON object: {reason}") from error
    kept = [*document][:MOST_FIELDS] + [name for name in IDS if name in document]
    return {name[:LONGEST_NAME]: _bounded(document[name]) for name in kept}


def _bounded(value: Any) -> Any:
    """A value of JSON whose names and texts are as long as those of a query may be."""
    if isinstance(value, str):
        return value[:LONGEST_VALUE]
    if isinstance(value, list):
        return [_bounded(each) for each in value]
    if isinstance(value, dict):
        return {name[:LONGEST_NAME]: _bounded(each) for name, each in value.items()}
    return value


_TOO_DEEP = f"it is nested more than {DEEPEST} levels deep"


def _number(text: str) -> int | float | str:
    if len(text) > LONGEST_NUMBER:
        return text
    if text.lstrip("-").isdigit():
        return int(text)
    number = float(text)
    return text if number in (float("inf"), float("-inf")) else number


def _check_depth(document: dict[str, Any]) -> None:
    level: list[Any] = [document]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(_TOO_DEEP)


def as_text(data: bytes) -> str:
    """Text in UTF-8; bytes that are not are in Windows-1252, as of older systems."""
    return data.decode("utf-8", "windows-1252")


def _older(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)  # noqa: S101 - for mypy: nothing else decodes
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


register_error("windows-1252", _older)
