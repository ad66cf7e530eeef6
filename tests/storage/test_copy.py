"""`copy FROM TO`: a whole storage goes to another, and nothing is overwritten."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from receiver.core.naming import RecordingName, sidecar
from receiver.errors import NotStored
from receiver.parts import Storage
from receiver.retention import holds
from receiver.retention.purge import purge
from receiver.storage import open_storage
from receiver.storage.copying import copy_all
from receiver.storage.directory import DirectoryStorage
from receiver.storage.paths import numbered
from support.notes import MARKER
from support.paths import PROJECT
from support.storages import publish

NAMES = [
    RecordingName("ACCOUNT/USER", "abc@10.0.0.1", "mp3"),
    RecordingName("", "no-extension", ""),
    RecordingName("%C3%9Cmlaut", "a/b~c%d", "wav"),
]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name[:4] != "KZR_"}
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", "copy", *map(str, arguments)],
        cwd=PROJECT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )


def files(root: Path) -> dict[str, tuple[bytes, float]]:
    found = (path for path in root.rglob("*") if path.is_file() and path.name != MARKER)
    return {
        str(path.relative_to(root)): (path.read_bytes(), round(path.stat().st_mtime, 3))
        for path in found
    }


@pytest.fixture
def old(tmp_path) -> Storage:
    """Recordings with metadata and transcripts, large and empty ones, and superseded ones."""
    (tmp_path / "new").mkdir()
    storage = open_storage(str(tmp_path / "old"))
    for name in NAMES:
        publish(storage, os.urandom(700_000), name, metadata=b'{"first": 1}')
        publish(storage, b"", name)
        publish(storage, os.urandom(10), name, metadata=b'{"third": 1}')
    (tmp_path / "old" / NAMES[0].folder / sidecar(NAMES[0].filename, "vtt")).write_text("WEBVTT")
    return storage


def test_copy_has_every_file_with_its_time(old, tmp_path):
    result = run(tmp_path / "old", tmp_path / "new")
    assert result.returncode == 0
    assert result.stderr.count("\n") == 1  # that the destination is new
    assert result.stdout.splitlines() == [
        "9 recordings, 2.1 MB",
        "9 copied, 0 were there already, 0 failed",
    ]
    assert len(files(tmp_path / "old")) == 9 + 6 + 1
    assert files(tmp_path / "new") == files(tmp_path / "old")


def test_copy_through_any_storage_comes_out_as_it_went_in(old, tmp_path, backend):
    """A directory goes to another storage, and from there to a new directory."""
    (tmp_path / "recordings").mkdir(exist_ok=True)
    for source, destination in ((tmp_path / "old", backend.url), (backend.url, tmp_path / "new")):
        for outcome in ("9 copied, 0 were there", "0 copied, 9 were there"):
            result = run(source, destination)
            assert (result.returncode, outcome in result.stdout) == (0, True), result
    before, after = files(tmp_path / "old"), files(tmp_path / "new")
    assert {path: data for path, (data, _) in after.items()} == {
        path: data for path, (data, _) in before.items()
    }
    assert after == before


def test_copy_moves_a_recording_and_a_folder_of_the_same_name(tmp_path, backend):
    """Whichever came first, and whatever the storages between: a bucket has no folders."""
    (tmp_path / "new").mkdir()
    (tmp_path / "recordings").mkdir(exist_ok=True)
    old = open_storage(str(tmp_path / "old"))
    names = [RecordingName.parse(path) for path in ("A", "A/B/x.mp3", "A/B", "x.mp3", "x.mp3/y")]
    for name in names:
        publish(old, str(name).encode(), name, metadata=b"{}")
    for source, destination in ((tmp_path / "old", backend.url), (backend.url, tmp_path / "new")):
        result = run(source, destination)
        assert (result.returncode, "5 copied" in result.stdout) == (0, True), result
    assert len(files(tmp_path / "new")) == 10
    new = open_storage(str(tmp_path / "new"))
    for name in names:
        with closing(new.open(str(name))) as recording:
            assert recording.read(100) == str(name).encode()


def test_copy_that_broke_off_goes_on(old, tmp_path):
    run(tmp_path / "old", tmp_path / "new")
    (tmp_path / "new" / str(NAMES[0])).unlink()
    result = run(tmp_path / "old", tmp_path / "new")
    assert "1 copied, 8 were there already, 0 failed" in result.stdout
    assert files(tmp_path / "new") == files(tmp_path / "old")


def test_another_recording_of_the_same_name_is_kept_and_reported(old, tmp_path):
    (tmp_path / "new" / "no-extension~").write_bytes(b"other")
    result = run(tmp_path / "old", tmp_path / "new")
    assert result.returncode == 1
    assert "no-extension~: another recording is stored as no-extension~" in result.stderr
    assert "8 copied, 0 were there already, 1 failed" in result.stdout
    assert (tmp_path / "new" / "no-extension~").read_bytes() == b"other"


def test_copy_that_reads_back_otherwise_is_reported(old, tmp_path, monkeypatch):
    new = open_storage(str(tmp_path / "new"))
    put = DirectoryStorage.put

    def damage(self, path, file, modified):
        outcome = put(self, path, file, modified)
        if path == "no-extension~":
            (tmp_path / "new" / path).write_bytes(b"damaged")
        return outcome

    monkeypatch.setattr(DirectoryStorage, "put", damage)
    report = copy_all(old, new)
    assert report.failed == [
        "no-extension~: the copy reads back otherwise: delete it and copy again"
    ]
    assert report.copied == 8


def beside(storage: Storage, data: bytes) -> dict[str, bytes]:
    """What lies beside the recording that has the bytes, which no other has."""
    (path,) = [each.path for each in storage.scan() if read(storage, each.path) == data]
    kinds = ("json", "txt", "vtt", "hold")
    return {kind: told for kind in kinds if (told := read(storage, sidecar(path, kind)))}


def read(storage: Storage, path: str) -> bytes | None:
    with suppress(NotStored), closing(storage.open(path)) as opened:
        return opened.file.read()
    return None


@pytest.fixture
def pair(tmp_path, backend) -> Iterator[tuple[Storage, Storage]]:
    """A folder, and another storage to copy it to."""
    destination = open_storage(backend.url)
    yield open_storage(str(tmp_path / "old")), destination
    if engine := getattr(destination, "engine", None):
        engine.dispose()


def test_each_version_has_its_own_metadata_however_often_it_is_copied(pair):
    source, destination = pair
    name = NAMES[0]
    for number in range(1, 5):
        publish(source, b"%d" % number, name, metadata=b'{"call": %d}' % number)
        holds.hold(source, str(name), f"case {number}")
        report = copy_all(source, destination)
        assert (report.copied, report.identical, report.failed) == (1, number - 1, [])
        assert len(list(destination.scan())) == number
        for each in range(1, number + 1):
            told = beside(destination, b"%d" % each)
            assert told["json"] == b'{"call": %d}' % each
            assert json.loads(told["hold"])["reason"] == f"case {number}"
        assert read(destination, str(name)) == b"%d" % number


def test_versions_are_matched_by_their_bytes_and_not_by_their_numbers(pair):
    source, destination = pair
    name = NAMES[0]
    for number in (2, 0, 1, 3):
        publish(destination, b"%d" % number, name)
    destination.delete(numbered(str(name), 2))
    for number in range(5):
        publish(source, b"%d" % number, name, metadata=b'{"call": %d}' % number)
    for _ in range(2):
        report = copy_all(source, destination)
        assert report.failed == []
        assert sorted(read(destination, each.path) for each in destination.scan()) == [
            b"%d" % number for number in range(5)
        ]
        for number in range(5):
            assert beside(destination, b"%d" % number)["json"] == b'{"call": %d}' % number


def test_hold_arrives_although_metadata_have_changed(pair):
    source, destination = pair
    path = str(NAMES[0])
    publish(source, b"audio", NAMES[0], metadata=b'{"call": 1}')
    copy_all(source, destination)
    with closing(source.open(path)) as recording:
        etag = recording.etag
    source.attach(path, "json", b'{"call": 1, "sha256": "0"}', etag)
    source.attach(path, "txt", b"words", etag)
    holds.hold(source, path)
    assert copy_all(source, destination).failed == []
    told = beside(destination, b"audio")
    assert (told["json"], told["txt"]) == (b'{"call": 1, "sha256": "0"}', b"words")
    assert purge(destination, None, {"": 1}, time.time() + 10**6).held == [path]


def test_what_only_the_copy_has_stays(pair):
    """A hold above all, even where the original's has ended."""
    source, destination = pair
    path = str(NAMES[0])
    publish(source, b"audio", NAMES[0], metadata=b'{"call": 1}')
    holds.hold(source, path)
    copy_all(source, destination)
    holds.release(source, path)
    with closing(destination.open(path)) as recording:
        destination.attach(path, "json", b'{"sha256": "0", "call": 1}', recording.etag)
        destination.attach(path, "txt", b"words", recording.etag)
    assert copy_all(source, destination).identical == 1
    told = beside(destination, b"audio")
    assert told.pop("hold")
    assert told == {"json": b'{"sha256": "0", "call": 1}', "txt": b"words"}


def test_times_of_receipt_come_back_from_every_storage(pair, tmp_path):
    source, middle = pair
    for number, name in enumerate((*NAMES, NAMES[0])):
        with source.incoming() as file:
            file.write(b"%d" % number)
            file.flush()
            os.utime(file.fileno(), (1_500_000_000.5 + number,) * 2)
            source.publish(file, name)
    back = open_storage(str(tmp_path / "back"))
    assert copy_all(source, middle).failed == []
    assert copy_all(middle, back).failed == []
    assert files(tmp_path / "back") == files(tmp_path / "old")
    times = {each.path: each.modified for each in source.scan()}
    assert {each.path: each.modified for each in middle.scan()} == times


def test_source_is_only_read(old, tmp_path):
    before = files(tmp_path / "old")
    source = open_storage(str(tmp_path / "old"), read_only=True)
    with pytest.MonkeyPatch.context() as patch:
        for function in ("link", "unlink", "mkdir", "replace"):
            patch.setattr(os, function, None)
        assert len(list(source.scan())) == 9
    copy_all(source, open_storage(str(tmp_path / "new")))
    assert files(tmp_path / "old") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere", "."], "there is no storage /nowhere"),
        ([".", "/nowhere"], "there is no storage /nowhere"),
        ([".", "sqlite:////nowhere/x"], "there is no storage /nowhere/x"),
        ([".", "ftp://x"], "ftp://...: expected the path of a folder, or one of s3://"),
        ([".", "/dev/null"], "/dev/null: could not store: Not a directory"),
    ],
)
def test_what_cannot_be_opened_is_named(arguments, message):
    result = run(*arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_full_destination_is_reported(old, tmp_path):
    new = open_storage(str(tmp_path / "new"), min_free=10**18)
    report = copy_all(old, new)
    assert report.copied == 0
    assert report.failed[0].endswith("the disk is full: free some space or lower KZR_MIN_FREE")
