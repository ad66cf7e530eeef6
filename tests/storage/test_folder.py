"""A folder as the world has it: what crashes left, odd entries, other disks, no disk at all."""

import os
import stat
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest

from receiver.core.naming import RecordingName, sidecar
from receiver.errors import Held, NotStored, SettingError, StorageUnavailable
from receiver.parts import Outcome
from receiver.storage import open_storage, place, versions
from receiver.storage.base import GONE as LEFT
from receiver.storage.paths import NEW, gone, numbered
from support.needs import need_root
from support.paths import PROJECT
from support.storages import publish

NAME = RecordingName("", "x", "mp3")


@pytest.fixture
def storage(tmp_path):
    return open_storage(str(tmp_path / "root"))


def there(storage) -> dict[str, bytes]:
    """All that is below the root but the storage's own notes."""
    return {
        str(path.relative_to(storage.root)): path.read_bytes()
        for path in sorted(storage.root.rglob("*"))
        if path.is_file() and path.name != place.MARKER and not path.name.endswith(".versions")
    }


def read(storage, path: str) -> bytes:
    with closing(storage.open(path)) as recording:
        return recording.file.read()


def crash_before(monkeypatch, function: str, match) -> None:
    """Let the process "die" at the first call of a function of `os` whose arguments match."""
    original = getattr(os, function)

    def call(*args, **kwargs):
        if match(*args):
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(os, function, call)


def supersede_in_part(storage, monkeypatch, data: bytes) -> None:
    """Leave what a kill just before the last step of superseding leaves."""
    with monkeypatch.context() as patched:
        crash_before(patched, "replace", lambda old, new: old == numbered("x.mp3", NEW))
        with pytest.raises(KeyboardInterrupt):
            publish(storage, data, NAME, metadata=b'{"n": 2}')
    assert numbered("x.mp3", NEW) in there(storage)


class TestSteps:
    """What a crash left is finished or undone first, and never over what has come since."""

    @pytest.mark.parametrize(
        "removed_by", ["the storage", "another program", "another program that replaced it"]
    )
    def test_a_step_never_overwrites_what_came_after_it(self, storage, monkeypatch, removed_by):
        publish(storage, b"A", NAME, metadata=b'{"n": 1}')
        supersede_in_part(storage, monkeypatch, b"B")
        if removed_by == "the storage":
            storage.delete("x.mp3")
        else:
            (storage.root / "x.mp3").unlink()
        if removed_by == "another program that replaced it":
            (storage.root / "x.mp3").write_bytes(b"C")
        else:
            publish(storage, b"C", NAME)
        assert publish(storage, b"D", NAME).outcome is Outcome.SUPERSEDED
        stored = [read(storage, each.path) for each in storage.scan()]
        assert b"C" in stored and read(storage, "x.mp3") == b"D"
        assert not [name for name in there(storage) if f"~{NEW}" in name]

    def test_a_step_is_finished_by_the_next_upload(self, storage, monkeypatch):
        publish(storage, b"A", NAME, metadata=b'{"n": 1}')
        supersede_in_part(storage, monkeypatch, b"B")
        assert publish(storage, b"B", NAME, metadata=b'{"n": 2}').outcome is Outcome.IDENTICAL
        assert there(storage) == {
            "x.mp3": b"B",
            "x.mp3.json": b'{"n": 2}',
            "x~1.mp3": b"A",
            "x~1.mp3.json": b'{"n": 1}',
        }

    def test_a_step_is_finished_by_a_scan(self, storage, monkeypatch):
        publish(storage, b"A", NAME)
        supersede_in_part(storage, monkeypatch, b"B")
        assert [each.path for each in storage.scan()] == ["x.mp3", "x~1.mp3"]
        assert read(storage, "x.mp3") == b"B"

    def test_a_copy_that_was_not_followed_by_its_step_is_used_by_the_next(
        self, storage, monkeypatch
    ):
        publish(storage, b"A", NAME)
        with monkeypatch.context() as patched:
            crash_before(patched, "link", lambda file, name: name == numbered("x.mp3", NEW))
            with pytest.raises(KeyboardInterrupt):
                publish(storage, b"B", NAME, metadata=b"{}")
        publish(storage, b"C", NAME, metadata=b"{}")
        assert there(storage) == {"x.mp3": b"C", "x.mp3.json": b"{}", "x~1.mp3": b"A"}

    @pytest.mark.parametrize("number", [0, 1])
    @pytest.mark.parametrize("next_is", ["scan", "upload", "delete"])
    def test_a_deletion_that_broke_off_is_finished(self, storage, monkeypatch, number, next_is):
        publish(storage, b"A", NAME, metadata=b'{"from": "4930123456"}')
        if number:
            publish(storage, b"B", NAME)
        path = numbered("x.mp3", number)
        with monkeypatch.context() as patched:
            crash_before(patched, "unlink", lambda name: name == gone(path))
            with pytest.raises(KeyboardInterrupt):
                storage.delete(path)
        with pytest.raises(NotStored):
            storage.open(path)
        if next_is == "upload":
            publish(storage, b"C", NAME)
            assert read(storage, "x.mp3") == b"C"
        if next_is == "delete":
            with pytest.raises(NotStored):
                storage.delete(path)
        list(storage.scan())
        assert b"A" not in there(storage).values()
        assert not [name for name in there(storage) if name.endswith(".json")]

    def test_a_recording_whose_metadata_are_gone_is_gone_too(self, storage, monkeypatch):
        """Killed at any step, an erasure leaves nothing that a second one would not find."""
        publish(storage, b"A", NAME, metadata=b'{"from": "4930123456"}')
        for function in ("replace", "fsync", "unlink"):
            for number in range(8):
                fates = iter([False] * number + [True] + [False] * 100)
                with monkeypatch.context() as patched:
                    crash_before(patched, function, lambda *args, fates=fates: next(fates))
                    try:
                        storage.delete("x.mp3")
                    except (KeyboardInterrupt, NotStored):
                        pass
                is_there = bool([each for each in storage.scan()])
                assert is_there == ("x.mp3.json" in there(storage))
                publish(storage, b"A", NAME, metadata=b'{"from": "4930123456"}')

    def test_what_attaching_left_goes_with_its_recording(self, storage, monkeypatch):
        etag = publish(storage, b"A", NAME).etag
        with monkeypatch.context() as patched:
            crash_before(patched, "replace", lambda *names: True)
            with pytest.raises(KeyboardInterrupt):
                storage.attach("x.mp3", "txt", b"what was said", etag)
        assert there(storage)[".x.mp3.txt.new"] == b"what was said"
        storage.delete("x.mp3")
        assert there(storage) == {}

    def test_what_attaching_left_is_seen_by_a_scan(self, storage):
        publish(storage, b"A", NAME)
        (storage.root / ".gone.mp3.txt.new").write_text("what was said")
        list(storage.scan())
        assert there(storage) == {"x.mp3": b"A"}

    def test_a_new_recording_begins_with_nothing_beside_it(self, storage):
        storage.root.joinpath("x.mp3.hold").write_text("{}")
        storage.root.joinpath("x.mp3.txt").write_text("a stranger's words")
        publish(storage, b"A", NAME)
        assert there(storage) == {"x.mp3": b"A"}


class TestVersions:
    def test_bytes_are_found_after_a_gap_in_the_numbers(self, storage):
        for number in range(5):
            publish(storage, b"%d" % number, NAME)
        storage.delete("x~1.mp3")
        storage.delete("x~3.mp3")
        assert publish(storage, b"3", NAME).outcome is Outcome.IDENTICAL
        assert read(storage, "x.mp3") == b"4"

    @pytest.mark.parametrize("gap", [30, 300])
    def test_bytes_are_found_after_a_large_gap(self, storage, gap):
        for number in range(gap + 5):
            publish(storage, b"%d" % number, NAME)
        for number in range(1, gap):
            storage.delete(numbered("x.mp3", number))
        assert publish(storage, b"%d" % gap, NAME).outcome is Outcome.IDENTICAL
        assert publish(storage, b"another", NAME).kept_as == numbered("x.mp3", gap + 5)

    def test_notes_that_are_lost_or_cut_are_made_anew(self, storage):
        for number in range(20):
            publish(storage, b"%d" % number, NAME)
        notes = storage.root / ".x.mp3.versions"
        for size in (None, 100, 0):
            os.truncate(notes, size) if size is not None else notes.unlink()
            assert publish(storage, b"3", NAME).outcome is Outcome.IDENTICAL
            publish(storage, os.urandom(9), NAME)
        assert len(list(storage.scan())) == 23

    def test_no_note_is_left_of_a_name_that_is_gone(self, storage):
        for number in range(12):
            publish(storage, b"%d" % number, NAME)
        for each in list(storage.scan()):
            storage.delete(each.path)
        assert [path.name for path in storage.root.iterdir()] == [place.MARKER]

    def test_older_recordings_are_not_read_to_find_bytes(self, storage, monkeypatch):
        for number in range(100):
            publish(storage, b"%03d" % number, NAME)
        opened = []
        original = versions.open_recording
        monkeypatch.setattr(
            versions, "open_recording", lambda *args: opened.append(args[0]) or original(*args)
        )
        publish(storage, b"new", NAME)
        assert len(set(opened)) <= 4, opened  # the notes, the newest, its metadata and its number


class TestOddEntries:
    """One odd entry never ends an operation over all."""

    @pytest.fixture
    def odd(self, storage) -> list[str]:
        for name in ("a.mp3", "z.mp3"):
            (storage.root / name).write_bytes(b"audio")
        return []

    def scan(self, storage, odd: list[str]) -> list[str]:
        return [each.path for each in storage.scan(odd=odd.append)]

    def test_a_link_in_an_accounts_place_is_told(self, storage, odd, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (storage.root / "m").symlink_to(tmp_path / "elsewhere")
        assert self.scan(storage, odd) == ["a.mp3", "z.mp3"]
        assert odd == ["m: passed over: it is a symbolic link"]

    def test_a_pipe_in_a_recordings_place_is_told(self, storage, odd):
        os.mkfifo(storage.root / "m.mp3")
        assert self.scan(storage, odd) == ["a.mp3", "z.mp3"]
        assert odd == ["m.mp3: passed over: it is no ordinary file"]

    @pytest.mark.parametrize("name", [b"\xfc.mp3", b"line\nbreak.mp3", b"\x1b[2J.mp3"])
    def test_names_of_other_programs_are_listed(self, storage, odd, name):
        (storage.root / os.fsdecode(name)).write_bytes(b"audio")
        assert os.fsdecode(name) in self.scan(storage, odd)
        assert odd == []

    def test_a_folder_that_cannot_be_read_is_told_in_one_line(self, storage, odd):
        need_root()
        for name in ("closed", "open\nline"):
            (storage.root / name).mkdir(mode=0)
            (storage.root / name).chmod(0)
        told = self.as_service(storage, "for each in storage.scan(odd=print): print(each.path)")
        assert told.splitlines() == [
            "a.mp3",
            "closed: passed over: Permission denied",
            "open\\nline: passed over: Permission denied",
            "z.mp3",
        ]

    def as_service(self, storage, code: str) -> str:
        """Run code as root without its right to read everything."""
        program = (
            "from receiver.storage import open_storage;"
            f"storage = open_storage({str(storage.root)!r}, read_only=True)\n{code}"
        )
        capabilities = "-dac_override,-dac_read_search"
        return subprocess.run(
            ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
            + [sys.executable, "-c", program],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout


class TestPlace:
    """Recordings are only stored in the place that they were stored in before."""

    def put(self, storage) -> None:
        storage.check_space(5)
        publish(storage, b"audio", NAME)

    @pytest.mark.parametrize("what", ["unmounted", "replaced", "removed"])
    def test_another_place_is_refused_until_it_is_back(self, storage, tmp_path, what):
        self.put(storage)
        storage.root.rename(tmp_path / "disk")
        if what != "removed":
            storage.root.mkdir()
        if what == "replaced":
            (storage.root / place.MARKER).write_text("another\n")
        with pytest.raises(StorageUnavailable, match="is its disk mounted"):
            storage.check_space(5)
        with pytest.raises(StorageUnavailable, match="is its disk mounted"):
            storage.check()
        if what != "removed":
            with storage.incoming() as file:
                with pytest.raises(StorageUnavailable):
                    storage.publish(file, NAME)
            assert not (storage.root / "x.mp3").exists()
            for path in storage.root.iterdir():
                path.unlink()
            storage.root.rmdir()
        (tmp_path / "disk").rename(storage.root)
        self.put(storage)

    def test_a_copy_on_another_disk_is_the_same_place(self, storage, tmp_path):
        self.put(storage)
        subprocess.run(["cp", "-a", storage.root, tmp_path / "copy"], check=True)
        storage.root.rename(tmp_path / "old")
        (tmp_path / "copy").rename(storage.root)
        self.put(storage)

    def test_a_folder_of_before_there_were_ids_is_adopted(self, tmp_path):
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "x.mp3").write_bytes(b"audio")
        storage = open_storage(str(tmp_path / "root"), may_be_new=False)
        assert publish(storage, b"audio", NAME).outcome is Outcome.IDENTICAL

    @pytest.mark.parametrize("entries", [[], ["lost+found"], [".handover"]])
    def test_an_empty_folder_is_no_storage_where_none_may_be_new(self, tmp_path, entries):
        for name in entries:
            (tmp_path / "root" / name).mkdir(parents=True)
        storage = open_storage(str(tmp_path / "root"), may_be_new=False)
        with pytest.raises(StorageUnavailable, match="KZR_STORAGE_NEW=no"):
            storage.check_space(5)
        (tmp_path / "root").mkdir(exist_ok=True)
        (tmp_path / "root" / place.MARKER).write_text("1234\n")  # its disk is mounted by now
        self.put(storage)

    @pytest.mark.parametrize("below", ["", "recordings/new"])
    def test_nothing_is_made_under_a_disk_that_is_not_mounted(self, tmp_path, monkeypatch, below):
        point = tmp_path / "my disk"
        point.mkdir()
        fstab = tmp_path / "fstab"
        escaped = str(point).replace(" ", r"\040")
        fstab.write_text(f"# disks\nUUID=1 / ext4\n/dev/x {escaped} ext4 0 2\n")
        monkeypatch.setattr(place, "FSTAB", fstab)
        storage = open_storage(str(point / below))
        with pytest.raises(StorageUnavailable, match="in /etc/fstab, but not mounted: mount it"):
            storage.check_space(5)
        assert list(point.iterdir()) == []
        fstab.write_text("")
        self.put(storage)

    def test_a_link_to_a_disk_that_is_not_mounted_is_no_storage(self, tmp_path, monkeypatch):
        self.unmounted(tmp_path / "disk", tmp_path, monkeypatch)
        (tmp_path / "link").symlink_to(tmp_path / "disk")
        for path in ("link", "link/recordings"):
            with pytest.raises(StorageUnavailable, match="in /etc/fstab, but not mounted"):
                open_storage(str(tmp_path / path)).check_space(5)
        assert list((tmp_path / "disk").iterdir()) == []

    def test_an_accounts_own_disk_that_is_not_mounted_takes_and_tells_nothing(
        self, tmp_path, monkeypatch
    ):
        self.unmounted(tmp_path / "root" / "ACCOUNT", tmp_path, monkeypatch)
        storage = open_storage(str(tmp_path / "root"))
        with pytest.raises(StorageUnavailable, match="ACCOUNT is in /etc/fstab, but not mounted"):
            storage.check_space(5, "ACCOUNT/USER")
        with pytest.raises(StorageUnavailable, match="ACCOUNT is in /etc/fstab, but not mounted"):
            publish(storage, b"audio", RecordingName("ACCOUNT/USER", "x", "mp3"))
        assert list((tmp_path / "root" / "ACCOUNT").iterdir()) == []
        self.put(storage)
        publish(storage, b"audio", RecordingName("ACCOUNT2", "x", "mp3"))
        told = []
        assert len(list(storage.scan(odd=told.append))) == 2
        assert len(told) == 1 and told[0].startswith("ACCOUNT: passed over: ")

    @staticmethod
    def unmounted(point, tmp_path, monkeypatch):
        point.mkdir(parents=True)
        (tmp_path / "fstab").write_text(f"/dev/x {point} ext4 0 2\n")
        monkeypatch.setattr(place, "FSTAB", tmp_path / "fstab")

    def test_a_new_storage_is_told(self, tmp_path, caplog):
        caplog.set_level("INFO")
        open_storage(str(tmp_path / "a"))
        open_storage(str(tmp_path / "a"))
        assert [each.message for each in caplog.records] == [f"made a new storage in {tmp_path}/a"]

    def test_a_file_in_its_place_stops_the_start(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(SettingError, match="it must be a folder"):
            open_storage(str(tmp_path / "file"))


@pytest.fixture
def mounted(storage):
    """Another file system for one account."""
    need_root()
    account = storage.root / "ACCOUNT"
    account.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", account], check=True)
    yield account
    subprocess.run(["umount", account], check=True)


@contextmanager
def disk(image, point):
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)


class TestMounts:
    def test_another_disk_of_the_same_device_and_inode_is_another_place(self, tmp_path):
        """As a disk in another's place in the same slot: all that the kernel counts is the same."""
        need_root()
        point = tmp_path / "disk"
        point.mkdir()
        for image in ("one", "other"):
            subprocess.run(["truncate", "-s", "8M", tmp_path / image], check=True)
            subprocess.run(["mkfs.ext4", "-q", tmp_path / image], check=True)
            with disk(tmp_path / image, point):
                open_storage(str(point))
        with disk(tmp_path / "one", point):
            storage = open_storage(str(point))
            publish(storage, b"audio", NAME)
        with disk(tmp_path / "other", point):
            with pytest.raises(StorageUnavailable, match="is its disk mounted"):
                publish(storage, b"audio", NAME)
        with disk(tmp_path / "one", point):
            assert publish(storage, b"audio", NAME).outcome is Outcome.IDENTICAL

    def test_a_disk_that_fstab_names_by_a_link_is_mounted(
        self, storage, mounted, tmp_path, monkeypatch
    ):
        """`mount` follows the link, so that nothing is ever mounted at the link itself."""
        (tmp_path / "link").symlink_to(mounted)
        (tmp_path / "fstab").write_text(f"none {tmp_path}/link tmpfs defaults 0 0\n")
        monkeypatch.setattr(place, "FSTAB", tmp_path / "fstab")
        open_storage(str(tmp_path / "link" / "recordings")).check_space(5)
        publish(open_storage(str(storage.root)), b"a", RecordingName("ACCOUNT", "x", "mp3"))

    def test_an_account_on_a_disk_of_its_own_is_stored(self, storage, mounted):
        name = RecordingName("ACCOUNT/USER", "x", "mp3")
        with storage.incoming(name.folder) as file:
            file.write(b"audio")
            file.flush()
            stored = storage.publish(file, name, b"{}")
        assert stored.outcome is Outcome.CREATED
        assert (mounted / "USER" / "x.mp3").read_bytes() == b"audio"
        assert stat.S_IMODE((mounted / "USER" / "x.mp3").stat().st_mode) == 0o640

    def test_a_file_that_was_handed_over_is_copied_there(self, storage, mounted):
        """nginx wrote it before anybody knew where it goes."""
        publish(storage, b"audio", RecordingName("ACCOUNT", "x", "mp3"))
        assert (mounted / "x.mp3").read_bytes() == b"audio"

    def test_room_is_asked_for_where_the_recording_goes(self, storage, mounted):
        storage.check_space(100_000_000)
        with pytest.raises(Exception, match="disk is full"):
            storage.check_space(100_000_000, "ACCOUNT/USER")

    def test_a_disk_that_does_not_tell_its_size_is_not_full(self, tmp_path):
        need_root()
        (tmp_path / "root").mkdir()
        options = ["-t", "tmpfs", "-o", "size=0,nr_inodes=0", "none", tmp_path / "root"]
        subprocess.run(["mount", *options], check=True)
        try:
            storage = open_storage(str(tmp_path / "root"), min_free=100_000_000)
            storage.check_space(5)
            storage.check()
            publish(storage, b"audio", NAME)
        finally:
            subprocess.run(["umount", tmp_path / "root"], check=True)


class TestLeft:
    """What lies beside the place of a recording that is gone, such as one that `rm` removed."""

    def test_it_is_listed_once_and_can_be_removed(self, storage):
        publish(storage, b"A", RecordingName("ACCOUNT", "a", "mp3"), metadata=b"{}")
        for kind in ("json", "txt", "vtt"):
            (storage.root / sidecar("x.mp3", kind)).write_text("{}")
        assert [(each.path, each.is_gone) for each in storage.scan()] == [
            ("ACCOUNT/a.mp3", False),
            ("x.mp3", True),
        ]
        storage.delete("x.mp3", LEFT)
        assert there(storage).keys() == {"ACCOUNT/a.mp3", "ACCOUNT/a.mp3.json"}

    def test_it_is_left_where_a_recording_has_come(self, storage):
        publish(storage, b"A", NAME, metadata=b"{}")
        with pytest.raises(NotStored):
            storage.delete("x.mp3", LEFT)
        assert len(there(storage)) == 2

    def test_a_hold_is_left(self, storage):
        (storage.root / "x.mp3.hold").write_text("{}")
        with pytest.raises(Held):
            storage.delete("x.mp3", LEFT)
