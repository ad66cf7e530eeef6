"""Recordings several at a time: of a bucket, each is a request to wait for."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from ..parts import Listed

THREADS = 4  # recordings at a time, where nobody says otherwise
T = TypeVar("T")


def in_parallel(
    work: Callable[[Listed], T], items: Iterable[Listed], threads: int = THREADS
) -> Iterator[tuple[Listed, Future[T]]]:
    """Work on all items, a bounded number at a time; yield each with its result when it is done."""
    running: dict[Future[T], Listed] = {}
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            running[pool.submit(work, item)] = item
            if len(running) >= 2 * threads:
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(done), done
        for done in wait(running).done:
            yield running.pop(done), done
