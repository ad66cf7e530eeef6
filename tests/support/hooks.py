"""Recordings for the work after storing, and that work with a receiver's settings."""

import hashlib
import json
from contextlib import closing

from receiver import config
from receiver.catalog.catalog import Catalog
from receiver.core.naming import RecordingName
from receiver.jobs.event import Event
from receiver.jobs.kinds import kinds
from receiver.parts import Storage
from support.storages import NAME, parts_of, publish

AUDIO = b"RIFF" + bytes(range(256)) * 4000  # more than is read at a time
DIGEST = hashlib.sha256(AUDIO).hexdigest()
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PATH = str(NAME)
TOLD = {"from": "1001", "caller_id_name": "Jörg & 李", "cost": float("nan")}
METADATA = json.dumps(TOLD, ensure_ascii=False).encode()


def store(storage: Storage, data: bytes = AUDIO, name: RecordingName = NAME, metadata=METADATA):
    """Publish a recording and return the event that the queue would hold."""
    stored = publish(storage, data, name, metadata=metadata)
    with closing(storage.open(stored.path)) as recording:
        return Event(stored.path, recording.etag, str(stored.outcome), 1_800_000_000.25)


def work(kind: str, storage: Storage, catalog: Catalog | None = None, **settings: str):
    """The work of one kind that settings ask for, parsed as those of a real receiver are."""
    return kinds(config.load(settings), parts_of(storage, catalog))[kind]


def read(storage: Storage, path: str) -> bytes:
    with closing(storage.open(path)) as recording:
        return recording.file.read()
