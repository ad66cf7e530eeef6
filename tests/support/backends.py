"""The storages that receivers of several machines may share, and a directory, on real servers."""

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from receiver.core.naming import sidecar
from receiver.errors import NotStored
from receiver.formats import SIDECARS
from receiver.storage import open_storage
from support.receivers import SharedReceiver

if TYPE_CHECKING:
    from support.buckets import Rclone
    from support.databases import Server


class Backend:
    """A storage's URL, and its server."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def receiver(self, *options: str, **settings: object) -> SharedReceiver:
        """Start a receiver with its own folder for what arrives, as on a machine of its own."""
        number = len(list(self.folder.iterdir()))
        folder = self.folder / f"machine-{number}"
        (folder / "spool").mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(folder / "spool"))
            settings = {"storage": self.url, "min_free": 0} | settings
            return SharedReceiver(folder, self.files, *options, **settings)

    def files(self, below: str = "") -> dict[str, bytes]:
        """Every recording, or those below a folder, and what lies beside them."""
        storage = open_storage(self.url, read_only=True)
        found = {}
        for listed in storage.scan(f"{below}/" if below else ""):
            for path in (listed.path, *(sidecar(listed.path, kind) for kind in SIDECARS)):
                with suppress(NotStored), closing(storage.open(path)) as file:
                    found[path] = file.file.read()
        if engine := getattr(storage, "engine", None):
            engine.dispose()
        return found

    def restart(self) -> None:
        raise NotImplementedError


class Database(Backend):
    def __init__(self, server: "Server", folder: Path) -> None:
        super().__init__(server.new_url(), folder)
        self.restart: Callable[[], None] = server.restart


class S3(Backend):
    """S3, looked at from outside, because nothing may use obstore in a process that forks."""

    def __init__(self, server: "Rclone", folder: Path) -> None:
        self.server = server
        self.bucket = server.create_bucket()
        super().__init__(f"s3://{self.bucket}/some/prefix", folder)

    def files(self, below: str = "") -> dict[str, bytes]:
        return self.server.objects(self.bucket, "some/prefix/", f"{below}/" if below else "")

    def restart(self) -> None:
        self.server.stop()
        self.server.start()
