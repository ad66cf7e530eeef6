"""Recordings for storages that are opened in the test's own process."""

from receiver.core.naming import RecordingName
from receiver.storage import Storage

NAME = RecordingName("ACCOUNT/USER", "abc@10.0.0.1", "mp3")


def publish(storage: Storage, data: bytes, name: RecordingName = NAME, **options):
    with storage.incoming() as file:
        file.write(data)
        file.flush()
        return storage.publish(file, name, **options)
