"""Bodies as senders beyond the PHP example's send them: with metadata, and with digests."""

import re
from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ..core.body import Body
from ..errors import IncompleteBody
from ..storage.sidecars import to_json
from . import metadata

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import WSGIEnvironment

_SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):")


class SentBody(Body):
    """A body whose query tells of its recording, and whose SHA-256 may be told (RFC 9530)."""

    def __init__(self, environ: "WSGIEnvironment") -> None:
        super().__init__(environ)
        self.fields: dict[str, Any] = {}  # what a form tells
        self._expected = set(
            _SHA256.findall(environ.get("HTTP_CONTENT_DIGEST", ""))
            + _SHA256.findall(environ.get("HTTP_REPR_DIGEST", ""))
        )
        self._hash = sha256() if self._expected else None

    @property
    def metadata(self) -> bytes:
        told = metadata.from_query(self._environ.get("QUERY_STRING", ""))
        return to_json(told | self.fields)

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        size = super().readinto(buffer)
        if self._hash:
            self._hash.update(memoryview(buffer)[:size])
            if not size:
                self.check_digest(self._hash.digest())
        return size

    def check_digest(self, digest: bytes) -> None:
        """Raise unless the body has the SHA-256 that its sender told, if any."""
        if self._expected - {b64encode(digest).decode()}:
            raise IncompleteBody("the body is not the one that its sha-256 digest tells")
