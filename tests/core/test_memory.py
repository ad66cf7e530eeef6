"""A recording's size does not show in a worker's memory."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.memory import GIB, MIB, peak, send


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
