"""Looking at media: beside the uploads' processes, and within bounds of time and bytes."""

import io
import os
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("tinytag")

from catalog.test_durations import mp3, wav
from receiver.catalog import media
from receiver.catalog.media import Looker
from support.receivers import Receiver
from support.waiting import wait_for

SYNC = b"\xff\xfa"  # what an MP3 is searched for; all of it costs minutes


@pytest.fixture
def looker():
    looker = Looker()
    yield looker
    looker.close()


@pytest.fixture(params=["a file", "no file"])
def told(request, looker, tmp_path: Path):
    """Ask for the duration of data that is a local file, or that only can be read."""

    def ask(data: bytes, size: int = 0) -> float:
        if request.param == "no file":
            return looker.duration(io.BytesIO(data), size or len(data))
        path = tmp_path / "recording"
        path.write_bytes(data)
        with path.open("rb") as file:
            return looker.duration(file, size or len(data))

    return ask


def test_duration_is_that_of_the_file(told):
    assert told(wav(2.5)) == 2.5
    assert told(mp3(100)) == pytest.approx(7.2, rel=0.05)
    assert told(b"") == told(b"no audio") == told(b"RIFF\0\0\0\0WAVE") == 0


def test_large_recordings_are_read_in_part(looker, monkeypatch):
    monkeypatch.setattr(media, "MOST_COPIED", 100_000)
    read = []

    class Counted(io.BytesIO):
        def read(self, size=-1):
            read.append(size)
            return super().read(size)

    data = wav(3600.0)
    assert looker.duration(Counted(data), len(data)) == 3600
    assert sum(read) < len(data) / 5


def test_what_takes_too_long_is_given_up_and_the_next_is_told(tmp_path):
    looker = Looker(seconds=0.2)
    path = tmp_path / "endless"
    os.mkfifo(path)
    keep = os.open(path, os.O_RDWR)  # so that it never ends
    try:
        with os.fdopen(os.open(path, os.O_RDONLY), "rb") as endless:
            assert looker.duration(endless, 1000) == 0
        looker._seconds = 30
        assert looker.duration(io.BytesIO(wav(1.0)), len(wav(1.0))) == 1
    finally:
        os.close(keep)
        looker.close()


def test_process_that_was_killed_is_replaced(looker):
    data = wav(1.0)
    assert looker.duration(io.BytesIO(data), len(data)) == 1
    looker._process.kill()
    looker._process.wait()
    assert looker.duration(io.BytesIO(data), len(data)) == 0
    assert looker.duration(io.BytesIO(data), len(data)) == 1


def test_looking_at_a_crafted_recording_is_no_work_of_the_uploads_worker(tmp_path):
    receiver = Receiver(tmp_path, catalog="yes", readers="ann:secret", min_free=0)
    try:
        (worker,) = receiver.workers
        assert receiver.put("/kzr/call_recording_X.mp3", SYNC * 8_000_000).status == 201
        uploaded = cpu(worker)
        header = {"Authorization": "Basic YW5uOnNlY3JldA=="}
        page = "/browse/?format=json"
        wait_for(lambda: "X.mp3" in receiver.request("GET", page, headers=header).text, 60)
        (looker,) = children(worker)
        assert cpu(looker) > cpu(worker) - uploaded
    finally:
        receiver.stop()


def cpu(process: int) -> float:
    """The seconds of CPU that a process has taken, without those of its children."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_no_process_is_left_behind(tmp_path):
    receiver = Receiver(tmp_path, catalog="yes", readers="ann:secret")
    receiver.put("/kzr/call_recording_X.mp3", mp3(10))
    (worker,) = receiver.workers
    (looker,) = wait_for(lambda: children(worker), 30)
    receiver.stop()
    wait_for(lambda: not Path(f"/proc/{looker}").exists(), 30)


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
