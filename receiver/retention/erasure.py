"""Erasure on request: all that is stored of somebody's calls, and all that is known of them."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count
from typing import Any

from ..core.naming import RecordingName
from ..core.publish import storage_errors
from ..errors import CatalogUnavailable, Held, NotStored
from ..numbers import digits_of, may_hold, texts_in
from ..parts import Catalog, Jobs, Listed, Storage
from ..shown import shown
from ..storage import sidecars
from ..storage.base import GONE
from ..storage.parallel import in_parallel
from ..storage.paths import extension_of, number_of, numbered, older, original
from .holds import hold_of, is_stored
from .purge import catalog_failed, forget, forget_unstored, reported

_CALLER = ("caller_id_number", "from")
_CALLEE = ("callee_id_number", "to")
_ADDRESSES = ("from", "to")
MOST_MISSING = 10  # numbered names that are looked for after the last that is there


@dataclass(frozen=True)
class Wanted:
    """Whose recordings are to be erased: one of these."""

    caller: str = ""  # a number
    number: str = ""  # of the caller or the callee
    call_id: str = ""

    def matches(self, told: Mapping[str, Any], path: str) -> bool:
        if self.call_id:
            name = RecordingName("", self.call_id, extension_of(path)).filename
            stored = original(path).rpartition("/")[2]
            return self.call_id == str(told.get("call_id", "")) or stored in (name, older(name))
        return self._digits != "" and any(
            digits_of(text) == self._digits
            for field in self._fields
            for text in texts_in(told.get(field))
        )

    def unclear(self, told: Mapping[str, Any]) -> list[str]:
        """The fields that cannot be read as a number, and may be the one that is wanted."""
        return [
            field
            for field in self._fields
            for text in texts_in(told.get(field))
            if may_hold(text, self._digits, is_address=field in _ADDRESSES)
        ]

    @property
    def _fields(self) -> tuple[str, ...]:
        if self.call_id:
            return ()
        return _CALLER if self.caller else _CALLER + _CALLEE

    @cached_property
    def _digits(self) -> str:
        return digits_of(self.caller or self.number)


@dataclass(frozen=True)
class Match:
    """A recording that is to be erased, as it was found.

    `is_older` tells that it goes for having had the name before one that matches.
    """

    path: str
    size: int
    modified: float
    etag: str
    is_older: bool = False


@dataclass
class Found:
    """What is to be erased, and all paths that were seen.

    `failed` are lines for recordings that cannot be told, and `unclear` for those that somebody
    has to look at.
    """

    matches: list[Match] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Receipt:
    """What was erased; `beside` are the kinds of files that lay beside it."""

    path: str
    size: int
    sha256: str
    beside: tuple[str, ...]


def find(
    storage: Storage,
    wanted: Wanted,
    *,
    progress: Callable[[Listed], object] = lambda recording: None,
) -> Found:
    """Look for recordings to erase, in the whole storage.

    Of a recording that matches, the older versions go too, whatever is told of them.
    """
    found = Found()
    failed: dict[str, list[str]] = {}
    unclear: dict[str, list[str]] = {}
    numbered_copies: dict[str, list[Listed]] = {}  # by name

    def look(recording: Listed) -> Any:
        lines: list[str] = []
        with reported(recording.path, lines):
            if match := _look(storage, wanted, recording, unclear):
                found.matches.append(match)
        if lines:
            failed[recording.path] = lines

    for recording, done in in_parallel(look, storage.scan(odd=found.failed.append)):
        done.result()
        if not recording.is_gone:
            found.seen.add(recording.path)
        if (name := original(recording.path)) != recording.path:
            numbered_copies.setdefault(name, []).append(recording)
        progress(recording)
    _add_older(storage, found, numbered_copies, failed, unclear)
    # What is found by another that matches goes before that, so that it is found again.
    found.matches.sort(key=lambda match: (not match.is_older, match.path))
    found.failed += [line for lines in failed.values() for line in lines]
    found.unclear += [shown(f"{path}: {why}") for path, whys in unclear.items() for why in whys]
    return found


def _look(
    storage: Storage, wanted: Wanted, listed: Listed, unclear: dict[str, list[str]]
) -> Match | None:
    path = listed.path
    if not wanted.matches({}, path):  # whatever its metadata are
        told = sidecars.told(storage, path)
        if not wanted.matches(told, path):
            if fields := wanted.unclear(told):
                why = f"look at it: {', '.join(dict.fromkeys(fields))}: cannot be read as a number"
                unclear[path] = [why]
            return None
    if listed.is_gone:
        return Match(path, 0, listed.modified, GONE)
    return _match(storage, path)


def _match(storage: Storage, path: str, *, is_older: bool = False) -> Match:
    with closing(storage.open(path)) as recording:
        return Match(path, recording.size, recording.modified, recording.etag, is_older)


def _add_older(
    storage: Storage,
    found: Found,
    numbered_copies: Mapping[str, list[Listed]],
    failed: dict[str, list[str]],
    unclear: dict[str, list[str]],
) -> None:
    """Add the older versions of what matches; what took its name later is to be looked at."""
    newest: dict[str, tuple[float, int]] = {}
    for match in found.matches:
        name = original(match.path)
        age = float("inf") if match.path == name else match.modified
        # Where times are the same, as a bucket's own may be, the larger number is the newer one.
        last = (age, number_of(match.path))
        newest[name] = max(newest.get(name, last), last)
    matched = {match.path for match in found.matches}
    for name, until in newest.items():
        later = [name] if name in found.seen else []
        for copy in numbered_copies.get(name, ()):
            if (copy.modified, number_of(copy.path)) > until:
                later.append(copy.path)
            elif copy.path not in matched:
                lines: list[str] = []
                with reported(copy.path, lines):
                    found.matches.append(_match(storage, copy.path, is_older=True))
                unclear.pop(copy.path, None)
                failed.pop(copy.path, None)
                if lines:
                    failed[copy.path] = lines
        for path in later:
            if path not in matched and path not in failed:
                why = "look at it: it took the name of one that is to be erased"
                unclear.setdefault(path, []).append(why)


def _stale(catalog: Catalog, wanted: Wanted, seen: set[str]) -> list[str]:
    """What the catalog still tells of recordings that are wanted but were not seen."""
    paths = []
    for path in catalog.paths():
        if path not in seen and (row := catalog.get(path)):
            told = {
                "caller_id_number": row.caller_number,
                "callee_id_number": row.callee_number,
                "from": row.from_,
                "to": row.to,
                "call_id": row.call_id,
            }
            if wanted.matches(told, path):
                paths.append(path)
    return paths


def erase(
    storage: Storage,
    catalog: Catalog | None,
    jobs: Jobs | None,
    wanted: Wanted,
    found: Found,
    erased: Callable[[Receipt], object],
) -> list[str]:
    """Erase what was found, and call `erased` after each; return a line for all that is left.

    Recordings on hold are left. Each deletion is a thread's, so that Ctrl-C cuts none in half.
    What fails after one, as to tell of it or to forget its jobs, is among the lines.
    """
    failed: list[str] = []
    gone: list[str] = []

    def work(match: Match) -> None:
        receipt = _erase_one(storage, wanted, match)
        gone.extend((match.path, receipt.path))
        for step in (partial(erased, receipt), partial(forget_jobs, match, receipt)):
            try:
                step()
            except Exception as error:
                failed.append(shown(f"{match.path}: {error}"))

    def forget_jobs(match: Match, receipt: Receipt) -> None:
        if jobs:
            for path in {match.path, receipt.path, original(match.path)}:
                jobs.forget(path, match.etag)

    try:
        with ThreadPoolExecutor(1) as pool:
            for match in found.matches:
                if error := pool.submit(work, match).exception():
                    failed.append(shown(f"{match.path}: {error}"))
    finally:
        if catalog:
            failed += _forget_wanted(catalog, storage, wanted, found, gone)
    return failed


def _forget_wanted(
    catalog: Catalog, storage: Storage, wanted: Wanted, found: Found, gone: list[str]
) -> list[str]:
    """Remove from the catalog what is gone now, or was before and the catalog still knows."""
    try:
        old = _stale(catalog, wanted, found.seen)
    except CatalogUnavailable as error:
        return [catalog_failed(error)]
    failed = forget(catalog, storage, {*gone, *old})
    return failed or forget_unstored(catalog, storage, found.seen)


def _erase_one(storage: Storage, wanted: Wanted, match: Match) -> Receipt:
    others = _paths_by_now(storage, match) if match.etag != GONE else [match.path]
    for path in others:
        with suppress(NotStored):
            if receipt := _erase_at(storage, path, wanted, match):
                return receipt
    raise NotStored("it was replaced or deleted meanwhile: run the command again")


def _paths_by_now(storage: Storage, match: Match) -> Iterator[str]:
    """Where a recording may lie: under its path, or a number if another took its name since.

    That is the first number that was free. Nothing is listed for it: folders may be large.
    """
    yield match.path
    name, missing = original(match.path), 0
    for number in count(1):
        path = numbered(name, number)
        missing = 0 if is_stored(storage, path) else missing + 1
        if missing > MOST_MISSING:
            return
        if not missing:
            yield path


def _erase_at(storage: Storage, path: str, wanted: Wanted, match: Match) -> Receipt | None:
    size, digest = 0, "-"
    if match.etag != GONE:
        with storage_errors(), closing(storage.open(path)) as recording:
            if recording.etag != match.etag:
                return None
            digest = recording.sha256()
            size = recording.size
    if held := hold_of(storage, path):
        raise Held(f"not erased: on legal hold since {held.since or 'an unknown time'}")
    is_wanted = match.is_older or wanted.matches({}, path)
    if not (is_wanted or wanted.matches(sidecars.told(storage, path), path)):
        return None
    beside = sidecars.kinds_beside(storage, path)
    storage.delete(path, match.etag)
    return Receipt(path, size, digest, beside)
