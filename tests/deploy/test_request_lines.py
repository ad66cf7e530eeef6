"""Request lines: as long in gunicorn as in the servers in front of it, and in no access log."""

import base64
import http.client
import re
from contextlib import closing
from pathlib import Path

import pytest

from receiver import serve
from support.clients import Client
from support.fronts import FRONTS
from support.receivers import Receiver
from support.waiting import wait_for

SERVERS = ("gunicorn", *FRONTS, "accel")
LONGEST = 16380  # bytes, without the end of the line
USER, SECRET, TOKEN, CALLER = "kazoo-user", "a-long-secret", "a-long-token", "15551234567"
BASIC = base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
SETTINGS = {"readers": f"{USER}:{SECRET}", "write_tokens": TOKEN}


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    if request.param == "gunicorn":
        folder = tmp_path_factory.mktemp("gunicorn")
        log = folder / "access.log"
        started = Receiver(folder, f"--access-logfile={log}", **SETTINGS)
        started.access_log_path = log
    elif request.param == "accel":
        from support.reading import reading

        with reading("accel", tmp_path_factory.mktemp("accel"), print, **SETTINGS) as started:
            yield started
        return
    else:
        started = FRONTS[request.param](**SETTINGS)
    yield started
    started.stop()


def send(server: Client, method: str, target: str, size: int = 0, *headers: str) -> int:
    """The status of a request whose line is filled up to a size with its query."""
    line = f"{method} {target} HTTP/1.1"
    line = line.replace(" HTTP", "x" * (size - len(line)) + " HTTP")
    lines = [line, "Host: x", f"Authorization: Basic {BASIC}", "Content-Length: 5", *headers]
    body = b"audio" if method == "PUT" else b""
    if not body:
        lines.remove("Content-Length: 5")
    with server.connect() as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        with closing(http.client.HTTPResponse(sock, method=method)) as response:
            response.begin()
            return response.status


def test_line_of_16_kilobytes_is_taken(server: Client):
    target = f"/kzr/call_recording_long.mp3?token={TOKEN}&from="
    for size in (8190, 8191, 10_000, LONGEST):
        assert send(server, "PUT", target, size) in (200, 201)
        assert send(server, "GET", target, size) == 200
        assert send(server, "HEAD", target, size) == 200


@pytest.mark.parametrize("size", [LONGEST + 20, 20_000])
def test_longer_line_is_refused(server: Client, size):
    for method in ("PUT", "GET"):
        target = f"/kzr/call_recording_longer.mp3?token={TOKEN}&from="
        assert send(server, method, target, size) == 414


def test_limit_is_the_same_in_the_shipped_files():
    assert serve.limit_request_line == LONGEST
    deploy = Path(__file__).parents[2] / "deploy"
    for name in ("apache.conf", "apache-wsgi.conf"):
        assert re.findall(r"LimitRequestLine (\d+)", (deploy / name).read_text()) == [str(LONGEST)]


def test_own_limit_of_an_administrator_counts(start):
    receiver = start("--limit-request-line=1000")
    assert send(receiver, "PUT", "/kzr/call_recording_x.mp3?from=", 1000) == 201
    assert send(receiver, "PUT", "/kzr/call_recording_x.mp3?from=", 1001) == 414


def test_access_log_has_neither_query_nor_user(server: Client):
    secret_query = f"?token={TOKEN}&caller_id_number={CALLER}&caller_id_name=Jane%20Roe"
    target = f"/kzr/call_recording_logged%40h.mp3{secret_query}"
    referer = f"Referer: http://x/browse/?text={CALLER}"
    assert send(server, "PUT", target, 0, referer, "User-Agent: agent-1") == 201
    assert send(server, "GET", f"{target}&id=x", 0, referer, "User-Agent: agent-2") == 200
    assert send(server, "HEAD", target) == 200
    assert send(server, "GET", target, 0, "Range: bytes=1-2") == 206
    assert send(server, "GET", f"/kzr/absent.mp3{secret_query}") == 404
    assert send(server, "GET", f"/kzr{secret_query}&recording=call_recording_logged%40h.mp3") == 200
    assert send(server, "DELETE", target) == 405
    assert send(server, "GET", target, 20_000) == 414
    assert server.raw(f"GET {target} {TOKEN} HTTP/1.1\r\n\r\n".encode()).status == 400
    assert server.raw(f"GET {target} HTTP/9.1\r\n\r\n".encode()).status in (400, 505)
    assert send(server, "GET", "/healthz?last=1") == 200

    def log() -> str:
        return server.access_log_path.read_text(errors="replace")

    wait_for(lambda: "/healthz" in log(), why="the log to be written")
    for secret in (USER, SECRET, TOKEN, BASIC, CALLER, "Jane", "?", "last=1"):
        assert secret not in log(), secret
    for told in (
        "PUT /kzr/call_recording_logged",
        " 201 ",
        " 206 ",
        " 404 ",
        "agent-2",
        "127.0.0.1",
    ):
        assert told in log(), told
