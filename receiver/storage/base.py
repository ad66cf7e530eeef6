"""What every storage promises, whatever it keeps its recordings in."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

from ..naming import RecordingName


class Outcome(StrEnum):
    """What publishing a recording did."""

    CREATED = "created"  # the name was free
    IDENTICAL = "identical"  # the same bytes were there: the sender had missed an answer
    SUPERSEDED = "superseded"  # other bytes were there: they are kept under a numbered name


@dataclass(frozen=True)
class Stored:
    """A recording that is whole and durable; `kept_as` is where the one it superseded went."""

    outcome: Outcome
    path: str
    kept_as: str | None = None


class Storage(ABC):
    """A place for recordings. Any number of threads and processes may use it at once.

    Every method raises `StorageFull` where there is no room and `StorageUnavailable` where the
    storage fails; after either, nothing partial is visible and the same call may be repeated.
    """

    @abstractmethod
    def check_space(self, size: int) -> None:
        """Raise `StorageFull` if a recording of `size` bytes would not fit now."""

    @abstractmethod
    def incoming(self) -> AbstractContextManager[BinaryIO]:
        """Open an empty local file for a recording on its way in; it vanishes with its context.

        Failures to write to it raise as those of the storage do.
        """

    @abstractmethod
    def publish(self, file: BinaryIO, name: RecordingName) -> Stored:
        """Make the complete local file `file` durable under `name`, and only then return.

        The recording is visible whole or not at all, and `name` is never absent meanwhile. No
        other recording is overwritten: one that has the name is kept under a numbered name, or,
        with `KZR_ON_CONFLICT=refuse`, keeps it and `NameTaken` is raised.
        """
