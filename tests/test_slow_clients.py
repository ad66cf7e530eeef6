"""Clients that are slow, or hold on to what they have, on gunicorn alone: uploads go on.

Each of them would have stopped a receiver of two threads for as long as it liked.
"""

import base64
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from receiver.gunicorn_worker import LONGEST_HEAD
from support.clients import read_answer
from support.receivers import Receiver
from support.waiting import wait_for

BASIC = b"Authorization: Basic " + base64.b64encode(b"kazoo:secret") + b"\r\n"
HEADERS = {"Authorization": BASIC[15:-2].decode()}
LINE = b"PUT /kzr/call_recording_X.mp3 HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /kzr/call_recording_large.mp3 HTTP/1.1\r\nHost: x\r\n" + BASIC + b"\r\n"
LARGE = 16 * 1024 * 1024  # bytes; more than the system keeps for a client


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    server = Receiver(
        tmp_path,
        "--threads=2",
        "--worker-connections=100",
        writers="kazoo:secret",
        readers="kazoo:secret",
        read_timeout=2,
        min_free=0,
    )
    yield server
    server.stop()


@contextmanager
def clients(receiver: Receiver, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Clients that have sent this, and wait."""
    with ExitStack() as stack:
        found = [stack.enter_context(receiver.connect()) for _ in range(count)]
        for sock in found:
            sock.sendall(sent)
        yield found


def uploads(receiver: Receiver, count: int = 5) -> bool:
    answers = [
        receiver.put(f"/kzr/call_recording_{number}.mp3", os.urandom(100), headers=HEADERS)
        for number in range(count)
    ]
    return [answer.status for answer in answers] in ([200] * count, [201] * count)


@pytest.mark.parametrize("sent", [b"", b"P", LINE, LINE + BASIC + b"X: "])
def test_head_that_does_not_end_holds_no_thread(receiver: Receiver, sent):
    with clients(receiver, 60, sent):
        assert uploads(receiver)


def test_head_has_to_end_in_time(receiver: Receiver):
    with clients(receiver, 1, LINE) as (sock,):
        assert sock.recv(1) == b""


def test_head_may_come_byte_for_byte_and_two_at_once(receiver: Receiver):
    request = LINE + BASIC + b"Content-Length: 5\r\n\r\naudio"
    with receiver.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request:
            sock.sendall(bytes([byte]))
        assert read_answer(sock).status == 201
        sock.sendall(request + request + request[:50])
        assert read_answer(sock).status == 200
        sock.sendall(request[50:])
        assert [read_answer(sock).status for _ in range(2)] == [200, 200]


def test_head_that_is_too_long_is_refused(receiver: Receiver):
    with receiver.connect() as sock:
        sock.sendall(LINE + b"X: " + b"x" * LONGEST_HEAD)
        assert read_answer(sock).status == 431
    assert uploads(receiver)


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00", b"\0", b" "])
def test_what_is_no_http_is_refused_at_once(receiver: Receiver, sent):
    """As of a client that speaks TLS, and else waits for the rest of a handshake."""
    with receiver.connect() as sock:
        sock.sendall(sent)
        assert read_answer(sock).status == 400


@pytest.mark.parametrize("sent", [b"", LINE])
def test_more_clients_than_a_worker_may_have_shut_nobody_out(receiver: Receiver, sent):
    with clients(receiver, 300, sent):
        assert uploads(receiver)


def test_more_idle_clients_than_a_worker_may_have_shut_nobody_out(receiver: Receiver):
    with clients(receiver, 300, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert uploads(receiver)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (LINE + b"Content-Length: 1000\r\n\r\n", 401),
        (LINE + b"Transfer-Encoding: chunked\r\n\r\n", 401),
        (LINE + b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n", 401),
        (LINE + BASIC + b"Content-Length: 9000000000\r\n\r\n", 413),
        (LINE + BASIC + b"Content-Length: 1000\r\nContent-Encoding: gzip\r\n\r\n", 415),
        (LINE + BASIC + b"\r\n", 411),
        (b"PUT / HTTP/1.1\r\nHost: x\r\n" + BASIC + b"Content-Length: 1000\r\n\r\n", 400),
    ],
)
def test_what_is_refused_is_answered_before_its_body_comes(receiver: Receiver, sent, status):
    with clients(receiver, 60, sent) as stalled:
        assert uploads(receiver)
        for sock in stalled:
            while (answer := read_answer(sock)).status == 100:
                pass
            assert answer.status == status
    assert uploads(receiver)


def test_full_disk_is_told_before_the_body_comes(tmp_path):
    receiver = Receiver(tmp_path, min_free="1000T")
    try:
        with clients(receiver, 1, LINE + b"Content-Length: 1000\r\n\r\n") as (sock,):
            assert read_answer(sock).status == 507
    finally:
        receiver.stop()


def test_refused_client_that_never_ends_is_cut_off(receiver: Receiver):
    """What it sends is discarded meanwhile, but not for ever."""
    (worker,) = receiver.workers
    descriptors = Path(f"/proc/{worker}/fd")
    before = len(list(descriptors.iterdir()))
    with clients(receiver, 20, LINE + b"Content-Length: 1000\r\n\r\n") as refused:
        for sock in refused:
            assert sock.recv(100).startswith(b"HTTP/1.1 401 ")
        wait_for(lambda: len(list(descriptors.iterdir())) <= before, 60)


def test_reader_that_does_not_read_keeps_no_upload_and_no_monitor_waiting(receiver: Receiver):
    receiver.put("/kzr/call_recording_large.mp3", bytes(LARGE), headers=HEADERS)
    with clients(receiver, 60, GET):
        assert uploads(receiver)
        assert receiver.request("GET", "/healthz").status == 200
        assert receiver.request("GET", "/kzr/call_recording_large.mp3").status == 401


def test_reader_that_does_not_read_is_cut_off(receiver: Receiver):
    receiver.put("/kzr/call_recording_large.mp3", bytes(LARGE), headers=HEADERS)
    with clients(receiver, 4, GET) as stalled:
        answer = receiver.request("GET", "/kzr/call_recording_large.mp3", headers=HEADERS)
        assert len(answer.body) == LARGE
        for sock in stalled:
            sock.settimeout(30)
            assert len(read_all(sock)) < LARGE


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while piece := sock.recv(1024 * 1024):
        data += piece
    return bytes(data)


def test_reader_that_is_slow_but_reads_gets_all(receiver: Receiver):
    receiver.put("/kzr/call_recording_large.mp3", bytes(LARGE), headers=HEADERS)
    with clients(receiver, 1, GET) as (sock,):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        assert len(read_answer(sock).body) == LARGE


@pytest.mark.parametrize(
    "sent", [b"", LINE, LINE + b"Content-Length: 9\r\n\r\n", GET.replace(b"large", b"absent")]
)
def test_stop_waits_for_none_of_them(receiver: Receiver, sent):
    with clients(receiver, 20, sent):
        uploads(receiver)
        receiver.process.send_signal(signal.SIGTERM)
        assert receiver.process.wait(30) == 0


def test_threads_are_no_more_than_asked_for(receiver: Receiver):
    receiver.put("/kzr/call_recording_large.mp3", bytes(LARGE), headers=HEADERS)
    (worker,) = receiver.workers
    with clients(receiver, 30, GET), clients(receiver, 30, LINE):
        assert uploads(receiver)
        assert len(list(Path(f"/proc/{worker}/task").iterdir())) <= 1 + 2 + 2 + 1
