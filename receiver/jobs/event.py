"""What a job is about: a recording that was stored, found again under the path it has by now."""

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from ..errors import NotStored
from ..parts import Recording, Storage
from ..storage import sidecars


@dataclass(frozen=True)
class Event:
    """A recording that was stored as `path`; `etag` tells its bytes from others'.

    `outcome` is that of its upload, `received` the time of it (POSIX); `kept_as` is where the
    recording went that it superseded, if any.
    """

    path: str
    etag: str
    outcome: str
    received: float
    kept_as: str = ""

    @property
    def id(self) -> str:
        """What is the same for each retry of the upload, and different for other bytes."""
        return sha256(f"{self.path}\0{self.etag}".encode()).hexdigest()[:32]


Work = Callable[[Event], str]  # returns what is to be noted of it; raises what is to be retried


class JobFailed(Exception):
    """A job was not done, for the reason that is told in one line; it may be tried again."""


def open_recording(storage: Storage, event: Event) -> tuple[str, Recording]:
    """Open the recording of an event, under the path that it has by now; or raise `NotStored`."""
    paths: list[str] = []
    while True:
        for path in dict.fromkeys([event.path, *paths]):
            with suppress(NotStored):  # superseded or deleted meanwhile
                recording = storage.open(path)
                if recording.etag == event.etag:
                    return path, recording
                recording.close()
        before, paths = paths, storage.versions(event.path)
        if paths == before:
            raise NotStored(f"the recording that was stored as {event.path} is gone")


def metadata_of(storage: Storage, path: str, event: Event) -> dict[str, Any]:
    """What the sender told, as JSON that every program can read: without NaN and Infinity."""
    told = sidecars.told_as_json(storage, path)
    with closing(storage.open(path)) as recording:
        if recording.etag != event.etag:
            raise NotStored(f"another recording is stored as {path}")  # and that was told of it
    return told


def printable_lines(text: bytes) -> list[str]:
    """The lines of a text from elsewhere, such as logs may hold; without those that are empty."""
    lines = (line.strip() for line in text.decode("utf-8", "replace").splitlines())
    return ["".join(each if each.isprintable() else "?" for each in line) for line in lines if line]
