"""What nginx hands over in place of a body."""

import os
import tempfile
import time

import pytest

from support.receivers import Receiver


class TestHandover:
    """What nginx passes on in place of a body is believed only as far as it has to be."""

    @pytest.fixture
    def receiver(self, start, tmp_path) -> Receiver:
        (tmp_path / "handover").mkdir()
        (tmp_path / "handover" / "0001").write_bytes(b"audio")
        (tmp_path / "handover" / "link").symlink_to("/etc/passwd")
        (tmp_path / "handover" / "folder").mkdir()
        (tmp_path / "outside").write_bytes(b"secret")
        os.mkfifo(tmp_path / "handover" / "fifo")
        self.tmp_path = tmp_path
        return start(handover_dir=tmp_path / "handover")

    def put(self, receiver: Receiver, path: str, **headers: str):
        return receiver.request(
            "PUT", "/kzr/X.mp3", headers={"X-Body-File": str(self.tmp_path / path)} | headers
        )

    def test_file_is_linked_not_copied(self, receiver):
        assert self.put(receiver, "handover/0001", **{"X-Body-Length": "5"}).status == 201
        file = self.tmp_path / "handover" / "0001"
        assert (receiver.storage / "X.mp3").samefile(file)

    @pytest.mark.parametrize(
        "path",
        ["outside", "handover/../outside", "handover/folder", "handover/fifo", "/etc/passwd"],
    )
    def test_anything_but_a_file_in_the_folder_is_refused(self, receiver, path):
        answer = self.put(receiver, path)
        assert answer.status == 500
        assert answer.line.startswith("what nginx handed over is no file in KZR_HANDOVER_DIR")
        assert receiver.stored() == {}

    @pytest.mark.parametrize(
        ("path", "reason"), [("handover/absent", "No such"), ("handover/link", "")]
    )
    def test_file_that_cannot_be_opened_is_told(self, receiver, path, reason):
        answer = self.put(receiver, path)
        assert answer.status == 500
        assert answer.line.startswith(f"cannot open the file that nginx handed over: {reason}")

    def test_what_nginx_left_behind_when_it_was_killed_is_removed_at_start(self, start, tmp_path):
        folder = tmp_path / "handover"
        folder.mkdir()
        day = 24 * 60 * 60
        for name, age in {"0000000001": 2 * day, "0000000002": day / 2, "mine": 2 * day}.items():
            (folder / name).write_bytes(b"partial")
            os.utime(folder / name, (time.time() - age,) * 2)
        start(handover_dir=folder)
        assert sorted(path.name for path in folder.iterdir()) == ["0000000002", "mine"]

    def test_storage_itself_cannot_be_the_folder(self, tmp_path):
        with pytest.raises(AssertionError, match="name a folder of nginx's own"):
            Receiver(tmp_path, storage=tmp_path / "s", handover_dir=tmp_path / "s")

    def test_file_of_another_length_is_refused(self, receiver):
        answer = self.put(receiver, "handover/0001", **{"X-Body-Length": "6"})
        assert (answer.status, answer.line) == (400, "nginx handed over 5 of 6 bytes")

    def test_header_is_ignored_unless_the_handover_is_configured(self, receiver, start):
        plain = start()
        answer = self.put(plain, "handover/0001")
        assert answer.status == 411
        assert "handed over by nginx? set KZR_HANDOVER_DIR" in answer.line

    def test_size_limit_holds(self, start, tmp_path):
        (tmp_path / "handover").mkdir()
        (tmp_path / "handover" / "0001").write_bytes(b"too large")
        self.tmp_path = tmp_path
        receiver = start(handover_dir=tmp_path / "handover", max_bytes=5)
        assert self.put(receiver, "handover/0001").status == 413


def test_other_file_system_stops_the_start(tmp_path):
    from receiver import create_app
    from receiver.errors import SettingError

    elsewhere = tempfile.mkdtemp(dir="/dev/shm")
    settings = {"STORAGE": str(tmp_path), "HANDOVER_DIR": f"{elsewhere}/handover"}
    with pytest.raises(SettingError, match="put it into the file system of KZR_STORAGE"):
        create_app(settings)
    os.rmdir(f"{elsewhere}/handover")
    os.rmdir(elsewhere)
