"""`flask --app app verify`: whatever is not as it was is found, and nothing else is reported."""

import hashlib
import json
import os
import time
from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest

pytest.importorskip("sqlalchemy")

from receiver.catalog.catalog import Catalog
from receiver.catalog.description import describe
from receiver.catalog.indexing import reindex
from receiver.core.naming import RecordingName, sidecar
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


def without_checksum(backend) -> int:
    """The database notes one of each recording, and so does a bucket."""
    return 0 if "://" in backend.url else 1


def test_what_is_as_it_was_is_counted(backend, storage, catalog):
    for known in (None, catalog):
        if known:
            reindex(known, storage)
        progress = []
        report = verify(storage, known, LATER, progress=progress.append)
        assert (report.read, report.without, report.wrong) == (4, without_checksum(backend), [])
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
    assert verify(directory, catalog, time.time()).wrong == []  # the catalog may lag behind
    digest = hashlib.sha256(b"third").hexdigest().upper()  # which counts more
    attach(directory, str(NAMES[2]), "json", json.dumps({"sha256": digest}).encode())
    assert verify(directory, catalog, LATER).wrong == []


def test_what_is_erased_meanwhile_is_not_missing(directory, catalog, monkeypatch):
    reindex(catalog, directory)
    path = str(NAMES[0])
    directory.delete(path)
    forget = partial(catalog.forget, directory, [path])
    monkeypatch.setattr(time, "sleep", lambda seconds: forget())
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
    read = f"4 read, {without_checksum(backend)} of them without a checksum"
    result = run(backend.url, "verify")
    assert result.returncode == 0
    assert result.stdout.splitlines() == [first, f"{read}; 0 wrong"]
    attach(storage, str(NAMES[0]), "json", checksum(b"other"))
    result = run(backend.url, "verify", "--threads", 1)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[1].startswith(f"changed: {NAMES[0]}: ")
    assert lines[2] == f"{read}; 1 wrong"


def test_command_that_can_compare_nothing_says_so_and_fails(tmp_path):
    storage = open_storage(str(tmp_path / "recordings"))
    publish(storage, b"audio", NAMES[0])
    result = run(str(storage.root), "verify")
    assert result.returncode == 1
    line = "1 could be read, but no changed byte be seen: there is no checksum of any"
    assert result.stdout.splitlines()[1] == f"{line}, see KZR_CHECKSUMS"
    attach(storage, str(NAMES[0]), "json", checksum(b"audio"))
    assert run(str(storage.root), "verify").returncode == 0


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


def damage(storage: Storage, path: str) -> None:
    """Change bytes below a database, as a disk does."""
    from sqlalchemy import text

    of = "(SELECT id FROM kzr_files WHERE path = :path)"
    update = text(f"UPDATE kzr_chunks SET data = :data WHERE file_id = {of}")
    with storage.engine.begin() as connection:
        assert connection.execute(update, {"path": path, "data": b"{,}"}).rowcount == 1


@pytest.mark.parametrize("kind", ["", ".json", ".txt", ".hold"])
@pytest.mark.parametrize("database", ["postgresql", "mariadb", "sqlite"])
def test_what_a_database_noted_is_compared(request, tmp_path, database, kind):
    """Nothing else has a checksum of it."""
    url = f"sqlite:///{tmp_path}/recordings.sqlite"
    if database != "sqlite":
        url = request.getfixturevalue(database).new_url()
    storage = open_storage(url)
    publish(storage, b"new", NAMES[0], metadata=b"{ }")
    for each in ("txt", "hold"):
        attach(storage, str(NAMES[0]), each, b"{ }")
    assert verify(storage, None, LATER).wrong == []
    damage(storage, f"{NAMES[0]}{kind}")
    changed = [line for line in verify(storage, None, LATER).wrong if line.startswith("changed")]
    storage.engine.dispose()
    assert len(changed) == 1
    assert changed[0].startswith(f"changed: {NAMES[0]}{kind}: its SHA-256 is ")
    assert changed[0].endswith(" (storage)")


def test_what_a_bucket_noted_is_compared(rclone, monkeypatch):
    """Somebody writes other bytes of the same length, and leaves the attributes as they are."""
    for name, value in rclone.environ.items():
        monkeypatch.setenv(name, value)
    storage = open_storage(f"s3://{rclone.create_bucket()}")
    publish(storage, b"new", NAMES[0])
    open_one, digest = storage.open, hashlib.sha256(b"nEw").hexdigest()
    monkeypatch.setattr(storage, "open", lambda path: replace(open_one(path), noted=digest))
    (line,) = verify(storage, None, LATER).wrong
    assert line.endswith(f", and was {digest} (storage)")


@pytest.mark.parametrize("length", [b"", b"ne", b"newest"])
def test_size_of_the_catalog_counts(directory, catalog, length):
    for path in (directory.root / "third.wav", directory.root / "no-extension~"):
        path.write_bytes(b"third")
    (directory.root / "no-extension~~.json").unlink()
    reindex(catalog, directory)
    (directory.root / "no-extension~").write_bytes(length)
    changed = f"changed: no-extension~: its size is {len(length)}, and was 5 (catalog)"
    assert verify(directory, catalog, LATER).wrong == [changed]
    assert verify(directory, catalog, time.time()).wrong == []  # the catalog may lag behind


@pytest.mark.parametrize("name", NAMES)
def test_metadata_without_their_recording_are_told(backend, storage, name):
    """The recording was lost, with its checksum left beside where it was."""
    beside = sidecar(str(name), "json")
    if not hasattr(storage, "root"):
        storage.delete(str(name))
        with storage.incoming() as file:
            file.write(b"{}")
            file.flush()
            storage.put(beside, file, time.time())
    else:
        (storage.root / str(name)).unlink()
    report = verify(storage, None, LATER)
    assert report.wrong == [f"alone: {beside}: its recording is not stored"]
    assert run(backend.url, "verify").returncode == 1


def test_metadata_of_a_recording_that_is_about_to_follow_are_not_told(directory, monkeypatch):
    beside = directory.root / "late.mp3.json"
    beside.write_text("{}")
    follow = (directory.root / "late.mp3").write_bytes
    monkeypatch.setattr("receiver.retention.verify.time.sleep", lambda seconds: follow(b"audio"))
    assert verify(directory, None, LATER).wrong == []


@pytest.mark.parametrize(
    "error",
    [
        StorageFailed("two\nlines"),
        OSError(5, "Input/output error"),
        OverflowError("too large"),
        RecursionError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        KeyError("sha256"),
    ],
)
def test_no_odd_recording_ends_it(directory, monkeypatch, error):
    open_one = directory.open

    def fail(path):
        if path == "third.wav":
            raise error
        return open_one(path)

    monkeypatch.setattr(directory, "open", fail)
    report = verify(directory, None, LATER)
    assert report.read == 3
    (line,) = report.wrong
    assert line.startswith("unreadable: third.wav: ") and line.isprintable()


@pytest.mark.parametrize("seconds", [-(2**40), -1, 0, 9_000_000_000, 2**38])
def test_no_time_ends_it(directory, catalog, seconds):
    os.utime(directory.root / "third.wav", (seconds,) * 2)
    reindex(catalog, directory)
    assert verify(directory, catalog, LATER).wrong == []


def test_names_that_are_no_text_are_read_and_told(directory, tmp_path):
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    (directory.root / "\udcfc.mp3").write_bytes(b"audio")
    result = run(str(directory.root), "reindex", catalog=url)
    assert result.returncode == 1
    assert result.stderr == "\\xfc.mp3: not in the catalog: its name is not UTF-8: rename it\n"
    result = run(str(directory.root), "verify", catalog=url)
    assert result.returncode == 0  # it is new
    assert "5 read" in result.stdout
    os.utime(directory.root / "\udcfc.mp3", (1_600_000_000,) * 2)
    result = run(str(directory.root), "verify", catalog=url)
    assert result.returncode == 1
    assert "extra: \\xfc.mp3: stored, but not in the catalog\n" in result.stdout
