"""`flask --app app verify`: whatever is not as it was is found, and nothing else is reported."""

import hashlib
import json
import os
import time
from contextlib import closing
from dataclasses import replace

import pytest

pytest.importorskip("sqlalchemy")

from receiver.catalog.catalog import Catalog
from receiver.catalog.description import describe
from receiver.catalog.indexing import reindex
from receiver.core.naming import RecordingName
from receiver.errors import CatalogUnavailable, StorageFailed
from receiver.parts import Storage
from receiver.retention.verify import verify
from receiver.storage import open_storage
from support.retention import Down, attach, run
from support.storages import publish

NAMES = [
    RecordingName("ACCOUNT/USER", "abc@10.0.0.1", "mp3"),
    RecordingName("", "no-extension", ""),
    RecordingName("", "third", "wav"),
]
LATER = time.time() + 3600


def checksum(data: bytes) -> bytes:
    return json.dumps({"sha256": hashlib.sha256(data).hexdigest()}).encode()


def store(storage: Storage) -> None:
    """A superseded recording and two others, of which the last has no checksum."""
    for name, data in ((NAMES[0], b"old"), (NAMES[0], b"new"), (NAMES[1], b"bare")):
        publish(storage, data, name, metadata=checksum(data))
    publish(storage, b"third", NAMES[2], metadata=b'{"call_id": "third"}')


@pytest.fixture
def storage(backend):
    """Each kind of storage, with recordings."""
    storage = open_storage(backend.url)
    store(storage)
    yield storage
    if engine := getattr(storage, "engine", None):
        engine.dispose()


@pytest.fixture
def directory(tmp_path) -> Storage:
    storage = open_storage(str(tmp_path / "directory"))
    store(storage)
    return storage


def test_what_is_as_it_was_is_counted(storage, catalog):
    for known in (None, catalog):
        if known:
            reindex(known, storage)
        progress = []
        report = verify(storage, known, LATER, progress=progress.append)
        assert (report.read, report.without, report.wrong) == (4, 1, [])
        assert sum(each.size for each in progress) == 3 + 3 + 4 + 5


def test_changed_recordings_are_found(storage):
    for name in NAMES[:2]:
        attach(storage, str(name), "json", checksum(b"other"))
    report = verify(storage, None, LATER)
    digests = [hashlib.sha256(data).hexdigest() for data in (b"new", b"bare", b"other")]
    assert sorted(report.wrong) == [
        f"changed: {name}: its SHA-256 is {digest}, and was {digests[2]} (metadata)"
        for name, digest in zip(NAMES, digests[:2], strict=False)
    ]


def test_a_changed_byte_is_found_whatever_the_time_of_the_file(directory):
    path = directory.root / str(NAMES[0])
    status = path.stat()
    path.write_bytes(b"nEw")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (line,) = verify(directory, None, LATER).wrong
    assert line.startswith(f"changed: {NAMES[0]}: its SHA-256 is ")


def test_checksum_of_the_catalog_counts_where_the_metadata_have_none(directory, catalog):
    reindex(catalog, directory)
    listed = next(each for each in directory.scan() if each.path == str(NAMES[2]))
    row = describe(directory, listed)
    catalog.add([replace(row, sha256=hashlib.sha256(b"third").hexdigest())])
    report = verify(directory, catalog, LATER)
    assert (report.without, report.wrong) == (0, [])
    catalog.add([replace(row, sha256=hashlib.sha256(b"other").hexdigest())])
    (line,) = verify(directory, catalog, LATER).wrong
    assert line.startswith(f"changed: {NAMES[2]}: ") and line.endswith(" (catalog)")
    digest = hashlib.sha256(b"third").hexdigest().upper()  # which counts more
    attach(directory, str(NAMES[2]), "json", json.dumps({"sha256": digest}).encode())
    assert verify(directory, catalog, LATER).wrong == []


def test_missing_and_extra_recordings_are_found(storage, catalog):
    reindex(catalog, storage)
    storage.delete(str(NAMES[0]))
    publish(storage, b"extra", RecordingName("", "extra", "mp3"))
    report = verify(storage, catalog, LATER)
    assert sorted(report.wrong) == [
        "extra: extra.mp3: stored, but not in the catalog",
        f"missing: {NAMES[0]}: in the catalog, but not stored",
    ]
    assert verify(storage, catalog, time.time()).wrong == report.wrong[-1:]  # it is new


def test_what_cannot_be_read_is_reported_and_the_others_are_read(directory, monkeypatch):
    open_one = directory.open

    class Broken:
        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(5, "Input/output error")

        def close(self):
            pass

    def fail(path):
        recording = open_one(path)
        if path == str(NAMES[1]):
            recording.close()
            raise StorageFailed("broken")
        if path == str(NAMES[2]):
            recording.close()
            return replace(recording, file=Broken())
        return recording

    monkeypatch.setattr(directory, "open", fail)
    attach(directory, str(NAMES[0]), "json", b"{broken")
    report = verify(directory, None, LATER)
    reasons = sorted(report.wrong)
    assert [line.split(": ")[:2] for line in reasons] == [
        ["unreadable", str(name)] for name in NAMES
    ]
    assert "its metadata: " in reasons[0]
    assert reasons[1].endswith(": broken")
    assert "Input/output error" in reasons[2]
    assert report.read == 1


def test_recording_that_is_superseded_meanwhile_is_not_reported(directory, monkeypatch):
    open_one, path = directory.open, str(NAMES[0])
    calls = []

    def supersede(wanted):
        recording = open_one(wanted)
        if wanted == path and not calls:  # it was opened, but its metadata are read later
            calls.append(wanted)
            publish(directory, b"newer", NAMES[0], metadata=checksum(b"newer"))
        return recording

    monkeypatch.setattr(directory, "open", supersede)
    report = verify(directory, None, LATER)
    assert (calls, report.wrong) == ([path], [])


def test_recording_that_is_deleted_meanwhile_is_not_reported(directory, monkeypatch):
    open_one = directory.open

    def delete(path):
        if path == str(NAMES[0]):
            directory.delete(path)
        return open_one(path)

    monkeypatch.setattr(directory, "open", delete)
    report = verify(directory, None, LATER)
    assert (report.read, report.wrong) == (3, [])


def test_catalog_that_is_down_ends_it(directory):
    with pytest.raises(CatalogUnavailable):
        verify(directory, Down(), LATER)


def test_command(backend, storage, tmp_path):
    first = "4 recordings, 15 Bytes"
    result = run(backend.url, "verify")
    assert result.returncode == 0
    assert result.stdout.splitlines() == [first, "4 read, 1 of them without a checksum; 0 wrong"]
    attach(storage, str(NAMES[0]), "json", checksum(b"other"))
    result = run(backend.url, "verify", "--threads", 1)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[1].startswith(f"changed: {NAMES[0]}: ")
    assert lines[2] == "4 read, 1 of them without a checksum; 1 wrong"


def test_command_compares_the_catalog(directory, tmp_path):
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    with closing(Catalog(url)) as catalog:
        reindex(catalog, directory)
    (directory.root / "third.wav").unlink()
    result = run(str(directory.root), "verify", catalog=url)
    assert result.returncode == 1
    assert "missing: third.wav: in the catalog, but not stored\n" in result.stdout
    assert result.stdout.endswith("3 read, 0 of them without a checksum; 1 wrong\n")


@pytest.mark.parametrize("option", ["--threads", "--jobs"])
def test_command_needs_a_thread(directory, option):
    result = run(str(directory.root), "verify", option, 0)
    assert result.returncode == 1
    assert result.stderr == "Error: --threads is a number from 1 to 1000\n"
