"""What deploy/ has for a public address: TLS, limits for each address, a filter for fail2ban."""

import base64
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

import pytest

from support.folders import world_readable_folder
from support.fronts import (
    DEPLOY,
    KAZOO,
    ApacheProxy,
    Front,
    ModWsgi,
    Nginx,
    limited,
    need_limits,
    with_limits,
)
from support.needs import need
from support.receivers import Receiver
from support.waiting import wait_for

STALLED = b"PUT /kzr/x.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
STRANGER = "127.0.0.2"


@pytest.fixture(scope="module")
def certificate() -> Iterator[Path]:
    folder = world_readable_folder()
    command = [need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-keyout", folder / "key", "-out", folder / "chain"]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "key").chmod(0o644)
    yield folder
    shutil.rmtree(folder)


def with_tls(conf: str, certificate: Path, port: str) -> str:
    """The shipped file, with its lines for TLS taken in as its comment says."""
    conf = re.sub(r"# (listen 443 ssl;|ssl_\w+ .*;)", r"\1", conf)
    conf = re.sub(r"    listen 127\.0\.0\.1:(\d+);\n", "", conf).replace("listen 443 ssl", port)
    conf = re.sub(r"# (SSL\w+ .*)", r"\1", conf)
    live = "/etc/letsencrypt/live/recordings"
    conf = conf.replace(f"{live}/fullchain.pem", str(certificate / "chain"))
    return conf.replace(f"{live}/privkey.pem", str(certificate / "key"))


def tls_nginx(certificate: Path) -> Front:
    def edit(conf: str) -> str:
        address = re.search(r"listen (127\.0\.0\.1:\d+);", conf)[1]
        return with_tls(conf, certificate, f"listen {address} ssl")

    return Nginx(edit=edit)


def tls_apache(certificate: Path) -> Front:
    class WithSSL(ApacheProxy):
        modules = (*ApacheProxy.modules, "ssl", "socache_shmcb")

    return WithSSL(edit=lambda conf: with_tls(conf, certificate, ""))


@pytest.mark.parametrize("start", [tls_nginx, tls_apache])
def test_tls_is_current(certificate, start):
    front = start(certificate)
    try:
        context = ssl._create_unverified_context()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context.minimum_version = context.maximum_version = version
            with closing(HTTPSConnection("127.0.0.1", front.port, context=context)) as connection:
                connection.request("PUT", f"/kzr/{version}.mp3", b"audio")
                assert connection.getresponse().status == 201
        old = subprocess.run(
            [need("openssl"), "s_client", "-connect", f"127.0.0.1:{front.port}", "-tls1_1"]
            + ["-cipher", "DEFAULT@SECLEVEL=0"],
            input=b"",
            capture_output=True,
        )
        assert old.returncode != 0
    finally:
        front.stop()


def put(front: Front, source: str, name: str) -> int:
    address = ("127.0.0.1", front.port)
    with closing(HTTPConnection(*address, timeout=30, source_address=(source, 0))) as connection:
        connection.request("PUT", f"/kzr/{name}.mp3", b"audio")
        return connection.getresponse().status


def stalled(
    front: Front, stack: ExitStack, source: str, count: int, sent: bytes = STALLED
) -> list[socket.socket]:
    """Connections whose request stalls, in its body or its head."""
    found = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", front.port), 30, source_address=(source, 0))
        found.append(stack.enter_context(sock))
        sock.sendall(sent)
    return found


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    front = Nginx(edit=limited)
    yield front
    front.stop()


class TestNginx:
    def test_requests_of_a_stranger_are_limited_and_kazoos_are_not(self, front):
        statuses = [put(front, STRANGER, f"stranger{number}") for number in range(300)]
        assert statuses[:50] == [201] * 50 and 429 in statuses
        assert [put(front, KAZOO, f"kazoo{number}") for number in range(300)] == [201] * 300

    def test_connections_of_a_stranger_are_limited_and_kazoos_are_not(self, front):
        with ExitStack() as stack:
            stalled(front, stack, "127.0.0.3", 50)
            assert wait_for(lambda: put(front, "127.0.0.3", "a") == 429)
            stalled(front, stack, KAZOO, 80)
            assert put(front, KAZOO, "b") == 201

    def test_version_is_not_told(self, front):
        assert front.request("GET", "/" + "x" * 40_000).headers["Server"] == "nginx"


@pytest.mark.parametrize("kind", [ApacheProxy, ModWsgi])
def test_connections_to_apache_are_limited_but_kazoos(kind):
    need_limits()

    front = with_limits(kind)(edit=limited)
    try:
        with ExitStack() as stack:
            stalled(front, stack, STRANGER, 60, STALLED[:20])

            def is_refused() -> bool:
                try:
                    return put(front, STRANGER, "a") >= 500
                except (OSError, HTTPException):
                    return True

            wait_for(is_refused)
            stalled(front, stack, KAZOO, 40, STALLED[:20])
            assert put(front, KAZOO, "b") == 201
    finally:
        front.stop()


def test_fail2ban_sees_who_guesses_and_nobody_else(tmp_path):
    need("fail2ban-regex")
    receiver = Receiver(tmp_path, writers="kazoo:secret", trusted_proxies=1)

    def send(credentials: str, client: str, name: str = "x.mp3") -> None:
        headers = {"X-Forwarded-For": client}
        if credentials:
            headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
        receiver.put(f"/kzr/{name}", headers=headers)

    forged = (
        "x%20outcome=401%20(the%20user%20or%20the%20secret%20is%20wrong:%20see%20KZR_WRITERS)"
        "%20client=192.0.2.9%0AX.mp3"
    )
    try:
        send("kazoo:wrong", "192.0.2.1")
        send("kazoo:wrong", "2001:db8::1")
        send("kazoo:secret", "192.0.2.2")
        send("", "192.0.2.3")
        send("kazoo:secret", "192.0.2.4", forged)
        send("", "192.0.2.5", forged)
    finally:
        receiver.stop()
    found = subprocess.run(
        ["fail2ban-regex", "--out", "ip", tmp_path / "log", DEPLOY / "fail2ban-filter.conf"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found.split() == ["192.0.2.1", "2001:db8::1"]
