"""Keeps each recording's SHA-256, so that `verify` can tell later whether it is as it was."""

from contextlib import closing

from ..core.naming import sidecar
from ..parts import Parts
from ..storage import sidecars
from .event import Event, JobFailed, open_recording


def keep_checksum(parts: Parts, event: Event) -> str:
    """Write the SHA-256 of a recording into its metadata, beside what the sender told."""
    path, recording = open_recording(parts.storage, event)
    with closing(recording):
        digest = recording.sha256()
    kept = sidecars.read(parts.storage, path, "json")
    try:
        told = {} if kept is None else sidecars.from_json(kept)
    except ValueError as error:
        about = sidecar(path, "json")
        raise JobFailed(f"{about} cannot be read ({error}): it was left as it is") from None
    if told.get("sha256") != digest:
        data = sidecars.to_json(told | {"sha256": digest})
        parts.storage.attach(path, "json", data, event.etag)
    if parts.catalog:
        parts.catalog.refresh(parts.storage, path)
    return digest
