"""What a directory promises beyond the contract of storages."""

import errno
import os
import shutil
import stat
import subprocess
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from receiver.core import publish as publishing
from receiver.core.naming import RecordingName
from receiver.core.publish import INCOMING, NO_TMPFILE
from receiver.errors import NameTaken, StorageFailed
from receiver.parts import Outcome, Storage
from receiver.storage import open_storage
from support.contract import StorageContract
from support.needs import need, need_root
from support.notes import is_note
from support.storages import NAME, publish
from support.waiting import wait_for


class TestDirectory(StorageContract):
    def open(self) -> Storage:
        return open_storage(str(self.tmp_path / "root"))

    def read(self) -> dict[str, bytes]:
        root = self.tmp_path / "root"
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and not is_note(path.name)
        }

    def test_name_is_never_absent_while_it_is_superseded(self, storage):
        publish(storage, b"first")
        path = self.tmp_path / "root" / str(NAME)
        done = threading.Event()

        def write() -> None:
            for number in range(200):
                publish(storage, b"%d" % number)
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not done.is_set():
            assert path.read_bytes()
        writer.join()
        assert len(self.read()) == 201

    @pytest.mark.parametrize("umask", [0o000, 0o077])
    def test_modes_do_not_depend_on_the_umask(self, storage, umask):
        before = os.umask(umask)
        try:
            publish(storage, b"audio")
        finally:
            os.umask(before)
        path = self.tmp_path / "root" / str(NAME)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750

    def test_refuse_keeps_the_first(self, storage):
        publish(storage, b"one")
        careful = open_storage(str(self.tmp_path / "root"), supersede=False)
        with pytest.raises(NameTaken, match="another recording is stored as ACCOUNT/USER/abc"):
            publish(careful, b"two")
        assert publish(careful, b"one").outcome is Outcome.IDENTICAL
        assert list(self.read().values()) == [b"one"]

    @pytest.mark.parametrize("plant", [Path.mkdir, os.mkfifo])
    def test_what_is_no_recording_is_left_alone(self, storage, plant):
        plant(self.tmp_path / "root" / "x.mp3")
        with pytest.raises(StorageFailed, match="Not a recording, move it away: x.mp3"):
            publish(storage, b"audio", RecordingName("", "x", "mp3"))
        assert self.read() == {}

    def test_planted_symlinks_are_not_followed(self, storage):
        outside = self.tmp_path / "outside"
        outside.mkdir()
        (outside / "victim").write_bytes(b"audio")
        (self.tmp_path / "root" / "x.mp3").symlink_to(outside / "victim")
        (self.tmp_path / "root" / "y.mp3").symlink_to(outside / "absent")
        (self.tmp_path / "root" / "folder").symlink_to(outside)
        for name in (
            RecordingName("", "x", "mp3"),
            RecordingName("", "y", "mp3"),
            RecordingName("folder", "z", "mp3"),
        ):
            with pytest.raises(StorageFailed):
                publish(storage, b"audio", name)
        assert [path.name for path in outside.iterdir()] == ["victim"]

    def test_recording_in_place_of_a_folder_is_left_alone(self, storage):
        (self.tmp_path / "root" / "ACCOUNT").write_bytes(b"audio")  # of an earlier release
        with pytest.raises(StorageFailed, match="No folder, rename it to ACCOUNT~: ACCOUNT"):
            publish(storage, b"audio")
        assert self.read() == {"ACCOUNT": b"audio"}

    def test_every_new_folder_is_synced_into_its_parent(self, storage, monkeypatch):
        root = self.tmp_path / "root"
        synced = []
        fsync = os.fsync

        def record(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", record)
        publish(storage, b"one")
        assert not Path(synced[0]).is_dir()  # the recording itself comes first
        assert synced[1:] == [str(root), str(root / "ACCOUNT"), str(root / "ACCOUNT/USER")]
        synced.clear()
        publish(storage, b"two", RecordingName(NAME.folder, "two", "mp3"), metadata=b"{}")
        assert len(synced) == 3 and synced[2] == str(root / NAME.folder)  # metadata and recording
        synced.clear()
        publish(storage, b"one")  # a retry's file may not have been synced by its first writer
        assert synced[1:] == [str(root / NAME.folder / NAME.filename), str(root / NAME.folder)]
        synced.clear()
        publish(self.open(), b"other", RecordingName(NAME.folder, "other", "mp3"))
        assert synced[1:] == [str(root), str(root / "ACCOUNT"), str(root / "ACCOUNT/USER")]

    def test_trial_of_a_start_that_broke_off_is_removed(self, storage):
        trial = self.tmp_path / "root" / ".trial"
        trial.touch()
        self.open()
        assert not trial.exists()

    def test_link_in_place_of_the_folder_of_unfinished_files_is_not_swept(self, storage, tmp_path):
        (outside := tmp_path / "outside").mkdir()
        (file := outside / "old").touch()
        os.utime(file, (time.time() - 100_000,) * 2)
        shutil.rmtree(storage.root / INCOMING, ignore_errors=True)
        (storage.root / INCOMING).symlink_to(outside)
        storage.sweep()
        assert file.exists()

    def test_folder_that_was_removed_is_synced_again_by_whoever_finds_it(
        self, storage, monkeypatch
    ):
        publish(storage, b"one")
        shutil.rmtree(self.tmp_path / "root/ACCOUNT")
        synced = []
        fsync = os.fsync

        def fail(descriptor: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(self.tmp_path / "root"):
                raise OSError(errno.EIO, "Input/output error")
            fsync(descriptor)

        def record(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StorageFailed):
            publish(storage, b"one")
        monkeypatch.setattr(os, "fsync", record)
        publish(storage, b"one")
        assert str(self.tmp_path / "root") in synced

    def test_every_change_of_a_folder_is_synced(self, storage, monkeypatch):
        name = RecordingName("", "x", "mp3")
        publish(storage, b"old", name)
        calls = []

        def watch(function: str) -> None:
            original = getattr(os, function)

            def call(*args, **kwargs):
                what = ""
                if function == "fsync":
                    is_folder = os.readlink(f"/proc/self/fd/{args[0]}") == str(storage.root)
                    what = " folder" if is_folder else " file"
                calls.append(function + what)
                return original(*args, **kwargs)

            monkeypatch.setattr(os, function, call)

        for function in ("fsync", "link", "replace", "unlink"):
            watch(function)
        with storage.incoming() as file:
            storage.put("y.mp3", file, 0)
        assert calls[:3] == ["fsync file", "link", "fsync folder"]
        calls.clear()
        publish(storage, b"new", name)
        assert calls[0] == "fsync file"
        # On disk before a rename takes away the old name.
        linked = len(calls) - calls[::-1].index("link")
        assert "fsync folder" in calls[linked : calls.index("replace", linked)]
        assert "fsync folder" in calls[calls.index("replace") :]
        calls.clear()
        with closing(storage.open("x.mp3")) as recording:
            etag = recording.etag
        storage.attach("x.mp3", "txt", b"words", etag)
        assert calls.index("fsync file") < calls.index("link")
        assert "fsync folder" in calls[calls.index("replace") :]
        calls.clear()
        storage.delete("x.mp3")
        assert calls[-2:] == ["unlink", "fsync folder"]

    def test_name_that_somebody_else_took_meanwhile_is_not_overwritten(self, storage, monkeypatch):
        """A program that knows nothing of the lock, such as one that restores a backup."""
        name = RecordingName("", "x", "mp3")
        monkeypatch.setattr(publishing, "exists", lambda filename, folder: False)
        publish(storage, b"theirs", name)
        with pytest.raises(StorageFailed):
            publish(storage, b"ours", name)
        assert (self.tmp_path / "root" / "x.mp3").read_bytes() == b"theirs"

    def test_root_is_created_durably(self, tmp_path, monkeypatch):
        synced = []
        monkeypatch.setattr(
            os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        )
        open_storage(str(tmp_path / "a" / "b"))
        assert synced == [str(tmp_path), str(tmp_path / "a")]

    @pytest.mark.parametrize("metadata", [b"", b"{new}"])
    @pytest.mark.parametrize(
        ("function", "call"),
        [("fsync", n) for n in (1, 2, 3, 4)]
        + [("link", n) for n in (1, 2, 3, 4)]
        + [("replace", n) for n in (1, 2)]
        + [("unlink", n) for n in (1, 2)],
    )
    def test_superseding_that_breaks_off_is_finished_by_the_retry(
        self, storage, monkeypatch, function, call, metadata
    ):
        publish(storage, b"old", metadata=b"{old}")
        original = getattr(os, function)
        calls = []

        def fail(*args, **kwargs):
            calls.append(args)
            if len(calls) == call and "tmp" not in str(args[0]):
                raise OSError(errno.EIO, "broken")
            return original(*args, **kwargs)

        with monkeypatch.context() as patch, suppress(StorageFailed):
            patch.setattr(os, function, fail)
            publish(storage, b"new", metadata=metadata)
        files = self.read()
        olds = [path for path, data in files.items() if data == b"old"]
        assert any(files.get(f"{path}.json") == b"{old}" for path in olds)
        assert publish(storage, b"new", metadata=metadata).outcome is not Outcome.CREATED
        files = self.read()
        path = "ACCOUNT/USER/abc@10.0.0.1"
        assert (files[f"{path}.mp3"], files.get(f"{path}.mp3.json", b"")) == (b"new", metadata)
        kept = [path for path, data in files.items() if data == b"old"]
        assert any(files.get(f"{path}.json") == b"{old}" for path in kept)

    def test_metadata_of_an_upload_that_broke_off_is_not_taken_for_the_next_ones(
        self, storage, monkeypatch
    ):
        link = os.link

        def fail(source, target, **kwargs):
            if target.endswith(".mp3"):
                raise OSError(errno.EIO, "broken")
            link(source, target, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(StorageFailed):
            patch.setattr(os, "link", fail)
            publish(storage, b"one", metadata=b"{1}")
        publish(storage, b"two")
        assert list(self.read().values()) == [b"two"]


class TestDirectoryWithoutTmpfile(TestDirectory):
    """The same on a file system that has no O_TMPFILE: a folder mounted through FUSE."""

    @pytest.fixture(autouse=True)
    def mounted(self, tmp_path):
        need_root()
        root = tmp_path / "root"
        root.mkdir()
        (tmp_path / "disk").mkdir()
        server = subprocess.Popen([need("bindfs"), "-f", tmp_path / "disk", root])
        wait_for(lambda: os.path.ismount(root))
        yield
        subprocess.run(["umount", "-l", root], check=True)
        server.wait(20)

    # libfuse, not the receiver, may answer that a name is gone while it is renamed over.
    test_name_is_never_absent_while_it_is_superseded = None

    def test_there_is_no_tmpfile_here(self, storage):
        with pytest.raises(OSError) as error:
            os.open(storage.root, os.O_TMPFILE | os.O_RDWR)
        assert error.value.errno in NO_TMPFILE

    def test_unfinished_files_are_hidden_and_swept_at_start_when_old(self, storage):
        folder = storage.root / INCOMING
        with storage.incoming():
            (file,) = folder.iterdir()
        assert list(folder.iterdir()) == []
        for name, age in (("old", 100_000), ("new", 10)):
            (folder / name).touch()
            os.utime(folder / name, (time.time() - age,) * 2)
        self.open()
        assert [path.name for path in folder.iterdir()] == ["new"]
