"""The systemd units: they are valid, tight, and let the receiver do all that it does."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from support.clients import read_answer
from support.fronts import installed
from support.needs import need, need_root
from support.paths import PROJECT
from support.ports import free_port
from support.waiting import wait_for

DEPLOY = PROJECT / "deploy"
# Which has answered before it is stopped: gunicorn loses a SIGTERM to one that still starts.
ONE_WORKER = "--workers=1"
UNITS = ("receiver.service", "receiver.socket", "receiver-jobs.service")


def test_units_are_valid():
    """As they are shipped, with the receiver where they say: in an /opt that only they see."""
    need_root()
    units = " ".join(str(DEPLOY / name) for name in UNITS)
    script = (
        "mount -t tmpfs none /opt && mkdir /opt/kazoo-receiver && "
        f"mount --bind {installed()} /opt/kazoo-receiver && "
        f"exec {need('systemd-analyze')} verify {units}"
    )
    result = subprocess.run(
        [need("unshare"), "--mount", "sh", "-c", script], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_security_score_is_the_readmes():
    shown = subprocess.run(
        [need("systemd-analyze"), "security", "--offline=true", DEPLOY / "receiver.service"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    score = re.search(r"Overall exposure level for receiver.service: (\S+)", shown)[1]
    assert float(score) < 1
    assert f"**{score}**" in (DEPLOY / "README.md").read_text()


def allowed_calls() -> set[str]:
    """What the unit's SystemCallFilter lets through."""
    allowed: set[str] = set()
    for line in re.findall(
        r"^SystemCallFilter=(.*)$", (DEPLOY / "receiver.service").read_text(), re.M
    ):
        names = expand(line.lstrip("~").split())
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def expand(names: list[str]) -> set[str]:
    calls = {name for name in names if not name.startswith("@")}
    for group in set(names) - calls:
        shown = subprocess.run(
            [need("systemd-analyze"), "syscall-filter", group], capture_output=True, text=True
        ).stdout
        calls |= expand(re.findall(r"^    ([@a-z]\S*)", shown, re.M))
    return calls


def test_receiver_needs_no_system_call_that_the_unit_forbids(tmp_path):
    """All that one start, some uploads and a stop call, traced."""
    port = free_port()
    command = [need("strace"), "-f", "-qq", "-o", tmp_path / "trace", sys.executable]
    process = subprocess.Popen(
        [*command, PROJECT / "app.py", ONE_WORKER, f"--bind=127.0.0.1:{port}"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )

    def is_up() -> bool:
        with closing(socket.socket()) as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    wait_for(is_up)
    for body in (b"one", b"one", b"two"):
        with closing(socket.create_connection(("127.0.0.1", port))) as sock:
            assert upload(sock, body) in (200, 201)
    traced = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
    os.kill(int(traced), signal.SIGTERM)
    process.wait(60)
    calls = set(re.findall(r"^\d+ +([a-z]\w+)\(", (tmp_path / "trace").read_text(), re.M))
    assert {"linkat", "fsync", "flock"} <= calls
    assert calls - allowed_calls() == set()


def upload(sock: socket.socket, body: bytes) -> int:
    sock.settimeout(60)
    sock.sendall(b"PUT /kzr/A/X.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    sock.sendall(body)
    return read_answer(sock).status


def test_socket_of_systemd_is_taken_and_its_queue_survives_a_restart(tmp_path):
    """As `systemctl restart`: what connects while the receiver is down is answered afterwards."""
    path = tmp_path / "socket"
    with closing(socket.socket(socket.AF_UNIX)) as held:
        held.bind(str(path))
        held.listen(16)

        def start() -> subprocess.Popen:
            # What systemd does: the socket as descriptor 3, and two variables.
            script = 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&"$FD"'
            return subprocess.Popen(
                ["bash", "-c", script, "bash", sys.executable, PROJECT / "app.py", ONE_WORKER],
                env={"PATH": "/usr/bin:/bin", "FD": str(held.fileno())},
                pass_fds=[held.fileno()],
                cwd=tmp_path,
                stderr=subprocess.DEVNULL,
            )

        def connect() -> socket.socket:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            return sock

        first = start()
        with closing(connect()) as sock:
            assert upload(sock, b"one") == 201
        first.send_signal(signal.SIGTERM)
        first.wait(60)
        with closing(connect()) as waiting:
            waiting.settimeout(60)
            waiting.sendall(b"PUT /kzr/Y.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\naudio")
            second = start()
            assert read_answer(waiting).status == 201
        second.send_signal(signal.SIGTERM)
        second.wait(60)
    shutil.rmtree(tmp_path / "recordings")
