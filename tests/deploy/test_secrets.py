"""Secrets stay where they are: through every front, none is in a log or a list of processes."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from support.clients import Storing
from support.folders import world_readable_folder
from support.fronts import FRONTS
from support.receivers import Receiver
from support.waiting import wait_for

SECRET, READER, TOKEN, WRONG = "wr1te-s3cret", "re4d-s3cret", "t0k3n-s3cret", "wr0ng-s3cret"
NUMBER = "+15550199"  # a caller's, which is no secret but nobody's business


def basic(secret: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'kazoo:{secret}'.encode()).decode()}"}


def alone(**settings: object) -> Receiver:
    return Receiver(world_readable_folder(), min_free=0, **settings)


@pytest.fixture(params=["gunicorn", *FRONTS])
def server(request) -> Iterator[Storing]:
    start = {"gunicorn": alone} | FRONTS
    server = start[request.param](
        writers=f"kazoo:{SECRET}", readers=f"kazoo:{READER}", write_tokens=TOKEN
    )
    yield server
    server.stop()


def processes() -> dict[str, bytes]:
    """The command lines of all processes, as anybody on the machine sees them."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[str(path)] = path.read_bytes()
        except OSError:  # it has ended
            continue
    return found


def logs(server: Storing) -> dict[str, bytes]:
    """All that is written in the server's folder but what is stored."""
    found = {}
    for path in server.folder.rglob("*"):
        is_own = server.storage in path.parents or path.suffix == ".conf"
        if path.is_file() and not is_own and os.stat(path).st_size < 10_000_000:
            found[str(path)] = path.read_bytes()
    return found


def test_no_secret_is_told(server):
    target = "/kzr/call_recording_X.mp3"
    tokens = f"?token={TOKEN}&caller_id_number={quote(NUMBER)}"
    seen = processes()
    for secret in (SECRET, READER, WRONG):
        for method in ("PUT", "GET", "POST", "DELETE", "HEAD"):
            server.request(method, target, b"audio", headers=basic(secret))
    for query in (tokens, f"{tokens}x", f"?token={WRONG}", f"/..{tokens}", f"&&&{tokens}"):
        for method in ("PUT", "GET"):
            server.request(method, target + query, b"audio")
            server.request(method, f"/kzr{query}", b"audio", headers=basic(WRONG))
    server.put(target + tokens, b"audio", headers={"Content-Encoding": "gzip"})
    server.put(
        target + tokens, b"broken", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    seen |= processes()
    wait_for(lambda: " name=" in server.log)
    told = logs(server) | seen
    assert len(told) > len(seen)
    for secret in (SECRET, READER, TOKEN, WRONG, NUMBER, quote(NUMBER)):
        encoded = base64.b64encode(f"kazoo:{secret}".encode())
        for name, data in told.items():
            assert secret.encode() not in data and encoded not in data, f"{secret} in {name}"
