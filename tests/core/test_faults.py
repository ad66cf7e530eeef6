"""Disks that fail: injected into a running worker's system calls, and real ones that are full."""

import base64
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.needs import need, need_root
from support.receivers import Receiver
from support.tracing import traced
from support.waiting import wait_for

BODY = os.urandom(300_000)
TARGET = "/kzr/call_recording_X.mp3"


@contextmanager
def injected(receiver: Receiver, fault: str) -> Iterator[None]:
    """Have `fault` happen to the next uploads, by strace."""
    calls = fault.split(":")[0]
    log = receiver.folder / "strace"
    with traced(receiver, log, "-e", f"trace={calls}", "-e", f"inject={fault}"):
        yield
    assert "INJECTED" in log.read_text() or "SIGKILL" in fault, log.read_text()


@pytest.fixture
def receiver(start) -> Receiver:
    receiver = start("--threads=1", min_free="0")
    # Its thread still wakes the main one up after the answer: the end of the connection comes last.
    head = b"PUT /kzr/call_recording_before.mp3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    with receiver.connect() as sock:
        sock.sendall(head + b"Content-Length: 6\r\n\r\nbefore")
        while sock.recv(1000):
            pass
    return receiver


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("write:error=EIO:when=1", 500),
        ("write:error=ENOSPC:when=1", 507),
        ("write:error=EDQUOT:when=1", 507),
        ("write:error=EINTR:when=1", 201),
        ("write:retval=100:when=1", 500),  # claims to have written 100 bytes: fewer than asked
        ("write:retval=262144:when=1", 500),  # claims to have written all
        ("write:retval=0:when=1", 201),  # nothing written, and no lie
        ("fsync:error=EIO:when=1", 500),  # of the file
        ("fsync:error=ENOSPC:when=1", 507),
        ("fsync:error=EIO:when=2", 500),  # of the directory
        ("linkat:error=EIO:when=1", 500),
        ("linkat:error=ENOSPC:when=1", 507),
        ("linkat:error=EMLINK:when=1", 500),
        ("fchmod:error=EPERM:when=1", 500),
    ],
)
def test_failing_call_is_no_success(receiver: Receiver, fault, status):
    with injected(receiver, fault):
        answer = receiver.put(TARGET, BODY)
    assert answer.status == status, answer.text
    assert answer.line
    stored = receiver.stored()
    assert stored.pop("before.mp3") == b"before"
    # After a failed sync of the directory the file is there, whole: a retry may own the name.
    assert stored in ({}, {"X.mp3": BODY}) if "when=2" in fault or status == 201 else not stored
    assert receiver.put(TARGET, BODY).status in (200, 201)
    assert receiver.stored() == {"before.mp3": b"before", "X.mp3": BODY}


@pytest.mark.parametrize("lie", [1, 2, 3])
def test_lying_write_of_a_form_is_no_success(receiver: Receiver, lie):
    """Of the part as it came, of the decoded recording, or of the metadata."""
    head = "\r\n--b\r\ncontent-disposition: form-data; name=X\r\ncontent-type: "
    body = f'{head}application/json\r\n\r\n{{"a":1}}{head}audio/mpeg\r\n\r\n'.encode()
    body += base64.b64encode(b"ID3" + bytes(3000)) + b"\r\n--b--"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with injected(receiver, f"write:retval=5:when={lie}"):
        answer = receiver.request("POST", TARGET, body, headers=headers)
    assert answer.status == 500, answer.text
    assert receiver.files() == {"before.mp3": b"before"}
    assert receiver.request("POST", TARGET, body, headers=headers).status == 201


@pytest.mark.parametrize("call", ["write", "fsync", "linkat", "fsync:when=2"])
def test_worker_killed_at_a_call_leaves_nothing_partial(receiver: Receiver, call):
    name, _, when = call.partition(":")
    with injected(receiver, f"{name}:signal=SIGKILL:{when or 'when=1'}"), pytest.raises(OSError):
        receiver.put(TARGET, BODY)
    stored = receiver.stored()
    assert stored.pop("before.mp3") == b"before"
    assert stored in ({}, {"X.mp3": BODY})
    wait_for(lambda: receiver.log.count("Booting worker") == 2)
    assert receiver.put(TARGET, BODY).status in (200, 201)
    assert receiver.stored() == {"before.mp3": b"before", "X.mp3": BODY}


@pytest.mark.parametrize("call", ["linkat:when=2", "fsync:when=2", "linkat:when=3", "rename"])
def test_worker_killed_while_superseding_keeps_both(receiver: Receiver, call):
    receiver.put(TARGET, b"older")
    name, _, when = call.partition(":")
    name = "/^rename" if name == "rename" else name
    with injected(receiver, f"{name}:signal=SIGKILL:{when or 'when=1'}"), pytest.raises(OSError):
        receiver.put(TARGET, BODY)
    assert b"older" in receiver.stored().values()
    wait_for(lambda: receiver.log.count("Booting worker") == 2)
    assert receiver.put(TARGET, BODY).status == 200
    assert {b"older", BODY, b"before"} == set(receiver.stored().values())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    need_root()
    disk = tmp_path / "disk"
    disk.mkdir()
    options = "size=3m,nr_inodes=40"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("chunked", [False, True])
def test_full_disk_is_answered_507_until_there_is_room(start, small_disk, chunked):
    receiver = start(storage=small_disk, min_free="0")
    body = os.urandom(700_000)
    answers = [
        receiver.put(f"/kzr/call_recording_{number}.mp3", body, chunked=chunked)
        for number in range(6)
    ]
    assert [answer.status for answer in answers] == [201] * 4 + [507] * 2
    assert "No space left" in answers[-1].line or "disk is full" in answers[-1].line
    assert receiver.stored() == {f"{number}.mp3": body for number in range(4)}
    (small_disk / "0.mp3").unlink()
    assert receiver.put("/kzr/call_recording_4.mp3", body).status == 201


def test_disk_without_inodes_is_answered_507_until_there_is_one(start, small_disk):
    receiver = start(storage=small_disk, min_free="0")
    statuses = [receiver.put(f"/kzr/{number}.mp3").status for number in range(45)]
    stored = len(receiver.stored())
    assert 30 < stored < 40
    assert statuses == [201] * stored + [507] * (45 - stored)
    assert receiver.put("/kzr/FOLDER/x.mp3").status == 507
    (small_disk / "0.mp3").unlink()
    assert receiver.put("/kzr/0.mp3").status == 201


def test_file_size_limit_is_answered_507(tmp_path):
    """A short write that the kernel makes: part of the buffer fits below the limit."""
    need("prlimit")
    receiver = Receiver(tmp_path)
    try:
        subprocess.run(["prlimit", f"--pid={receiver.workers[0]}", "--fsize=200000"], check=True)
        answer = receiver.put(TARGET, BODY)
        assert (answer.status, answer.line) == (
            507,
            "could not store the recording: File too large",
        )
        assert receiver.put(TARGET, BODY[:200_000]).status == 201
        assert receiver.stored() == {"X.mp3": BODY[:200_000]}
    finally:
        receiver.stop()
