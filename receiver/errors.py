"""Everything that can go wrong, each with its HTTP status and the one line that the sender sees.

Kazoo logs the first line of an error's body, so that line has to tell an administrator what was
wrong and what to do about it.
"""

import math

from werkzeug.exceptions import HTTPException


class SettingError(Exception):
    """A setting is unknown or its value cannot be used; the receiver must not start."""


class ReceiverError(HTTPException):
    """Base of the errors that are answered; `description` is one line of text."""

    description: str
    more_headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.description

    def get_body(self, *args: object, **kwargs: object) -> str:
        return f"{self.description}\n"

    def get_headers(self, *args: object, **kwargs: object) -> list[tuple[str, str]]:
        return [("Content-Type", "text/plain; charset=utf-8"), *self.more_headers]


class InvalidName(ReceiverError):
    """The URL holds no name that a recording could be stored under."""

    code = 400


class IncompleteBody(ReceiverError):
    """The body ended, or its connection broke, before it was complete."""

    code = 400


class Unauthorized(ReceiverError):
    """The request needs credentials (RFC 7617) that it does not have."""

    code = 401
    more_headers = (("WWW-Authenticate", 'Basic realm="recordings", charset="UTF-8"'),)


class Forbidden(ReceiverError):
    """The client may not write from its address, or nobody may read."""

    code = 403


class BodyTimeout(ReceiverError):
    """The body stalled, or took longer than it may."""

    code = 408


class NameTaken(ReceiverError):
    """Another recording has the name, and `KZR_ON_CONFLICT=refuse` is set."""

    code = 409


class Held(ReceiverError):
    """The recording is on legal hold, and stays."""

    code = 409


class NotStored(ReceiverError):
    """No recording has the name."""

    code = 404


class ConditionFailed(ReceiverError):
    """The recording is not the one that the request was made on condition of."""

    code = 412


class NameExists(ReceiverError):
    """A recording has the name, and the request was made on condition that none does.

    `etag` is that of the recording at `path`, where it holds the very bytes of the request.
    """

    code = 412
    path = etag = ""

    @classmethod
    def by(cls, path: str, etag: str) -> "NameExists":
        error = cls(f"a recording is stored as {path}")
        error.path, error.etag = path, etag
        return error


class LengthRequired(ReceiverError):
    """Neither a Content-Length nor chunked framing tells where the body ends."""

    code = 411


class BodyTooLarge(ReceiverError):
    """The body is larger than `KZR_MAX_BYTES`."""

    code = 413


class UnsupportedBody(ReceiverError):
    """The body comes in a form that is not the recording itself."""

    code = 415


class TooManyGuesses(ReceiverError):
    """Credentials that nobody has checked yet, where too many others were wrong (RFC 6585)."""

    code = 429

    def __init__(self, seconds: float) -> None:
        wait = max(1, math.ceil(seconds))
        super().__init__(f"too many wrong credentials came: try again in {wait} s")
        self.more_headers = (("Retry-After", str(wait)),)


class StorageFailed(ReceiverError):
    """The storage failed; nothing was stored, and somebody should look at it."""

    code = 500


class StorageUnavailable(StorageFailed):
    """The storage cannot be reached, or is too slow; nothing was stored, and a retry may work."""

    code = 503
    more_headers = (("Retry-After", "10"),)  # seconds


class Superseded(StorageUnavailable):
    """Another recording took the name while this one was read; a retry finds that one."""


class CatalogUnavailable(ReceiverError):
    """The catalog cannot be reached or fails; recordings are stored all the same."""

    code = 503


class StorageFull(ReceiverError):
    """The storage has no room for the recording (RFC 4918 section 11.5)."""

    code = 507
