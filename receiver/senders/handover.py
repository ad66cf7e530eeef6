"""Bodies that nginx has written to a file already, and hands over by name.

nginx's `client_body_in_file_only` leaves nothing to copy: the receiver syncs that file and links
it into the storage. nginx removes its own name for it after the answer.
"""

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import IncompleteBody, SettingError, StorageFailed
from ..storage.base import remove_abandoned
from .sent import SentBody

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

FILE_HEADER = "HTTP_X_BODY_FILE"  # nginx.conf sets both, whatever the client sent
LENGTH_HEADER = "HTTP_X_BODY_LENGTH"
NGINX_NAMES = "[0-9]" * 10


class Handover:
    """The folder of `KZR_HANDOVER_DIR`, which nginx's `client_body_temp_path` names too.

    Raises `SettingError` unless this user can read it and link from it into `storage`.
    """

    def __init__(self, folder: str, storage: Path) -> None:
        self.folder = os.path.realpath(folder)
        try:
            Path(self.folder).mkdir(0o700, parents=True, exist_ok=True)
            os.listdir(self.folder)
            device = os.stat(self.folder).st_dev
        except OSError as error:
            raise SettingError(
                f"KZR_HANDOVER_DIR={folder}: {error.strerror}: run the receiver as nginx's user"
            ) from error
        if Path(self.folder) == storage.resolve():
            raise SettingError(
                f"KZR_HANDOVER_DIR={folder}: name a folder of nginx's own, as KZR_STORAGE/.handover"
            )
        if device != os.stat(storage).st_dev:
            raise SettingError(
                f"KZR_HANDOVER_DIR={folder}: put it into the file system of KZR_STORAGE, and name "
                "it in nginx's client_body_temp_path"
            )
        # nginx never looks for what it left when it was killed.
        remove_abandoned(Path(self.folder), NGINX_NAMES)

    def body(self, environ: "WSGIEnvironment") -> SentBody:
        """The request's body: the file that nginx names, or else what the request holds."""
        if FILE_HEADER in environ or environ.get(LENGTH_HEADER) == "0":
            return HandedOverBody(environ, self.folder)
        return SentBody(environ)


class HandedOverBody(SentBody):
    """A body in a file of nginx's; nginx creates none where the body is empty."""

    def __init__(self, environ: "WSGIEnvironment", folder: str) -> None:
        # The request itself has no body, and an absent Content-Length.
        super().__init__({**environ, "CONTENT_LENGTH": environ.get(LENGTH_HEADER, "")})
        self._folder = folder
        self._path = environ.get(FILE_HEADER)
        self._ended = True

    def require_length(self) -> None:
        """Nothing is missing: nginx counted the bytes, of chunked bodies too."""

    @contextmanager
    def as_file(
        self, incoming: Callable[[], AbstractContextManager[BinaryIO]], chunk_size: int
    ) -> Iterator[BinaryIO]:
        with self.stream() as file:
            if self._path is None:  # an empty file of nobody's, which cannot be linked
                with incoming() as empty:
                    yield empty
            else:
                yield file

    @contextmanager
    def stream(self) -> Iterator[BinaryIO]:
        with self._open(self._path) if self._path else io.BytesIO() as file:
            self.received = file.seek(0, os.SEEK_END)
            if self.length is not None and self.received != self.length:
                raise IncompleteBody(f"nginx handed over {self.received} of {self.length} bytes")
            self.check_size(self.received)
            file.seek(0)
            if self._expected:
                self.check_digest(file_digest(file, "sha256").digest())
                file.seek(0)
            yield file

    def _open(self, path: str) -> io.BufferedReader:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise StorageFailed(
                f"cannot open the file that nginx handed over: {error.strerror}: run the receiver "
                "as nginx's user"
            ) from error
        inside = os.readlink(f"/proc/self/fd/{file}").startswith(self._folder + "/")
        if not inside or not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise StorageFailed(
                "what nginx handed over is no file in KZR_HANDOVER_DIR: name that folder in "
                "client_body_temp_path"
            )
        return open(file, "rb")
