"""A storage in a bucket of an object store: S3, what speaks its protocol, and GCS and Azure."""

import logging
import mmap
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from io import BufferedReader
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
from .locks import Locks
from .objects import (
    READ_SIZE,
    Bucket,
    Changed,
    Found,
    ObjectReader,
    etag_of,
    is_in_use,
    md5_of,
    plain_tag,
)
from .paths import (
    extension_of,
    is_recording,
    newest_first,
    number_of,
    numbered,
    older_beside,
    original,
    recording_of,
    stems,
)
from .sidecars import HOLD, LONGEST
from .trial import in_child

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode

ATTEMPTS = 100  # to publish under a name that others keep taking meanwhile
_UNKEYED = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # the last are bytes that are not UTF-8
PATIENCE = 3.0  # seconds for an upload elsewhere to let its recording follow its metadata

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _New:
    """A recording on its way into the bucket."""

    data: bytes | mmap.mmap
    digest: str
    metadata: bytes
    received: float


class _Dated(Listed):
    """A recording whose time of receipt the bucket is asked for once somebody needs it.

    A listing tells only when an object was written, which is later where it was copied.
    """

    def __init__(self, bucket: Bucket, meta: "ObjectMeta") -> None:
        vars(self).update(path=meta["path"], size=meta["size"], bucket=bucket, meta=meta)

    @cached_property
    def modified(self) -> float:
        bucket, meta = vars(self)["bucket"], vars(self)["meta"]
        found: Found | None = bucket.head(self.path)
        return found.modified if found else meta["last_modified"].timestamp()


class BucketStorage(BackEnd):
    """Recordings as objects at `URL/PATH` in a bucket, as of `s3://BUCKET/PREFIX`.

    The object store's usual environment variables hold the credentials, as AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, and where it is, as AWS_ENDPOINT_URL and AWS_REGION. Every recording has
    its media type, and in its user metadata its SHA-256 as `sha256` and its time of receipt (POSIX)
    as `received`; the SHA-256 of the recording that a sidecar belongs to is the sidecar's
    `describes`.

    Nothing is overwritten, because each PUT is conditional. The receivers of one machine take
    turns at a name besides, so that one machine is safe with servers that ignore conditions too.
    """

    def __init__(self, url: str, *, min_free: int = 0, supersede: bool = True) -> None:
        super().__init__(spool_folder(), min_free, supersede)
        self._url = url
        self._bucket = Bucket(url)
        self._locks = Locks(url, self.spool, self._bucket)

    def prepare(self) -> None:
        try:
            self.sweep()
            trial = self._bucket.try_out
            bucket = self._bucket
            found = trial() if is_in_use() else in_child(trial)
            bucket.conditional, bucket.tells_md5, bucket.keeps_attributes = found
            with self._locks.locked(""):
                pass
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
            received = os.fstat(file.fileno()).st_mtime
        name = self.known_as(name)
        new = _New(data, sha256(data).hexdigest(), metadata, received)
        with self._locks.locked(str(name)):
            for _ in range(ATTEMPTS):
                with suppress(Changed):
                    return self._publish(new, name, only_new)
        raise StorageUnavailable(f"others keep storing recordings as {name}: try again")

    def _publish(self, new: _New, name: Name, only_new: bool) -> Stored:
        path = _key(str(name))
        there = self._around(path)
        old = there.pop("", None)
        if not old:
            return Stored(Outcome.CREATED, path, etag=self._create(path, new, there))
        old_digest = self._digest(path, old)
        if old_digest == new.digest:
            if only_new:
                raise NameExists.by(path, old.etag)
            self._mend_metadata(path, old, new)
            return Stored(Outcome.IDENTICAL, path, etag=old.etag)
        older = self._older(path)
        same = self._among(older, len(new.data), new.digest, lambda: md5_of(new.data))
        if only_new:
            raise NameExists.by(path, same[1] if same else "")
        if same:
            return Stored(Outcome.IDENTICAL, path, etag=same[1])
        if not self._supersede:
            raise NameTaken(f"another recording is stored as {path}: it was kept")
        broken = self._among(older, old.size, old_digest, old.tag)
        if broken:  # the call that kept it
            kept_as = broken[0]
        else:
            kept_as = numbered(path, max(map(number_of, older), default=0) + 1)
            self._keep(path, old, old_digest, kept_as)
        self._put_metadata(path, old, new, old_digest)
        beside = self._around(path)
        self._bucket.delete(*(sidecar(path, kind) for kind in beside if kind not in ("", "json")))
        etag = self._put(path, new, old.version)
        return Stored(Outcome.SUPERSEDED, path, kept_as.rpartition("/")[2], etag)

    def _adopt(self, path: str) -> None:
        """Give what an earlier release put beside a recording the name that it has today."""
        for kind in SIDECARS:
            old, beside = older_beside(path, kind), sidecar(path, kind)
            if old and (found := self._bucket.head(old)):
                try:
                    data = b"".join(self._bucket.read(old, found))
                except Changed:  # another machine was faster
                    continue
                with suppress(Changed):  # that has come since is right
                    self._put_sidecar(beside, data, found.describes, "create")
                self._bucket.delete(old)

    def _around(self, path: str) -> dict[str, Found]:
        """What is at a stored path, as "", and what lies beside it, by its kind."""
        self._adopt(path)
        keys = [path, *(sidecar(path, kind) for kind in SIDECARS)]
        found = zip(("", *SIDECARS), self._bucket.heads(keys), strict=True)
        return {kind: each for kind, each in found if each}

    def _older(self, name: str) -> "dict[str, ObjectMeta]":
        """The recordings that were superseded at a name, the newest first."""
        found = {}
        for stem in stems(name):
            for each in self._bucket.scan(name.rpartition("/")[0], after=f"{stem}~"):
                path = each["path"]
                if not path.startswith(f"{stem}~"):
                    break
                if is_recording(path.rpartition("/")[2]) and original(path) == name:
                    found[path] = each
        return {path: found[path] for path in newest_first(found)}

    def _among(
        self, older: "dict[str, ObjectMeta]", size: int, digest: str, etag: Callable[[], str]
    ) -> tuple[str, str] | None:
        """The path and the ETag of the recording that has those bytes.

        Those of the same size are asked for their SHA-256, unless their ETags tell enough.
        """
        same = [path for path, each in older.items() if each["size"] == size]
        if same and self._bucket.tells_md5:
            wanted = etag()
            same = [path for path in same if _may_be(plain_tag(older[path]["e_tag"]), wanted)]
        for path in same:
            found = self._bucket.head(path)
            if found and found.size == size and self._digest(path, found) == digest:
                return path, found.etag
        return None

    def _create(self, path: str, new: _New, beside: dict[str, Found]) -> str:
        """Store a recording whose name is free; what lies beside it already broke off.

        Returns its ETag.
        """
        self._bucket.delete(*(sidecar(path, kind) for kind in beside if kind != "json"))
        key = sidecar(path, "json")
        if new.metadata:
            try:
                self._put_sidecar(key, new.metadata, new.digest, "create")
            except Changed:
                self._put_metadata(path, None, new)
            return self._put(path, new)
        if "json" in beside and self._settled_metadata(path, None, ()):
            self._bucket.delete(key)
        etag = self._put(path, new)
        if self._bucket.conditional:  # then what came meanwhile is nobody's: the name was taken
            found = self._bucket.head(key)
            if found and found.describes != new.digest:
                self._bucket.delete(key)
        return etag

    def _put(self, key: str, new: _New, mode: "PutMode" = "create") -> str:
        """Put a recording, and return its ETag."""
        attributes = {
            "Content-Type": _media_type(key),
            "sha256": new.digest,
            "received": repr(new.received),
        }
        version = self._bucket.put(key, new.data, mode, attributes)
        if self._bucket.keeps_attributes:
            return etag_of(new.digest, new.received)
        return plain_tag(version.get("e_tag"))

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

    def _put_sidecar(self, key: str, data: bytes, describes: str | None, mode: "PutMode") -> None:
        attributes = {"Content-Type": _media_type(key)}
        if describes:
            attributes["describes"] = describes
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
        there, target_has = self._around(path), self._around(kept_as)
        for kind in SIDECARS:
            beside, target = sidecar(path, kind), sidecar(kept_as, kind)
            found = there.get(kind)
            if found and found.describes in (None, digest):
                data = b"".join(self._bucket.read(beside, found))
                self._put_sidecar(target, data, digest, "overwrite")
            elif kind in target_has:  # of a call that broke off
                self._bucket.delete(target)
        with self.incoming() as copy:
            for chunk in self._bucket.read(path, old):
                copy.write(chunk)
            copy.flush()
            self._put(kept_as, _New(_mapped(copy), digest, b"", old.modified))

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

    def open_described(self, path: str) -> tuple[Recording, bytes | None]:
        recording, key = self.open(path), sidecar(path, "json")
        about = self._bucket.head(key)
        if not about:
            is_kept = recording.noted and path == original(path) and self._is_kept(path, recording)
            return recording, None if is_kept else b""
        if about.describes and recording.noted and about.describes != recording.noted:
            return recording, None
        try:
            return recording, b"".join(self._bucket.read(key, about))[:LONGEST]
        except Changed:  # another is about to take the name
            return recording, None

    def _is_kept(self, path: str, newest: Recording) -> bool:
        """Whether a recording has its number already, because another is about to take its name.

        Then its metadata are only there, where the other has none.
        """
        found = self._bucket.head(_key(path))
        if not found or found.digest != newest.noted:  # another has the name by now
            return True
        return bool(self._among(self._older(path), found.size, newest.noted, found.tag))

    def scan(self, prefix: str = "", odd: Callable[[str], object] = warn) -> Iterator[Listed]:
        folder = prefix.rpartition("/")[0]
        latest, bare = "", set()
        for each in self._bucket.scan(folder and _key(folder), odd=odd):
            path, parts = each["path"], each["path"].split("/")
            if not path.startswith(prefix) or any(part.startswith(".") for part in parts):
                continue
            if is_recording(parts[-1]):
                latest = path
                if not extension_of(path):  # whose sidecars may come much later
                    bare.add(path)
                yield _Dated(self._bucket, each)
            elif (about := recording_of(path)) and about != latest and about not in bare:
                latest = about
                if about.startswith(prefix) and not self._bucket.head(about):
                    yield Listed(about, 0, each["last_modified"].timestamp(), is_gone=True)

    def versions(self, path: str) -> list[str]:
        name = original(_key(path))
        older = self._older(name)
        return [name, *older] if self._bucket.head(name) else [*older]

    def sidecars(self) -> Iterator[str]:
        for each in self._bucket.scan(""):
            if recording_of(each["path"]):
                yield each["path"]

    def put(self, path: str, file: BinaryIO, modified: float) -> Outcome:
        key = _key(path)
        with storage_errors():
            data = _mapped(file)
        new = _New(data, sha256(data).hexdigest(), b"", modified)
        with self._locks.locked(path):
            for _ in range(ATTEMPTS):
                with suppress(Changed):
                    found = self._bucket.head(key)
                    if not found:
                        self._put(key, new)
                        return Outcome.CREATED
                    if found.size == len(data) and self._digest(key, found) == new.digest:
                        return Outcome.IDENTICAL
                    raise NameTaken(f"another recording is stored as {path}")
        raise StorageUnavailable(f"others keep storing and removing {path}: try again")

    def attach(self, path: str, kind: str, data: bytes, etag: str) -> None:
        with self._locks.locked(path):
            self._adopt(path)
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
        with self._locks.locked(path):
            there = self._around(_key(path))
            found = there.get("")
            if found or not there:
                self._found(path, found, etag)
            else:  # a call broke off, unless an upload elsewhere is under way
                try:
                    self._settled_metadata(path, None, ())
                except Changed:
                    raise NotStored(f"another recording is stored as {path}") from None
            if HOLD in there:
                raise held(path)
            self._bucket.delete(*(sidecar(path, kind) for kind in there if kind in ("txt", "vtt")))
            self._bucket.delete(*([path] if found else []))
            self._bucket.delete(*([sidecar(path, "json")] if "json" in there else []))

    def _stored(self, path: str, etag: str) -> Found:
        return self._found(path, self._bucket.head(_key(path)), etag)

    def _found(self, path: str, found: Found | None, etag: str) -> Found:
        """What is at a stored path, if it is there and has the etag; or raise `NotStored`."""
        if not found:
            self._bucket.require(path)
            raise NotStored(f"no recording is stored as {path}")
        if etag and found.etag != etag:
            raise NotStored(f"another recording is stored as {path}")
        return found


def _may_be(etag: str, wanted: str) -> bool:
    """Whether an object with the ETag may hold bytes of which `wanted` is the MD5."""
    return etag == wanted or not re.fullmatch("[0-9a-f]{32}", etag)


def _key(path: str) -> str:
    """The key of a stored path; one that object stores would change is none."""
    if not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise StorageFailed(f"{path} leads out of the storage")
    if _UNKEYED.search(path):
        raise StorageFailed("a bucket takes no such name: rename it")
    return path


def _media_type(path: str) -> str:
    """What a browser may take an object for; never a page, whatever its Call-ID ends in."""
    return format_of(extension_of(path)).media_type


def _mapped(file: BinaryIO) -> bytes | mmap.mmap:
    file.flush()
    if not os.fstat(file.fileno()).st_size:
        return b""  # cannot be mapped
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
