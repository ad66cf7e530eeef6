"""The server: Kazoo's requests reach the application, and stopping it loses no upload."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from support.clients import read_answer
from support.paths import PROJECT
from support.receivers import Receiver
from support.waiting import wait_for

HEAD = b"Host: x\r\nContent-Length: 5\r\n\r\naudio"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/kzr/call_recording_X.mp3?caller_id_name=Jörg 李".replace(" ", "%20"), "X.mp3"),
        ("/kzr/call_recording_Jörg.mp3", "J%C3%B6rg.mp3"),
        ("/Zürich/call_recording_X.mp3", "Z%C3%BCrich/X.mp3"),
    ],
)
def test_raw_utf8_in_the_request_line_is_taken(worker: Receiver, target, path):
    assert worker.raw(b"PUT %s HTTP/1.1\r\n" % target.encode() + HEAD).status == 201
    assert worker.stored() == {path: b"audio"}


def test_raw_bytes_that_are_no_utf8_are_taken(worker: Receiver):
    assert worker.raw(b"PUT /kzr/call_recording_\xff\x80.mp3 HTTP/1.1\r\n" + HEAD).status == 201
    assert worker.stored() == {"%FF%80.mp3": b"audio"}


@pytest.mark.parametrize(
    "line",
    [
        b"PUT /kzr/call recording_X.mp3 HTTP/1.1",
        b"PUT /kzr/call_recording_\x01.mp3 HTTP/1.1",
        b"PUT /kzr/call_recording_\x7f.mp3 HTTP/1.1",
        b"PUT /kzr/call_recording_X.mp3 HTTP/9.1",
        b"P\xc3\x9cT /kzr/call_recording_X.mp3 HTTP/1.1",
        b"PUT kzr/call_recording_X.mp3 HTTP/1.1",
        b"PUT /kzr/call_recording_X.mp3?" + b"x" * 16400 + b" HTTP/1.1",
    ],
)
def test_every_other_check_of_the_request_line_stays(worker: Receiver, line):
    assert worker.raw(line + b"\r\n" + HEAD).status in (400, 414, 505)
    assert worker.stored() == {}


def test_long_query_of_kazoo_is_taken(worker: Receiver):
    target = b"/kzr/call_recording_X.mp3?from=" + b"x" * 16000
    assert worker.raw(b"PUT %s HTTP/1.1\r\n" % target + HEAD).status == 201


@pytest.mark.parametrize("header", [b"SCRIPT_NAME: /kzr", b"Script-Name: /kzr", b"PATH_INFO: /y"])
def test_headers_cannot_change_the_path(worker: Receiver, header):
    answer = worker.raw(b"PUT /kzr/call_recording_X.mp3 HTTP/1.1\r\n" + header + b"\r\n" + HEAD)
    assert answer.status == 201
    assert worker.stored() == {"X.mp3": b"audio"}


def test_header_with_an_underscore_does_no_harm(worker: Receiver):
    """Kazoo 4.1 and 4.2 send `content_type` beside `content-type`."""
    line = b"PUT /kzr/call_recording_X.mp3 HTTP/1.1\r\ncontent_type: audio/mpeg\r\n"
    assert worker.raw(line + HEAD).status == 201


def test_connection_is_kept_for_the_next_recording(receiver: Receiver):
    with receiver.connect() as sock:
        for number in range(3):
            sock.sendall(b"PUT /kzr/call_recording_%d.mp3 HTTP/1.1\r\n" % number + HEAD)
            assert read_answer(sock).status == 201
    assert len(receiver.stored()) == 3


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGHUP])
def test_running_upload_finishes_when_the_server_stops_or_reloads(start, stop):
    receiver = start()
    with receiver.connect() as sock:
        head = b"PUT /kzr/call_recording_X.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
        sock.sendall(head + b"first")
        # The upload is running once its worker has left the accepted connection's backlog.
        assert receiver.put("/kzr/call_recording_Y.mp3").status == 201
        (worker,) = receiver.workers
        receiver.process.send_signal(stop)
        told = "Handling signal: " + ("term" if stop == signal.SIGTERM else "hup")
        wait_for(lambda: told in receiver.log)
        sock.sendall(b" rest")
        assert read_answer(sock).status == 201
    assert receiver.stored()["X.mp3"] == b"first rest"


def test_killed_worker_is_replaced(start):
    receiver = start()
    (worker,) = receiver.workers
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: receiver.workers and receiver.workers != [worker])
    assert receiver.put("/kzr/call_recording_X.mp3").status == 201


def test_stalled_uploads_do_not_stop_the_service(start):
    receiver = start("--threads=2", read_timeout=1)
    stalled = [receiver.connect() for _ in range(4)]
    for sock in stalled:
        sock.sendall(
            b"PUT /kzr/call_recording_X.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        )
    assert receiver.put("/kzr/call_recording_Y.mp3").status == 201
    for sock in stalled:
        assert read_answer(sock).status == 408
        sock.close()


def test_gunicorn_command_starts_the_same(tmp_path):
    """`gunicorn -c python:receiver.serve app:app`, as an administrator's unit may have it."""
    shown = subprocess.run(
        [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "python:receiver.serve",
            "--print-config",
            "app:app",
        ],
        cwd=PROJECT,
        env={"KZR_STORAGE": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    settings = dict(
        line.split("=", 1) for line in shown.replace(" ", "").splitlines() if "=" in line
    )
    assert settings["bind"] == "['127.0.0.1:8000']"
    assert settings["worker_class"] == "receiver.gunicorn_worker.Worker"
    assert settings["forwarder_headers"] == "[]"
    assert settings["control_socket_disable"] == "True"
    assert settings["limit_request_line"] == "16380"


def test_help_is_gunicorns(tmp_path):
    shown = subprocess.run(
        [sys.executable, PROJECT / "app.py", "--help"], capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0 and "--bind" in shown.stdout


def test_uploads_run_side_by_side(start):
    receiver = start("--threads=8")
    answers = []
    together = threading.Barrier(8)

    def upload(number: int) -> None:
        with receiver.connect() as sock:
            head = (
                b"PUT /kzr/call_recording_%d.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n"
            )
            sock.sendall(head % number + b"one")
            together.wait()  # all have begun before any ends
            sock.sendall(b"two")
            answers.append(read_answer(sock).status)

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [201] * 8
