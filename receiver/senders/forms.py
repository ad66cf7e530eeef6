"""Multipart bodies: what Kazoo's `send_multipart` and `base64_encode_data` make of a recording.

The parts carry no file name, so that Werkzeug's form parser would hold the recording in memory and
decode it as text; its streaming decoder does neither.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, BinaryIO

from werkzeug.datastructures import Headers
from werkzeug.sansio.multipart import (
    Data,
    Epilogue,
    Event,
    Field,
    File,
    MultipartDecoder,
    NeedData,
    Preamble,
    State,
)

from ..config import require_parts
from ..core.body import check_written
from ..errors import IncompleteBody
from .metadata import LONGEST_JSON, LONGEST_VALUE, as_text, from_json, note
from .sent import SentBody

READ_SIZE = 64 * 1024  # bytes; a multiple of four, as base64 comes in fours
LONGEST_TEXT = 4 * LONGEST_VALUE  # bytes, in UTF-8
MOST_TEXT = 1024 * 1024  # bytes of all text fields
MOST_PARTS = 256
LONGEST_HEAD = 8 * 1024  # bytes of a part's; and of what is around all parts, which nobody reads
# RFC 2046 section 5.1.1 has more characters for a boundary than a token may hold, and Kazoo uses
# them without quotes.
_BOUNDARY = re.compile(r"""multipart/form-data\b.*?;\s*boundary=(?:"([^"]+)"|([^\s;"]+))""", re.I)
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*(={0,2})")
_KNOWN_STARTS = re.compile(rb"ID3|RIFF|OggS|fLaC|\xff[\xe0-\xff]|some random content", re.DOTALL)


def require_decoder() -> None:
    """Raise `SettingError` where Werkzeug's decoder has not what is overridden below."""
    require_parts(
        "werkzeug", {MultipartDecoder: ("_last_partial_boundary_index", "_parse_headers")}
    )


def boundary(content_type: str) -> bytes | None:
    """The boundary of a multipart body's parts (RFC 7578), None for any other body."""
    match = _BOUNDARY.match(content_type)
    return (match[1] or match[2]).encode("latin-1") if match else None


class FormBody:
    """A body whose recording is one part of a form; otherwise as the body that it wraps."""

    def __init__(self, body: SentBody, boundary: bytes) -> None:
        self._body = body
        self._boundary = boundary

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    @contextmanager
    def as_file(
        self, incoming: Callable[[], AbstractContextManager[BinaryIO]], chunk_size: int
    ) -> Iterator[BinaryIO]:
        """Open a complete local file with the recording, and note what is told of it.

        Raises `IncompleteBody` unless the form holds one recording, with or without text fields,
        and with or without a JSON document before it.
        """
        with incoming() as file:
            form = _Form(file)
            try:
                with self._body.stream() as source:
                    _decode(source, self._boundary, form)
            except ValueError as error:
                raise IncompleteBody(f"the multipart body is broken: {error}") from error
            if not form.has_content:
                raise IncompleteBody(
                    "the multipart body holds no recording: send it as a part with a Content-Type, "
                    "as `curl -F file=@NAME.mp3` does"
                )
            check_written(file, form.size)
            self._body.fields = form.fields
            if not form.may_be_base64 or not _is_base64(file):
                yield file
                return
            with incoming() as decoded:
                _decode_base64(file, decoded)
                yield decoded


class _Form:
    """What a form has held so far."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = 0
        self.json = b""
        self.told: dict[str, str] = {}
        self.in_json = False
        self.in_field = False
        self.field = ""  # the name of the text field that is being read
        self.text = b""
        self.text_size = 0  # of all text fields
        self.has_content = False
        self.may_be_base64 = True
        self.padded = False  # base64 ends with its padding

    def start(self, part: Field | File) -> None:
        content_type = part.headers.get("content-type", "")
        self.in_field = isinstance(part, Field) and not content_type
        is_json = content_type.startswith("application/json")
        self.in_json = is_json and not self.has_content and not self.json
        if self.in_field:
            self.field, self.text = part.name or "", b""
        elif not self.in_json:
            if self.has_content:
                raise ValueError("it holds more than one recording")
            self.has_content = True

    def add(self, data: bytes | bytearray, is_end: bool) -> None:
        if self.in_field:
            self.text_size += len(data)
            if self.text_size > MOST_TEXT:
                raise ValueError(f"its text fields are longer than {MOST_TEXT} bytes")
            self.text = (self.text + data)[:LONGEST_TEXT]
            if is_end:
                note(self.told, self.field, as_text(self.text))
            return
        if self.in_json:
            self.json += data
            if len(self.json) > LONGEST_JSON:
                raise ValueError("its JSON document is too long")
            return
        self.size += self.file.write(data)
        if self.may_be_base64 and data:
            match = _BASE64.fullmatch(data)
            self.may_be_base64 = match is not None and not self.padded
            self.padded = match is not None and bool(match[1])

    @property
    def fields(self) -> dict[str, Any]:
        return self.told | (from_json(self.json) if self.json else {})


class _Decoder(MultipartDecoder):
    """Werkzeug's decoder, with bounds on all that it collects.

    It takes the CR before a boundary for data where what was read so far ends between the boundary
    and the end of its line: https://github.com/pallets/werkzeug/issues/3285
    """

    def __init__(self, boundary: bytes) -> None:
        super().__init__(boundary)
        # The end of a line is waited for through 200 bytes of padding: RFC 2046 sets no limit.
        self._undecided = re.compile(
            rb"(?:\r\n|\n|\r)--%s-{0,2}[ \t]{0,200}\Z" % re.escape(boundary)
        )
        self._parts = 0

    def next_event(self) -> Event:
        """The next event; raises `ValueError` where something other than a part's data is long."""
        is_before, is_head = self.state == State.PREAMBLE, self.state == State.PART
        event = super().next_event()
        collected = len(self.buffer) if isinstance(event, NeedData) else 0
        if isinstance(event, Preamble):
            collected = len(event.data)
        if (is_before or is_head) and collected > LONGEST_HEAD:
            what = "a part's head" if is_head else "what is before its first part"
            raise ValueError(f"{what} is longer than {LONGEST_HEAD} bytes")
        return event

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise ValueError(f"it has more than {MOST_PARTS} parts")
        if len(data) > LONGEST_HEAD:
            raise ValueError(f"a part's head is longer than {LONGEST_HEAD} bytes")
        return super()._parse_headers(data)

    def _last_partial_boundary_index(self, data: bytes | bytearray) -> int:
        end = data[-len(self.boundary) - 210 :]
        if match := self._undecided.search(end):
            return len(data) - len(end) + match.start()
        return super()._last_partial_boundary_index(data)


def _decode(source: BinaryIO, boundary: bytes, form: _Form) -> None:
    decoder = _Decoder(boundary)
    while decoder.state not in (State.EPILOGUE, State.COMPLETE):
        decoder.receive_data(source.read(READ_SIZE) or None)
        while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
            if isinstance(event, Field | File):
                form.start(event)
            elif isinstance(event, Data):
                form.add(event.data, not event.more_data)
    after = len(decoder.buffer)
    while after <= LONGEST_HEAD and (data := source.read(READ_SIZE)):  # it has to be complete too
        after += len(data)
    if after > LONGEST_HEAD:
        raise ValueError(f"what follows its last part is longer than {LONGEST_HEAD} bytes")


def _is_base64(file: BinaryIO) -> bool:
    """Whether the file holds base64 of a recording and could not be the recording itself."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(400)
    file.seek(max(0, size - 4))
    padding = _BASE64.fullmatch(file.read())
    if not size or size % 4 or not padding:
        return False
    known = _KNOWN_STARTS.match(base64.b64decode(start[: len(start) // 4 * 4]))
    return bool(known) or not _KNOWN_STARTS.match(start)


def _decode_base64(source: BinaryIO, target: BinaryIO) -> None:
    source.seek(0)
    size = 0
    try:
        while data := source.read(READ_SIZE):
            size += target.write(base64.b64decode(data, validate=True))
    except binascii.Error as error:
        raise IncompleteBody(f"the recording's base64 is broken: {error}") from error
    check_written(target, size)
