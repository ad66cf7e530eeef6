"""`copy FROM TO`: a whole storage goes to another, and nothing is overwritten."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.core.naming import RecordingName, sidecar
from receiver.parts import Storage
from receiver.storage import open_storage
from receiver.storage.copying import copy_all
from receiver.storage.directory import DirectoryStorage
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
    found = (path for path in root.rglob("*") if path.is_file())
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
    assert (result.returncode, result.stderr) == (0, "")
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
    if not backend.url.startswith("s3"):  # whose own clock decides
        assert after == before


def test_copy_that_broke_off_goes_on(old, tmp_path):
    run(tmp_path / "old", tmp_path / "new")
    (tmp_path / "new" / str(NAMES[0])).unlink()
    result = run(tmp_path / "old", tmp_path / "new")
    assert "1 copied, 8 were there already, 0 failed" in result.stdout
    assert files(tmp_path / "new") == files(tmp_path / "old")


def test_another_recording_of_the_same_name_is_kept_and_reported(old, tmp_path):
    (tmp_path / "new" / "no-extension").write_bytes(b"other")
    result = run(tmp_path / "old", tmp_path / "new")
    assert result.returncode == 1
    assert "no-extension: another recording is stored as no-extension" in result.stderr
    assert "8 copied, 0 were there already, 1 failed" in result.stdout
    assert (tmp_path / "new" / "no-extension").read_bytes() == b"other"


def test_copy_that_reads_back_otherwise_is_reported(old, tmp_path, monkeypatch):
    new = open_storage(str(tmp_path / "new"))
    put = DirectoryStorage.put

    def damage(self, path, file, modified):
        outcome = put(self, path, file, modified)
        if path == "no-extension":
            (tmp_path / "new" / path).write_bytes(b"damaged")
        return outcome

    monkeypatch.setattr(DirectoryStorage, "put", damage)
    report = copy_all(old, new)
    assert report.failed == [
        "no-extension: the copy reads back otherwise: delete it and copy again"
    ]
    assert report.copied == 8


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
