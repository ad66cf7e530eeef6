"""Object stores: S3, what speaks its protocol, and GCS and Azure, through obstore."""

import math
import mmap
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import md5
from io import SEEK_CUR, SEEK_END, RawIOBase
from operator import itemgetter
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store, from_url

from ..errors import StorageFailed, StorageFull, StorageUnavailable, Superseded
from ..parts import warn
from ..shown import shown
from . import LARGEST_OBJECT

if TYPE_CHECKING:
    from obstore import Attributes, GetOptions, ObjectMeta, PutMode, UpdateVersion
    from obstore.store import ClientConfig, RetryConfig

CONNECT_TIMEOUT = timedelta(seconds=5)
TIMEOUT = timedelta(seconds=20)  # for a request, and as long again for each `TIMED_SIZE` of it
TIMED_SIZE = 16 * 1024 * 1024  # bytes
LONGEST_READ = timedelta(days=1)  # players pause
READ_SIZE = 256 * 1024  # bytes
LINK_LASTS = timedelta(minutes=10)

_FULL = ("QuotaExceeded", "QuotaExceededException", "XMinioStorageFull")
_runtime: int | None = None  # the process that obstore has started its threads in


class Changed(Exception):
    """An object is not as the request's condition had it: somebody else was faster."""


class _Unlisted(Exception):
    """A page of a listing has a key that obstore does not take, and nothing of it was handed on."""


class _NotPartial(Exception):
    """The server sent a part, but called it the whole, as `rclone serve s3` does."""


@dataclass(frozen=True)
class Found:
    """An object in the bucket.

    `digest` is the SHA-256 that its writer noted, `describes` that of the recording which a
    sidecar belongs to, and `received` the time of receipt; each is None where nobody noted it or
    the server has forgotten it.
    """

    size: int
    changed: float
    version: "UpdateVersion"
    digest: str | None
    describes: str | None
    received: float | None

    @property
    def modified(self) -> float:
        return self.changed if self.received is None else self.received

    def tag(self) -> str:
        """The server's own ETag, "" where it gives none."""
        return plain_tag(self.version.get("e_tag"))

    @property
    def etag(self) -> str:
        """What tells a recording from others; its copies have the same, where the server can."""
        if self.digest and self.received is not None:
            return etag_of(self.digest, self.received)
        return self.tag() or f"{self.size:x}-{self.changed:.0f}"


class Bucket:
    """The objects below a prefix in a bucket; any thread and process may use it.

    `conditional` tells whether the server knows conditions on a PUT (RFC 9110 section 13). Where
    it does not, they are checked before, and the caller has to keep others away meanwhile.
    `tells_md5` is whether an ETag is known to be the MD5 of what an object holds, and
    `keeps_attributes` whether what is noted with an object can be read again.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self.conditional = True
        self.tells_md5 = False
        self.keeps_attributes = True
        self._url = url
        self._stores: dict[tuple[int, timedelta], S3Store | GCSStore | AzureStore] = {}

    def try_out(self) -> tuple[bool, bool, bool]:
        """Try whether the bucket can be used.

        Returns its `conditional`, its `tells_md5` and its `keeps_attributes`.
        """
        key = f".trial-{os.urandom(8).hex()}"
        first = self.put(key, b"1", "overwrite", {"sha256": "1"})
        found = self.head(key)
        try:
            refused = self._refuses(key, "create")
            self.put(key, b"2", first, {})
            conditional = refused and self._refuses(key, first)
        except StorageUnavailable:
            raise
        except (Changed, StorageFailed):
            conditional = False
        self.delete(key)
        self.head(key)  # S3 does not tell what is absent to those who may not list
        keeps = found is not None and found.digest == "1"
        return conditional, plain_tag(first.get("e_tag")) == md5_of(b"1"), keeps

    def _refuses(self, key: str, mode: "PutMode") -> bool:
        try:
            self.put(key, b"3", mode, {})
        except Changed:
            return True
        return False

    def head(self, key: str) -> Found | None:
        try:
            with self._errors():
                answer = obstore.get(self._store(), key, options={"head": True})
        except FileNotFoundError:
            return None
        meta, attributes = answer.meta, answer.attributes
        return Found(
            meta["size"],
            meta["last_modified"].timestamp(),
            _version(meta["e_tag"], meta["version"]),
            attributes.get("sha256"),
            attributes.get("describes"),
            _time(attributes.get("received")),
        )

    def heads(self, keys: Sequence[str]) -> list[Found | None]:
        """What is at each of some keys, asked at once."""
        with ThreadPoolExecutor(len(keys)) as pool:
            return list(pool.map(self.head, keys))

    def put(
        self, key: str, data: bytes | mmap.mmap, mode: "PutMode", attributes: "Attributes"
    ) -> "UpdateVersion":
        """Store an object whole, if `mode` allows it; raise `Changed` if it does not.

        It is one request, whatever the size: what S3 puts together from parts on a condition
        loses its attributes, and other servers cannot at all. The pages of a mapped file may be
        dropped again, so that memory does not limit the size.
        """
        if len(data) > LARGEST_OBJECT:
            raise StorageFailed("a bucket takes no object over 5 GiB: set KZR_MAX_BYTES=5G")
        if not self.conditional and mode != "overwrite":
            found = self.head(key)
            if (found and found.version) != (None if mode == "create" else mode):
                raise Changed
            mode = "overwrite"
        store = self._store(TIMEOUT * (1 + len(data) // TIMED_SIZE))
        try:
            with self._errors():
                result = obstore.put(
                    store, key, data, mode=mode, attributes=attributes, use_multipart=False
                )
                return _version(result["e_tag"], result["version"])
        except (AlreadyExistsError, PreconditionError):
            raise Changed from None
        except FileNotFoundError:
            raise self._missing() from None

    def read(self, key: str, found: Found, offset: int = 0) -> Iterator[bytes]:
        """Read an object from `offset` on; raise `Changed` if it is not as it was found."""
        try:
            yield from self._read(key, found, offset)
        except _NotPartial:
            for chunk in self._read(key, found, 0):
                if offset < len(chunk):
                    yield chunk[offset:]
                offset = max(0, offset - len(chunk))

    def _read(self, key: str, found: Found, offset: int) -> Iterator[bytes]:
        options: GetOptions = {"range": {"offset": offset}} if offset else {}
        try:
            with self._errors():
                answer = obstore.get(self._store(LONGEST_READ), key, options=options)
                if answer.meta["e_tag"] != found.version.get("e_tag"):
                    raise Changed
                yield from map(bytes, answer.stream(READ_SIZE))
        except FileNotFoundError:
            raise Changed from None

    def delete(self, *keys: str) -> None:
        if not keys:
            return
        with suppress(FileNotFoundError), self._errors():
            obstore.delete(self._store(), keys)

    def scan(
        self, folder: str, after: str = "", odd: Callable[[str], object] = warn
    ) -> "Iterator[ObjectMeta]":
        """List what is in a folder, in the order of the keys, and only what comes `after` one.

        `odd` is called with a line for each folder that has a key like `a//b` or `a/../b`.
        """
        last = after
        try:
            with self._errors():
                for chunk in obstore.list(self._store(), folder or None, offset=after or None):
                    for each in chunk:
                        last = each["path"]
                        yield each
        except _Unlisted:
            yield from self._by_folders(folder, last, odd)

    def _by_folders(
        self, folder: str, after: str, odd: Callable[[str], object]
    ) -> "Iterator[ObjectMeta]":
        """List folder by folder, and pass over those with a key that obstore does not take."""
        try:
            with self._errors():
                found = obstore.list_with_delimiter(self._store(), folder or None)
        except _Unlisted as error:
            odd(shown(f"{folder or self.name}: passed over: {error}: rename or remove it"))
            return
        below: list[tuple[str, ObjectMeta | None]] = [
            *((each["path"], each) for each in found["objects"]),
            *((f"{each}/", None) for each in found["common_prefixes"]),
        ]
        for key, meta in sorted(below, key=itemgetter(0)):
            if meta and key > after:
                yield meta
            elif not meta and (key > after or after.startswith(key)):
                yield from self._by_folders(key[:-1], after, odd)

    def require(self, key: str) -> None:
        """Raise `StorageFailed` if it is for want of a bucket that there is no such object."""
        try:
            with self._errors():
                obstore.get(self._store(), key)
        except FileNotFoundError as error:
            if _code(str(error)) in ("NoSuchBucket", "ContainerNotFound"):
                raise self._missing() from None

    def link(self, key: str) -> str:
        with self._errors():
            return obstore.sign(self._store(), "GET", key, LINK_LASTS)

    def _missing(self) -> StorageFailed:
        return StorageFailed(f"there is no bucket {self.name}: create it")

    def _store(self, timeout: timedelta | None = None) -> S3Store | GCSStore | AzureStore:
        """This process's client that gives a request so much time."""
        global _runtime
        process, timeout = os.getpid(), timeout or TIMEOUT
        if _runtime not in (None, process):  # it would wait forever for threads it does not have
            raise StorageFailed("the process was forked after it had used the bucket: restart it")
        _runtime = process
        store = self._stores.get((process, timeout))
        if not store:
            client: ClientConfig = {
                "allow_http": True,  # where AWS_ENDPOINT_URL says so
                "connect_timeout": CONNECT_TIMEOUT,
                "timeout": timeout,
            }
            if timeout == LONGEST_READ:
                client["read_timeout"] = TIMEOUT
            retry: RetryConfig = {
                "max_retries": 2,
                "retry_timeout": TIMEOUT / 2,
                "backoff": {"max_backoff": timedelta(seconds=1)},
            }
            try:
                opened = from_url(self._url, client_options=client, retry_config=retry)
            except (BaseError, ValueError) as error:
                reason = _first_line(str(error)).replace(self._url, self.name)
                raise StorageFailed(f"{reason}: check the URL and the environment") from None
            store = self._stores[process, timeout] = cast("S3Store | GCSStore | AzureStore", opened)
        return store

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn obstore's errors into the storage's, but those about what is or is not there."""
        try:
            yield
        except (AlreadyExistsError, PreconditionError):
            raise
        except BaseError as error:
            raise self._translated(str(error)) from None  # it is many lines long

    def _translated(self, text: str) -> Exception:
        if "NotPartial" in text:
            return _NotPartial()
        if bad := re.search(r'object with invalid path: .*?[Pp]ath "([^"]*)"', text):
            return _Unlisted(f"{bad[1]} is no name of a recording")
        match = re.search(r"status code: (\d{3})", text)
        status, code = int(match[1]) if match else 0, _code(text)
        if "/latest/api/token" in text:
            return StorageFailed("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        reason = f"{self.name} answers {status} {code}".rstrip()
        if status == 507 or code in _FULL:
            return StorageFull(f"the bucket is full: {reason}")
        if status == 416:  # it is smaller than it was found
            return Changed()
        if status in (401, 403):
            return StorageFailed(
                f"access denied: {reason}: check the credentials, and that they allow to list the "
                "bucket, and to get, put and delete objects"
            )
        if code in ("NoSuchBucket", "ContainerNotFound"):
            return self._missing()
        if status == 429 or status >= 500 and status != 501:
            return StorageUnavailable(f"the bucket is not available: {reason}")
        if status:
            return StorageFailed(f"the bucket failed: {reason}")
        if "HttpError" in text or "reqwest" in text:
            told = re.search(r'(?:message|error): "([^"]+)"|(InvalidCertificate|TimedOut)', text)
            why = told[1] or told[2] if told else "connection broken"
            return StorageUnavailable(f"the bucket cannot be reached: {self.name}: {why}")
        return StorageFailed(f"the bucket failed: {_first_line(text)}")


class ObjectReader(RawIOBase):
    """An object as a file; its bytes are those it had when it was found, or reading fails."""

    def __init__(self, bucket: Bucket, key: str, found: Found) -> None:
        self._bucket = bucket
        self._key = key
        self._found = found
        self._position = 0
        self._chunks: Iterator[bytes] | None = None
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + {SEEK_CUR: self._position, SEEK_END: self._found.size}.get(whence, 0)
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        if position != self._position:
            self._stop()
            self._position = position
        return position

    def readinto(self, buffer: object) -> int:
        # A buffer, which has no type of its own before Python 3.12.
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if self._position >= self._found.size:
            return 0
        if not self._chunk:
            try:
                self._chunks = self._chunks or self._bucket.read(
                    self._key, self._found, self._position
                )
                self._chunk = memoryview(next(self._chunks, b""))
            except Changed:
                raise Superseded(f"{self._key} was superseded while it was read") from None
            if not self._chunk:
                raise StorageUnavailable(f"{self._key} ended early")
        size = min(len(target), len(self._chunk))
        target[:size] = self._chunk[:size]
        self._chunk = self._chunk[size:]
        self._position += size
        return size

    def close(self) -> None:
        self._stop()
        super().close()

    def _stop(self) -> None:
        self._chunks, self._chunk = None, memoryview(b"")


def is_in_use() -> bool:
    """Whether this process has started obstore's threads."""
    return _runtime == os.getpid()


def etag_of(digest: str, received: float) -> str:
    """The ETag of a recording, which tells it from the same bytes when they come again later."""
    return f"{digest}-{round(received * 1e6):x}"


def plain_tag(tag: str | None) -> str:
    """An ETag without what HTTP puts around it."""
    return (tag or "").removeprefix("W/").strip('"')


def md5_of(data: bytes | mmap.mmap) -> str:
    """What most stores have as the ETag of an object."""
    return md5(data, usedforsecurity=False).hexdigest()


def _time(text: str | None) -> float | None:
    with suppress(ValueError):
        if math.isfinite(told := float(text or "")):
            return told
    return None


def _version(e_tag: str | None, version: str | None) -> "UpdateVersion":
    """What tells one content of an object from the next; stores need one of both, or both."""
    told: UpdateVersion = {}
    if e_tag:
        told["e_tag"] = e_tag
    if version:
        told["version"] = version
    return told


def _code(text: str) -> str:
    match = re.search(r"<Code>(\w+)</Code>", text)
    return match[1] if match else ""


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:200]
