"""What is noted in a storage of its purges: when the last was, and what all have removed."""

import time
from contextlib import closing
from dataclasses import asdict, dataclass, fields

from ..errors import NotStored
from ..parts import Storage
from . import sidecars

PATH = ".purges"  # no recording has such a name, and backups leave it out
_ABOUT = b"Beside this is noted when recordings were purged.\n"


@dataclass(frozen=True)
class Purges:
    """The time of the last purge (POSIX), and the counts of all.

    `confirmed` is the time of the newest recording when somebody last confirmed that a purge is
    meant, or 0.
    """

    last: float = 0.0
    confirmed: float = 0.0
    recordings: int = 0
    size: int = 0  # bytes
    failed: int = 0


def noted(storage: Storage) -> Purges:
    """What is noted; nothing where that is missing or broken."""
    told = sidecars.told_if_readable(storage, PATH)
    known = {
        each.name: told[each.name]
        for each in fields(Purges)
        if isinstance(told.get(each.name), int | float)
    }
    return Purges(**known)


def note(storage: Storage, purges: Purges) -> None:
    """Note it, durably, in place of what was noted."""
    try:
        storage.open(PATH).close()
    except NotStored:
        with storage.incoming() as file:
            file.write(_ABOUT)
            file.flush()
            storage.put(PATH, file, time.time())
    with closing(storage.open(PATH)) as anchor:
        etag = anchor.etag
    storage.attach(PATH, "json", sidecars.to_json(asdict(purges)), etag)
