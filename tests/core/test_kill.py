"""Workers are killed and connections cut while clients upload: what was acknowledged is there.

tests/proof/kill_and_cut.py does the same for longer.
"""

from functools import partial

import pytest

from support.killed_fronts import SERVERS, pause_between_kills, settle, workers
from support.killing import Scanner, check_nothing_is_lost, up_to, upload_cut_and_kill

SECONDS = 1.5  # of uploads through each front
LEAST = (50, 20, 0)


@pytest.mark.parametrize("server", SERVERS)
def test_no_acknowledged_recording_is_lost(server):
    front = SERVERS[server]()
    try:
        scanner = Scanner(front.storage)
        senders, kills = upload_cut_and_kill(
            *(front, partial(workers, front), scanner, SECONDS, pause_between_kills(front)),
            goes_on=up_to(LEAST),
        )
        assert scanner.partial == []
        settle(front)
        check_nothing_is_lost(front, senders, kills, LEAST)
    finally:
        front.stop()
