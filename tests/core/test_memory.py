"""A recording's size does not show in a worker's memory."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Receiver, read_answer

GIB = 1024**3
MIB = 1024**2


def peak(worker: int) -> int:
    """The most memory that the process ever held, in bytes."""
    status = Path(f"/proc/{worker}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def send(receiver: Receiver, name: str, size: int, chunked: bool) -> int:
    """Send `size` bytes without ever holding them here."""
    piece = bytes(range(256)) * (MIB // 256)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    with receiver.connect() as sock:
        sock.settimeout(120)
        sock.sendall(f"PUT /kzr/{name} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        for _ in range(size // MIB):
            sock.sendall(b"%x\r\n%s\r\n" % (MIB, piece) if chunked else piece)
        if chunked:
            sock.sendall(b"0\r\n\r\n")
        return read_answer(sock).status


@pytest.mark.parametrize("chunked", [False, True])
def test_one_gibibyte_costs_less_than_4_mib(start, chunked):
    receiver = start("--threads=1")
    (worker,) = receiver.workers
    assert receiver.put("/kzr/small.mp3", chunked=chunked).status == 201
    before = peak(worker)
    assert send(receiver, "large.mp3", GIB, chunked) == 201
    assert (receiver.storage / "large.mp3").stat().st_size == GIB
    print(f"{(peak(worker) - before) / MIB:.1f} MiB more")
    assert peak(worker) - before < 4 * MIB
    assert receiver.workers == [worker]


def test_16_uploads_at_a_time_cost_less_than_1_mib_each(start):
    receiver = start()
    (worker,) = receiver.workers
    body = os.urandom(MIB)
    assert receiver.put("/kzr/first.mp3", body).status == 201
    before = peak(worker)
    with ThreadPoolExecutor(16) as clients:
        answers = clients.map(lambda n: receiver.put(f"/kzr/{n}.mp3", body), range(400))
        assert {answer.status for answer in answers} == {201}
    print(f"{(peak(worker) - before) / MIB:.1f} MiB more")
    assert peak(worker) - before < 16 * MIB
