"""Ports for servers that want to know theirs before they start."""

import os
import random
import socket
from contextlib import closing
from itertools import count

# Below those that the kernel gives to clients, and a range for each of pytest-xdist's workers: what
# is free when it is looked for must be so still when the server starts.
FIRST, EACH = 10_000, 2_000
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10
_numbers = count(random.randrange(EACH))


def free_port() -> int:
    while True:
        port = FIRST + WORKER * EACH + next(_numbers) % EACH
        with closing(socket.socket()) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
