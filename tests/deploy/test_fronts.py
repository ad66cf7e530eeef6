"""The receiver behind nginx and Apache, and in Apache, each started with the shipped file."""

import os
import re
import socket
import subprocess

import pytest

from support.fronts import DEPLOY, FRONTS, MODULES, Front, ModWsgi, stored
from support.needs import need
from support.notes import MARKER
from support.waiting import wait_for
from support.wire import captures, check, expected_path, request

HEAD = b"PUT /kzr/call_recording_X.mp3 HTTP/1.1\r\nHost: x\r\n"
ALL = list(FRONTS)


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("apache.conf", ["headers", "proxy", "proxy_http"]),
        ("apache-wsgi.conf", ["wsgi"]),
    ],
)
def test_apache_takes_the_file_unchanged(tmp_path, name, modules):
    """As `apachectl configtest`, with no module but those that the file names."""
    loaded = ["mpm_event", "authz_core", "reqtimeout", *modules]
    lines = [
        *(f"ServerRoot {tmp_path}", "ServerName localhost", "Listen 127.0.0.1:80"),
        *(f"PidFile {tmp_path}/pid", f"ErrorLog {tmp_path}/log"),
        *(f"LoadModule {each}_module {MODULES}/mod_{each}.so" for each in loaded),
        f"Include {DEPLOY / name}",
    ]
    (tmp_path / "apache.conf").write_text("\n".join(lines) + "\n")
    command = [need("apache2"), "-t", "-f", tmp_path / "apache.conf"]
    environ = os.environ | {"APACHE_LOG_DIR": str(tmp_path)}  # as /etc/apache2/envvars has it
    shown = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert (shown.returncode, shown.stderr) == (0, "Syntax OK\n")


def test_nginx_takes_the_file_unchanged(tmp_path):
    """As `nginx -t`."""
    folders = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/log; events {{ }}\n"
        f"http {{ access_log off;\n{folders} include {DEPLOY / 'nginx.conf'}; }}\n"
    )
    command = [need("nginx"), "-t", "-e", tmp_path / "log", "-c", tmp_path / "nginx.conf"]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.iterdir()))
def test_no_mark_stands_behind_what_it_is_about(name):
    """Apache and systemd know no comments there."""
    for line in (DEPLOY / name).read_text().splitlines():
        assert not re.match(r"\s*[^#\s].*\s# ?CHANGE", line) or name in ("README.md",)


@pytest.fixture(scope="module", params=ALL)
def started(request):
    front = FRONTS[request.param](readers="kazoo:secret")
    yield front
    front.stop()


@pytest.fixture
def front(started: Front) -> Front:
    for path in started.storage.iterdir():
        if path.name not in (".handover", MARKER):
            os.system(f"rm -rf '{path}'")
    return started


@pytest.mark.parametrize("capture", captures())
def test_capture_is_stored_and_read_back(front: Front, capture):
    check(front, capture)
    assert list(stored(front)) == [expected_path(capture)]


@pytest.mark.parametrize("capture", captures(named=False))
def test_capture_without_a_usable_name_is_refused(front: Front, capture):
    assert front.raw(request(capture)).status == 400
    assert stored(front) == {}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 5, 100_000, 25 * 1024 * 1024])
def test_body_is_stored_byte_for_byte(front: Front, size, chunked):
    body = os.urandom(size)
    answer = front.put("/kzr/ACCOUNT/call_recording_X.mp3", body, chunked=chunked)
    assert (answer.status, answer.line) == (201, f"created: ACCOUNT/X.mp3, {size} bytes")
    assert stored(front) == {"ACCOUNT/X.mp3": body}
    assert front.put("/kzr/ACCOUNT/call_recording_X.mp3", body).status == 200
    assert (front.storage / "ACCOUNT/X.mp3").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/kzr/call_recording_a%2Fb.mp3", "a%2Fb.mp3"),
        ("/kzr/call_recording_a%252Fb.mp3", "a%252Fb.mp3"),
        ("/kzr/call_recording_a/b.mp3", "a%2Fb.mp3"),
        ("/kzr/call_recording_a%5Cb.mp3", "a%5Cb.mp3"),
        ("/kzr/call_recording_%2e%2e%2f%2e%2e%2fx.mp3", "%2E.%2F..%2Fx.mp3"),
        ("/kzr/call_recording_a%0d%0ab.mp3", "a%0D%0Ab.mp3"),
        ("/kzr/call_recording_%ff.mp3", "%FF.mp3"),
        ("/kzr//call_recording_X.mp3", "X.mp3"),
        ("//call_recording_X.mp3", "X.mp3"),
        ("/voicemail/A/B/call_recording_X.mp3?recording=Y", "voicemail/A/B/X.mp3"),
    ],
)
def test_name_arrives_as_it_was_sent(front: Front, target, path):
    answer = front.put(target)
    assert answer.status == 201, answer.text
    assert list(stored(front)) == [path]


@pytest.mark.parametrize(
    "target", ["/kzr/../../x.mp3", "/../x.mp3", "/kzr/%2e%2e/x.mp3", "/kzr/x%00y/../z", "/kzr/"]
)
def test_nothing_is_stored_outside(front: Front, target):
    assert front.put(target).status in (400, 404)
    assert stored(front) == {}


def test_raw_utf8_is_taken(front: Front):
    line = "PUT /kzr/call_recording_Jörg.mp3?caller_id_name=Jörg HTTP/1.1\r\nHost: x\r\n"
    assert front.raw(line.encode() + b"Content-Length: 5\r\n\r\naudio").status == 201
    assert stored(front) == {"J%C3%B6rg.mp3": b"audio"}


def test_long_query_is_taken(front: Front):
    assert front.put("/kzr/call_recording_X.mp3?from=" + "x" * 8000).status == 201


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 1000000\r\n\r\n" + bytes(999_999),
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nau",
    ],
)
def test_cut_upload_leaves_nothing(front: Front, framing):
    with front.connect() as sock:
        sock.sendall(HEAD + framing)
        sock.shutdown(socket.SHUT_WR)
        assert not sock.recv(100).startswith(b"HTTP/1.1 2")
    assert front.put("/kzr/call_recording_X.mp3", b"whole").status == 201
    assert stored(front) == {"X.mp3": b"whole"}


def test_100_continue(front: Front):
    with front.connect() as sock:
        sock.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        sock.sendall(b"audio")
        assert sock.recv(100).startswith(b"HTTP/1.1 201")


@pytest.mark.parametrize(
    "header",
    [
        "SCRIPT_NAME: /kzr",
        "Script-Name: /kzr",
        "X-Body-File: /etc/passwd",
        "X_Body_File: /etc/passwd",
        "X-Body-Length: 0",
        "X-Forwarded-Prefix: /kzr",
        "X-Accel-Redirect: /etc/passwd",
    ],
)
def test_spoofed_header_has_no_effect(front: Front, header):
    head = HEAD + header.encode() + b"\r\nContent-Length: 5\r\n\r\naudio"
    assert front.raw(head).status == 201
    assert stored(front) == {"X.mp3": b"audio"}


@pytest.mark.parametrize("front_name", ALL)
def test_client_address_and_credentials_arrive(front_name):
    front = FRONTS[front_name](allow_from="127.0.0.0/8", writers="kazoo:p%40ss")
    try:
        right = {"Authorization": "Basic a2F6b286cCU0MHNz"}
        assert front.put("/kzr/call_recording_X.mp3").status == 401
        assert front.put("/kzr/call_recording_X.mp3", headers=right).status == 201
    finally:
        front.stop()
    front = FRONTS[front_name](allow_from="10.0.0.0/8")
    try:
        spoofed = {"X-Forwarded-For": "10.1.2.3"}
        answer = front.put("/kzr/call_recording_X.mp3", headers=spoofed)
        assert (answer.status, answer.line) == (403, "127.0.0.1 is not in KZR_ALLOW_FROM")
    finally:
        front.stop()


def test_wrong_setting_ends_apaches_log_with_one_line():
    front = ModWsgi(min_free="much")
    try:
        assert front.put("/kzr/call_recording_X.mp3").status == 500
        line = (
            "SystemExit: receiver: KZR_MIN_FREE=much: expected a size in bytes, such as 100M or 2G"
        )
        wait_for(lambda: front.log.rstrip().endswith(line))
    finally:
        front.stop()


@pytest.mark.parametrize("front_name", ALL)
def test_log_names_the_client_and_the_recording(front_name):
    front = FRONTS[front_name]()
    try:
        front.put("/kzr/call_recording_X.mp3", b"audio")
        line = "PUT name=X.mp3 bytes=5 ms="
        wait_for(lambda: line in front.log)
        assert "outcome=created client=127.0.0.1" in front.log.partition(line)[2]
    finally:
        front.stop()
