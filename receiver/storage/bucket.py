"""A storage in a bucket of an object store: S3, what speaks its protocol, and GCS and Azure."""

import fcntl
import logging
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BufferedReader
from itertools import count
from typing import TYPE_CHECKING, BinaryIO, cast

from ..core.naming import sidecar
from ..core.publish import storage_errors
from ..errors import (
    NameExists,
    NameTaken,
    NotStored,
    SettingError,
    StorageFailed,
    StorageFull,
    StorageUnavailable,
)
from ..formats import SIDECARS, format_of
from ..parts import Listed, Name, Outcome, Recording, Stored, warn
from .base import BackEnd, held, spool_folder
from .objects import READ_SIZE, Bucket, Changed, Found, ObjectReader, is_in_use
from .paths import extension_of, is_recording, numbered, original, recording_of
from .sidecars import HOLD
from .trial import in_child

if TYPE_CHECKING:
    from obstore import PutMode

ATTEMPTS = 100  # to publish under a name that others keep taking meanwhile
PATIENCE = 3.0  # seconds for an upload elsewhere to let its recording follow its metadata


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _New:
    """A recording on its way into the bucket."""

    data: bytes | mmap.mmap
    digest: str
    metadata: bytes


class BucketStorage(BackEnd):
    """Recordings as objects at `URL/PATH` in a bucket, as of `s3://BUCKET/PREFIX`.

    The object store's usual environment variables hold the credentials, as AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, and where it is, as AWS_ENDPOINT_URL and AWS_REGION. Every recording has
    its media type, and its SHA-256 in its user metadata as `sha256`; that of the recording that a
    sidecar belongs to is the sidecar's `describes`. A time given to `put` is not kept.

    Nothing is overwritten, because each PUT is conditional. The receivers of one machine take
    turns at a name besides, so that one machine is safe with servers that ignore conditions too.
    """

    def __init__(self, url: str, *, min_free: int = 0, supersede: bool = True) -> None:
        super().__init__(spool_folder(), min_free, supersede)
        self._url = url
        self._bucket = Bucket(url)

    def prepare(self) -> None:
        try:
            with self._locked(""):
                pass
            self.sweep()
            trial = self._bucket.is_conditional
            self._bucket.conditional = trial() if is_in_use() else in_child(trial)
        except StorageUnavailable:
            raise
        except (StorageFailed, StorageFull) as error:
            raise SettingError(f"KZR_STORAGE={self._bucket.name}: {error}") from error
        if not self._bucket.conditional:
            log.warning(
                "%s ignores If-None-Match or If-Match: let the receivers of one machine only store "
                "there, or one may overwrite what another has stored under the same name",
                self._bucket.name,
            )

    def publish(
        self, file: BinaryIO, name: Name, metadata: bytes = b"", *, only_new: bool = False
    ) -> Stored:
        with storage_errors():
            data = _mapped(file)
        new, name = _New(data, sha256(data).hexdigest(), metadata), self.known_as(name)
        with self._locked(str(name)):
            for _ in range(ATTEMPTS):
                with suppress(Changed):
                    return self._publish(new, name, only_new)
        raise StorageUnavailable(f"others keep storing recordings as {name}: try again")

    def _publish(self, new: _New, name: Name, only_new: bool) -> Stored:
        path = _key(str(name))
        may_try = self._bucket.conditional and not new.metadata
        with suppress(Changed):
            if may_try or not self._bucket.head(path):
                self._create(path, new)
                return Stored(Outcome.CREATED, path)
        old = self._bucket.head(path)
        if not old:
            raise Changed
        if only_new:
            raise NameExists(f"a recording is stored as {path}")
        old_digest = self._digest(path, old)
        if old_digest == new.digest:
            self._mend_metadata(path, old, new)
            return Stored(Outcome.IDENTICAL, path)
        kept_as = None
        for number in count(1):
            key = numbered(path, number)
            found = self._bucket.head(key)
            if not found:
                break
            if found.size == len(new.data) and self._digest(key, found) == new.digest:
                return Stored(Outcome.IDENTICAL, path)
            if found.size == old.size and self._digest(key, found) == old_digest:
                kept_as = key  # by a call that broke off
        if not self._supersede:
            raise NameTaken(f"another recording is stored as {path}: it was kept")
        if not kept_as:
            kept_as = key
            self._keep(path, old, old_digest, key)
        self._put_metadata(path, old, new, old_digest)
        for kind in SIDECARS:
            if kind != "json" and self._bucket.head(sidecar(path, kind)):
                self._bucket.delete(sidecar(path, kind))
        self._put(path, new, old.version)
        return Stored(Outcome.SUPERSEDED, path, kept_as.rpartition("/")[2])

    def _create(self, path: str, new: _New) -> None:
        """Store a recording whose name is free; what lies beside it already broke off."""
        key = sidecar(path, "json")
        if new.metadata:
            try:
                self._put_sidecar(key, new.metadata, new.digest, "create")
            except Changed:
                self._put_metadata(path, None, new)
            self._put(path, new)
            return
        if self._bucket.conditional:  # then what is there is nobody's once the name is taken
            self._put(path, new)
        found = self._bucket.head(key)
        if found and found.describes != new.digest:
            self._bucket.delete(key)
        if not self._bucket.conditional:
            self._put(path, new)

    def _put(self, key: str, new: _New, mode: "PutMode" = "create") -> None:
        attributes = {"Content-Type": _media_type(key), "sha256": new.digest}
        self._bucket.put(key, new.data, mode, attributes)

    def _put_metadata(
        self, path: str, old: Found | None, new: _New, old_digest: str | None = None
    ) -> None:
        """Put the metadata beside a recording that is about to follow, in place of the older."""
        key = sidecar(path, "json")
        found = self._settled_metadata(path, old, (old_digest, new.digest))
        if new.metadata:
            self._put_sidecar(key, new.metadata, new.digest, found.version if found else "create")
        elif found:
            self._bucket.delete(key)

    def _put_sidecar(self, key: str, data: bytes, describes: str, mode: "PutMode") -> None:
        attributes = {"Content-Type": _media_type(key), "describes": describes}
        self._bucket.put(key, data, mode, attributes)

    def _settled_metadata(
        self, path: str, old: Found | None, digests: tuple[str | None, ...]
    ) -> Found | None:
        """Look for the metadata beside a recording, or beside the place for one.

        Where it describes neither the recording that is there nor the one that is to be, then it
        is that of an upload elsewhere, or of one that broke off. The first will soon be over.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self._bucket.head(sidecar(path, "json"))
            if not found or found.describes in (None, *digests) or time.monotonic() > deadline:
                return found
            now = self._bucket.head(path)
            if (now and now.version) != (old and old.version):
                raise Changed
            time.sleep(0.1)

    def _mend_metadata(self, path: str, old: Found, new: _New) -> None:
        """Remove or replace metadata of a recording that broke off while it superseded this."""
        found = self._settled_metadata(path, old, (new.digest,))
        if found and found.describes not in (None, new.digest):
            self._put_metadata(path, old, new, found.describes)

    def _keep(self, path: str, old: Found, digest: str, kept_as: str) -> None:
        """Copy a recording that is to be superseded, what lies beside it first."""
        for kind in SIDECARS:
            beside, target = sidecar(path, kind), sidecar(kept_as, kind)
            found = self._bucket.head(beside)
            if found and found.describes in (None, digest):
                data = b"".join(self._bucket.read(beside, found))
                self._put_sidecar(target, data, digest, "overwrite")
            elif self._bucket.head(target):  # of a call that broke off
                self._bucket.delete(target)
        with self.incoming() as copy:
            for chunk in self._bucket.read(path, old):
                copy.write(chunk)
            copy.flush()
            self._put(kept_as, _New(_mapped(copy), digest, b""))

    def _digest(self, key: str, found: Found) -> str:
        if found.digest:
            return found.digest
        digest = sha256()
        for chunk in self._bucket.read(key, found):
            digest.update(chunk)
        return digest.hexdigest()

    def check(self) -> None:
        super().check()
        self._bucket.require(".check")

    def open(self, path: str) -> Recording:
        key = _key(path)
        found = self._bucket.head(key)
        if not found:
            self._bucket.require(key)
            raise NotStored(f"no recording is stored as {path}")
        return Recording(
            cast(BinaryIO, BufferedReader(ObjectReader(self._bucket, key, found), READ_SIZE)),
            found.size,
            found.modified,
            found.etag,
            link=lambda: self._bucket.link(key),
            noted=found.digest or "",
        )

    def scan(self, prefix: str = "", odd: Callable[[str], object] = warn) -> Iterator[Listed]:
        folder = prefix.rpartition("/")[0]
        for each in self._bucket.scan(folder and _key(folder)):
            path, parts = each["path"], each["path"].split("/")
            hidden = any(part.startswith(".") for part in parts)
            if path.startswith(prefix) and not hidden and is_recording(parts[-1]):
                yield Listed(path, each["size"], each["last_modified"].timestamp())

    def sidecars(self) -> Iterator[str]:
        for each in self._bucket.scan(""):
            if recording_of(each["path"]):
                yield each["path"]

    def put(self, path: str, file: BinaryIO, modified: float) -> Outcome:
        key = _key(path)
        with storage_errors():
            data = _mapped(file)
        new = _New(data, sha256(data).hexdigest(), b"")
        with self._locked(path):
            for _ in range(ATTEMPTS):
                with suppress(Changed):
                    self._put(key, new)
                    return Outcome.CREATED
                with suppress(Changed):
                    found = self._bucket.head(key)
                    if found and self._digest(key, found) == new.digest:
                        return Outcome.IDENTICAL
                    if found:
                        raise NameTaken(f"another recording is stored as {path}")
        raise StorageUnavailable(f"others keep storing and removing {path}: try again")

    def attach(self, path: str, kind: str, data: bytes, etag: str) -> None:
        with self._locked(path):
            found, beside = self._stored(path, etag), sidecar(path, kind)
            if not data:
                self._bucket.delete(beside)
                return
            digest = self._digest(path, found)
            self._put_sidecar(beside, data, digest, "overwrite")
            try:
                self._stored(path, etag)
            except NotStored:  # another machine removed the recording, or took its name
                left = self._bucket.head(beside)
                if left and left.describes == digest:
                    self._bucket.delete(beside)
                raise

    def delete(self, path: str, etag: str = "") -> None:
        with self._locked(path):
            self._stored(path, etag)
            if self._bucket.head(sidecar(path, HOLD)):
                raise held(path)
            self._bucket.delete(*(sidecar(path, kind) for kind in SIDECARS))
            self._bucket.delete(path)

    def _stored(self, path: str, etag: str) -> Found:
        found = self._bucket.head(_key(path))
        if not found:
            self._bucket.require(path)
            raise NotStored(f"no recording is stored as {path}")
        if etag and found.etag != etag:
            raise NotStored(f"another recording is stored as {path}")
        return found

    @contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        """Keep this machine's other receivers away from a name and its numbered names.

        Every name has a byte of its own in a file that stays empty. The lock belongs to the open
        file, not to the process, so that threads take turns too; it ends with the process.
        """
        place = sha256(f"{self._url}\0{original(path)}".encode()).digest()[:7]
        byte = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, int.from_bytes(place), 1, 0)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with storage_errors():
            locks = os.open(self.spool / f".kazoo-receiver-{os.geteuid()}.locks", flags, 0o600)
        try:
            with storage_errors():
                fcntl.fcntl(locks, fcntl.F_OFD_SETLKW, byte)
            yield
        finally:
            os.close(locks)


def _key(path: str) -> str:
    """The key of a stored path; one that object stores would change is none."""
    if not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise StorageFailed(f"{path} leads out of the storage")
    return path


def _media_type(path: str) -> str:
    """What a browser may take an object for; never a page, whatever its Call-ID ends in."""
    return format_of(extension_of(path)).media_type


def _mapped(file: BinaryIO) -> bytes | mmap.mmap:
    file.flush()
    if not os.fstat(file.fileno()).st_size:
        return b""  # cannot be mapped
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
