"""The very bytes that Kazoo and curl were seen to send, to each kind of gunicorn's workers."""

import pytest

from support.paths import WIRE
from support.receivers import Receiver
from support.wire import captures, check, expected_path, request


@pytest.mark.parametrize("capture", captures())
def test_capture_is_stored_and_read_back(worker: Receiver, capture):
    check(worker, capture)
    assert list(worker.stored()) == [expected_path(capture)]


@pytest.mark.parametrize("capture", captures(named=False))
def test_capture_without_a_usable_name_is_refused(worker: Receiver, capture):
    answer = worker.raw(request(capture))
    assert answer.status == 400
    assert "in a storage plan, leave the field list as it is" in answer.line
    assert worker.stored() == {}


def test_every_capture_is_tried():
    assert len(captures()) + len(captures(named=False)) == len(list(WIRE.glob("*.1.*")))
    assert len(captures()) >= 35
