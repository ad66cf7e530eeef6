"""Recordings for storages that are opened in the test's own process."""

from typing import TYPE_CHECKING

from receiver.core.naming import RecordingName
from receiver.parts import Parts, Storage
from receiver.senders.sent import SentBody

if TYPE_CHECKING:
    from receiver.catalog.catalog import Catalog

NAME = RecordingName("ACCOUNT/USER", "abc@10.0.0.1", "mp3")


def publish(storage: Storage, data: bytes, name: RecordingName = NAME, **options):
    with storage.incoming() as file:
        file.write(data)
        file.flush()
        return storage.publish(file, name, **options)


def parts_of(storage: Storage, catalog: "Catalog | None" = None) -> Parts:
    """The parts of a receiver that has this storage."""
    return Parts(lambda: storage, SentBody, catalog=catalog)
