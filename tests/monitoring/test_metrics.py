"""Figures for Prometheus."""

import os
import re
import signal

import pytest

pytest.importorskip("prometheus_client")

from support.receivers import Receiver
from support.waiting import wait_for


def figures(receiver: Receiver) -> dict[str, float]:
    answer = receiver.request("GET", "/metrics")
    assert answer.status == 200, answer.text
    lines = re.findall(r"^(\w+(?:\{.*?\})?) (\S+)$", answer.text, re.MULTILINE)
    return {name: float(value) for name, value in lines}


def test_uploads_are_counted_by_outcome_over_all_workers(start):
    receiver = start("--workers=2", metrics_allow="127.0.0.1", max_bytes="10")
    for body in (b"one", b"one", b"two", b"much too long"):
        receiver.put("/kzr/x.mp3", body)
    for number in range(20):  # so that both workers have had some
        receiver.put(f"/kzr/{number}.mp3")
    found = figures(receiver)
    outcomes = {
        outcome: found[f'receiver_uploads_total{{outcome="{outcome}"}}']
        for outcome in ("created", "identical", "superseded", "refused", "failed")
    }
    assert outcomes == {
        "created": 21,
        "identical": 1,
        "superseded": 1,
        "refused": 1,
        "failed": 0,
    }
    assert found["receiver_upload_bytes_total"] == 3 * 3 + 20 * 5
    assert found["receiver_upload_seconds_count"] == 24
    assert found['receiver_upload_seconds_bucket{le="30.0"}'] == 24
    disk = os.statvfs(receiver.storage)
    assert found["receiver_free_bytes"] == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.1)


def test_time_of_the_last_recording_is_told(start):
    receiver = start(metrics_allow="127.0.0.1")
    name = "receiver_last_recording_timestamp_seconds"
    before = figures(receiver)[name]
    receiver.put("/kzr/x.mp3")
    after = figures(receiver)[name]
    assert after > before
    receiver.put("/kzr/call_recording_")  # which is refused
    assert figures(receiver)[name] == after


def test_figures_outlive_a_worker(start):
    receiver = start(metrics_allow="127.0.0.1")
    receiver.put("/kzr/x.mp3")
    (worker,) = receiver.workers
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: worker not in receiver.workers and receiver.workers)
    receiver.put("/kzr/y.mp3")
    assert figures(receiver)['receiver_uploads_total{outcome="created"}'] == 2


def test_files_of_workers_that_ended_are_put_together(start, monkeypatch, tmp_path):
    """Each leaves three, of 64 KB: two thousand of them took 380 MB."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    receiver = start(metrics_allow="127.0.0.1")
    (folder,) = tmp_path.glob("kazoo-receiver-metrics-*")
    files = []
    for number in range(5):
        receiver.put(f"/kzr/{number}.mp3")
        (worker,) = receiver.workers
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: receiver.workers and worker not in receiver.workers)  # noqa: B023 - called now
        found = wait_for(lambda: figures(receiver), 30)
        assert found['receiver_uploads_total{outcome="created"}'] == number + 1
        assert found["receiver_upload_seconds_count"] == number + 1
        assert found['receiver_upload_seconds_bucket{le="600.0"}'] == number + 1
        files.append(len(list(folder.iterdir())))
    assert files[0] == files[-1]


def test_files_are_put_together_where_nobody_asks_for_figures(start, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    receiver = start(metrics_allow="127.0.0.1")
    receiver.put("/kzr/x.mp3")
    (folder,) = tmp_path.glob("kazoo-receiver-metrics-*")
    (worker,) = receiver.workers
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: list(folder.glob("*_ended.db")) and not list(folder.glob(f"*_{worker}.db")))


def test_figures_leave_nothing_behind(start, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    receiver = start("--workers=2", metrics_allow="127.0.0.1")
    left = tmp_path.glob("kazoo-receiver-metrics-*")
    assert len(list(left)) == 1
    receiver.stop()
    assert list(tmp_path.glob("kazoo-receiver-metrics-*")) == []


def test_figures_are_for_those_who_are_named(start):
    receiver = start(metrics_allow="10.0.0.0/8", readers="ann:secret")
    answer = receiver.request("GET", "/metrics")
    assert (answer.status, answer.line) == (403, "127.0.0.1 is not in KZR_METRICS_ALLOW")


def test_without_the_setting_there_are_no_figures(receiver):
    assert receiver.request("GET", "/metrics").status == 403  # it is a recording's name


def test_purges_of_other_processes_are_counted(start, tmp_path):
    from receiver.storage import open_storage
    from receiver.storage.purges import Purges, note

    queue = f"sqlite:///{tmp_path}/queue.sqlite"
    receiver = start(metrics_allow="127.0.0.1", keep_days=30, queue=queue)
    assert figures(receiver)["receiver_purged_recordings_total"] == 0
    note(open_storage(str(receiver.storage)), Purges(1_800_000_000.0, 0.0, 3, 4000, 2))
    found = figures(receiver)
    assert found["receiver_purged_recordings_total"] == 3
    assert found["receiver_purged_bytes_total"] == 4000
    assert found["receiver_purged_failures_total"] == 2
    assert found["receiver_last_purge_timestamp_seconds"] == 1_800_000_000
