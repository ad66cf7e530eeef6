"""A request's body as one complete local file: counted, bounded, never partial."""

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, BinaryIO

from ..errors import (
    BodyTimeout,
    BodyTooLarge,
    IncompleteBody,
    LengthRequired,
    ReceiverError,
    StorageFailed,
    UnsupportedBody,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import WSGIEnvironment

READ_AHEAD = 256 * 1024  # bytes; small reads straight from a WSGI server's input are slow
DRAIN_BYTES = 64 * 1024 * 1024
DRAIN_SECONDS = 15.0
# In a WSGI environment: the server takes in what comes after an answer.
LINGERS = "receiver.lingers"


class Body(io.RawIOBase):
    """The body of one request, read at most once and never past its end or past a failure.

    WSGI servers end the stream of a client that went away like that of a complete body, so the
    bytes are counted: only a body that has its whole Content-Length, or its last chunk, ends.
    """

    def __init__(self, environ: "WSGIEnvironment") -> None:
        self._environ = environ
        self._input = environ["wsgi.input"]
        self._ended = False
        self._max_bytes: int | None = None
        self.received = 0
        length = environ.get("CONTENT_LENGTH") or ""
        self.length = int(length) if length.isascii() and length.isdigit() else None

    @property
    def metadata(self) -> bytes:
        """What the sender told of the recording; the PHP example has no use for it."""
        return b""

    def require(self, max_bytes: int) -> None:
        """Raise unless the body is whole, uncompressed and no larger than `max_bytes`."""
        header = self._environ.get
        coding = header("HTTP_TRANSFER_ENCODING", "").strip().lower()
        if coding not in ("", "chunked"):
            raise UnsupportedBody("a Transfer-Encoding other than chunked: send the file as it is")
        if header("HTTP_CONTENT_ENCODING", "identity").strip().lower() != "identity":
            raise UnsupportedBody("a Content-Encoding: send the recording uncompressed")
        if header("HTTP_CONTENT_RANGE"):
            raise IncompleteBody("a Content-Range: send the whole recording (RFC 9110 14.4)")
        self.require_length()
        self._max_bytes = max_bytes
        self.check_size(self.length or 0)

    def require_length(self) -> None:
        """Raise unless the server can tell where the body ends."""
        if not self._has_end:
            raise LengthRequired(
                "no length: send a Content-Length (handed over by nginx? set KZR_HANDOVER_DIR)"
            )

    @property
    def _has_end(self) -> bool:
        # Only a server that ends the stream itself can hand over a body of unknown length.
        chunked = self._environ.get("HTTP_TRANSFER_ENCODING")
        return self.length is not None or bool(
            chunked and self._environ.get("wsgi.input_terminated")
        )

    def check_size(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise BodyTooLarge(
                f"the recording is larger than KZR_MAX_BYTES ({self._max_bytes} bytes)"
            )

    @contextmanager
    def as_file(
        self, incoming: Callable[[], AbstractContextManager[BinaryIO]], chunk_size: int
    ) -> Iterator[BinaryIO]:
        """Open a complete local file with the body, read in pieces of `chunk_size` bytes.

        `incoming` opens the file that it is written to.
        """
        with self.stream() as source, incoming() as file:
            while data := source.read(chunk_size):
                file.write(data)
            check_written(file, self.received)
            yield file

    @contextmanager
    def stream(self) -> Iterator[BinaryIO]:
        """Open the body for reading; its end is only seen where it is complete."""
        yield io.BufferedReader(self, READ_AHEAD)

    def drain(self) -> None:
        """Read and discard a bounded rest of the body, before an error is answered.

        Erlang's httpc sends a body to its end before it reads, and sees a closed connection
        in place of the answer if the server closes first. Of a body without an end, nobody knows
        whether anything will come; but CGI's input ends.
        """
        has_end = self._has_end or self._environ.get("wsgi.run_once")
        if not has_end or self._environ.get(LINGERS):
            return
        deadline = time.monotonic() + DRAIN_SECONDS
        self._max_bytes = self.received + DRAIN_BYTES
        scratch = bytearray(64 * 1024)
        try:
            while self.readinto(scratch) and time.monotonic() < deadline:
                pass
        except ReceiverError:
            pass

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        wanted = len(view)
        if self.length is not None:
            wanted = min(wanted, self.length - self.received)
        if self._ended or wanted == 0:
            self._ended = True
            return 0
        self._ended = True  # until this read has succeeded: a read after a failed one may give junk
        try:
            data = self._input.read(wanted)
        except TimeoutError as error:
            raise BodyTimeout("the body stalled or came too slowly") from error
        except Exception as error:  # servers raise what they like for a broken body
            raise IncompleteBody(f"the body broke off after {self.received} bytes") from error
        if not data and self.length is not None:
            raise IncompleteBody(f"the body ended after {self.received} of {self.length} bytes")
        if not data:
            return 0
        self._ended = False
        self.received += len(data)
        self.check_size(self.received)
        view[: len(data)] = data
        return len(data)


def check_written(file: BinaryIO, size: int) -> None:
    """Raise unless the file on disk has all `size` bytes that were written to it."""
    file.flush()
    if os.fstat(file.fileno()).st_size != size:
        raise StorageFailed("the disk did not take all that was written to it")
