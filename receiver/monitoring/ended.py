"""The figures of processes that have ended, put together: each leaves files that nobody uses again.

Prometheus' library keeps them all, so that a server whose workers end often collects them by
thousands, and reads them all at each scrape.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

ENDED = "ended"  # in place of a process id

# How the library names kinds of figures in its files, and what becomes of two of a kind. Those
# that only count while their process lives go with it.
_TOGETHER: dict[str, Callable[[float, float], float]] = {
    "counter": lambda old, new: old + new,
    "histogram": lambda old, new: old + new,
    "gauge_max": max,
}


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Be the only one who puts files together or reads them; yields whether that is so."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
        else:
            yield True


def put_together(folder: Path) -> None:
    """Add the figures of all processes that have ended to one file of a kind, and remove theirs."""
    for path in sorted(folder.glob("*.db")):
        kind, _, process = path.stem.rpartition("_")
        if process.isdigit() and not _is_alive(int(process)):
            if together := _TOGETHER.get(kind):
                _add(path, folder / f"{kind}_{ENDED}.db", together)
            path.unlink()


def _is_alive(process: int) -> bool:
    with suppress(PermissionError):  # it is, and is another's
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True


def _add(path: Path, ended: Path, together: Callable[[float, float], float]) -> None:
    total = MmapedDict(str(ended))
    try:
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(path)):
            known, known_at = total.read_value(key)
            total.write_value(key, together(known, value), max(known_at, timestamp))
    finally:
        total.close()
