"""Locks by which the receivers of one machine take turns at a name in a bucket."""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG

from ..core.publish import storage_errors
from ..errors import StorageFailed
from .objects import Bucket
from .paths import original

# What opening a file fails with where something else is in its place, or somebody else's.
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO)


class Locks:
    """The locks on the names in the bucket at `url`, in a file in the folder `spool`."""

    def __init__(self, url: str, spool: Path, bucket: Bucket) -> None:
        self._url = url
        self._spool = spool
        self._bucket = bucket

    @contextmanager
    def locked(self, path: str) -> Iterator[None]:
        """Keep this machine's other receivers away from a name and its numbered names.

        Every name has a byte of its own in a file that stays empty. The lock belongs to the open
        file, not to the process, so that threads take turns too; it ends with the process.
        """
        place = sha256(f"{self._url}\0{original(path)}".encode()).digest()[:7]
        byte = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, int.from_bytes(place), 1, 0)
        with storage_errors():
            locks = self._open()
        if locks is None:
            yield
            return
        try:
            with storage_errors():
                fcntl.fcntl(locks, fcntl.F_OFD_SETLKW, byte)
            yield
        finally:
            os.close(locks)

    def _open(self) -> int | None:
        """Open the file of locks; None where it is not ours alone and conditions are enough.

        In /var/tmp anybody may have put something in its place, or hold a lock on that for ever.
        """
        path = self._spool / f".kazoo-receiver-{os.geteuid()}.locks"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            locks = os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
        else:
            status = os.fstat(locks)
            is_ours = status.st_uid == os.geteuid() and not status.st_mode & 0o077
            if S_ISREG(status.st_mode) and is_ours:
                return locks
            os.close(locks)
        if self._bucket.conditional:
            return None
        raise StorageFailed(f"{path} is not this user's alone: set TMPDIR to a folder that is")
