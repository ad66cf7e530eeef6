"""Health for monitors and load balancers."""

import subprocess
from pathlib import Path

import pytest

from support.needs import need, need_root


def test_health_is_told_to_anybody(start):
    pytest.importorskip("sqlalchemy")
    receiver = start(readers="ann:secret", writers="kazoo:secret", catalog="yes")
    for path in ("/healthz", "/healthz/storage"):
        answer = receiver.request("GET", path)
        assert (answer.status, answer.line) == (200, "ok")


WHY = "the disk is full: free some space or lower KZR_MIN_FREE"


def test_reason_is_in_the_log_and_for_nobody_else(start):
    receiver = start(min_free="1000T")
    answer = receiver.request("GET", "/healthz")
    assert (answer.status, answer.line) == (503, "not well: the receiver's log tells why")
    assert f"outcome=503 ({WHY})" in receiver.log_line


def test_reason_is_told_to_who_may_read_figures(start):
    pytest.importorskip("prometheus_client")
    receiver = start(min_free="1000T", metrics_allow="127.0.0.1")
    answer = receiver.request("GET", "/healthz")
    assert (answer.status, answer.line) == (503, WHY)


def test_storage_that_cannot_be_written_is_told(start, tmp_path):
    need_root()
    root = tmp_path / "disk"
    root.mkdir()
    mount = need("mount")
    subprocess.run([mount, "-t", "tmpfs", "-o", "size=9m", "none", root], check=True)
    try:
        receiver = start(storage=root, min_free="0")
        subprocess.run([mount, "-o", "remount,ro", root], check=True)
        answer = receiver.request("GET", "/healthz")
        assert answer.status == 503
        assert "outcome=503 (could not store: " in receiver.log_line
        receiver.stop()
    finally:
        subprocess.run(["umount", "-l", root], check=True)


def test_catalog_that_is_down_is_told_but_stops_no_uploads(start, tmp_path: Path):
    pytest.importorskip("sqlalchemy")
    receiver = start(catalog="sqlite:////dev/null/catalog.sqlite")
    answer = receiver.request("GET", "/healthz")
    assert answer.status == 503
    assert "outcome=503 (the catalog cannot be reached: " in receiver.log_line
    assert receiver.request("GET", "/healthz/storage").status == 200
    assert receiver.put("/kzr/x.mp3").status == 201


def test_recordings_of_these_names_are_stored_all_the_same(receiver):
    assert receiver.put("/healthz", b"one").status == 201
    assert receiver.put("/metrics", b"two").status == 201
    assert receiver.stored() == {"healthz~": b"one", "metrics~": b"two"}
