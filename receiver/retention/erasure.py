"""Erasure on request: all that is stored of somebody's calls, and all that is known of them."""

import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from ..core.naming import RecordingName, sidecar
from ..core.publish import storage_errors
from ..errors import CatalogUnavailable, Held, NotStored
from ..formats import SIDECARS
from ..parts import Catalog, Jobs, Listed, Storage
from ..storage import sidecars
from ..storage.base import GONE
from ..storage.parallel import in_parallel
from ..storage.paths import extension_of, original
from .holds import hold_of, is_stored, versions
from .purge import catalog_failed, forget, reported

_CALLER = ("caller_id_number", "from")
_CALLEE = ("callee_id_number", "to")
_SCHEME = re.compile(r".*\b(?:sips?|tel):", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"\+?[0-9 ().-]*[0-9][0-9 ().-]*")
_ADDRESS = re.compile(r"[0-9]+(?:\.[0-9]+){3}")


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
            return self.call_id == str(told.get("call_id", "")) or name == stored
        fields = _CALLER if self.caller else _CALLER + _CALLEE
        number = digits_of(self.caller or self.number)
        return any(digits_of(str(told.get(field, ""))) == number != "" for field in fields)


def digits_of(text: str) -> str:
    """The digits of a telephone number, or of a SIP address's user part that is one; else ""."""
    user = _SCHEME.sub("", unquote(text)).partition("@")[0].partition(";")[0].strip()
    is_number = _NUMBER.fullmatch(user) and not _ADDRESS.fullmatch(user)
    return re.sub("[^0-9]", "", user) if is_number else ""


@dataclass(frozen=True)
class Match:
    """A recording that is to be erased, as it was found."""

    path: str
    size: int
    modified: float
    etag: str


@dataclass
class Found:
    """What is to be erased, a line for each recording that cannot be told, and all paths seen."""

    matches: list[Match] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
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
    """Look for recordings to erase, in the whole storage."""
    found = Found()

    def look(recording: Listed) -> Any:
        with reported(recording.path, found.failed):
            _look(storage, wanted, recording, found)

    for recording, done in in_parallel(look, storage.scan()):
        done.result()
        found.seen.add(recording.path)
        progress(recording)
    found.matches.sort(key=lambda match: match.path)
    return found


def _look(storage: Storage, wanted: Wanted, listed: Listed, found: Found) -> None:
    is_named = wanted.matches({}, listed.path)  # whatever its metadata are
    if is_named or wanted.matches(sidecars.told(storage, listed.path), listed.path):
        if listed.is_gone:
            match = Match(listed.path, 0, listed.modified, GONE)
        else:
            with closing(storage.open(listed.path)) as recording:
                match = Match(listed.path, recording.size, recording.modified, recording.etag)
        found.matches.append(match)


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
    """
    failed: list[str] = []
    gone: list[str] = []

    def work(match: Match) -> None:
        receipt = _erase_one(storage, wanted, match)
        erased(receipt)
        gone.extend((match.path, receipt.path))
        if jobs:
            for path in {match.path, receipt.path, original(match.path)}:
                jobs.forget(path, match.etag)

    try:
        with ThreadPoolExecutor(1) as pool:
            for match in found.matches:
                if error := pool.submit(work, match).exception():
                    failed.append(f"{match.path}: {error}")
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
    return forget(catalog, storage, {*gone, *old})


def _erase_one(storage: Storage, wanted: Wanted, match: Match) -> Receipt:
    # Another recording may have taken its name since it was found.
    others = versions(storage, match.path) if match.etag != GONE else []
    for path in dict.fromkeys([match.path, *others]):
        with suppress(NotStored):
            if receipt := _erase_at(storage, path, wanted, match.etag):
                return receipt
    raise NotStored("it was replaced or deleted meanwhile: run the command again")


def _erase_at(storage: Storage, path: str, wanted: Wanted, etag: str) -> Receipt | None:
    size, digest = 0, "-"
    if etag != GONE:
        with storage_errors(), closing(storage.open(path)) as recording:
            if recording.etag != etag:
                return None
            digest = recording.sha256()
            size = recording.size
    if held := hold_of(storage, path):
        raise Held(f"not erased: on legal hold since {held.since or 'an unknown time'}")
    is_named = wanted.matches({}, path)
    if not (is_named or wanted.matches(sidecars.told(storage, path), path)):
        return None
    beside = tuple(kind for kind in SIDECARS if is_stored(storage, sidecar(path, kind)))
    storage.delete(path, etag)
    return Receipt(path, size, digest, beside)
