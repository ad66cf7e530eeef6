"""Measures what right uploads notice of an attack, through each server that may stand in front.

All at once, from four addresses: 200 clients whose request's head does not end, 200 strangers whose
body does not come, 200 readers with credentials who do not read a recording of 8 MB, and 40 wrong
passwords a second, each another, where secrets are kept as hashes. Each begins again when it is cut
off. Meanwhile four clients upload recordings of 20 KB from another address. What is told is how
many came through, and how long they took, unharmed and under attack; the memory of the receiver;
and how soon after the attack an upload takes no longer than before.

    python tests/proof/abuse.py                        about six minutes
    python tests/proof/abuse.py --seconds 10 gunicorn  a first look
    python tests/proof/abuse.py nginx mod_proxy        without the limits for each address
"""

import argparse
import asyncio
import base64
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

# The tests and the project, which need not be the one that is installed.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from report import tell
from werkzeug.security import generate_password_hash

from support.clients import Storing
from support.folders import world_readable_folder
from support.fronts import FRONTS, ApacheProxy, ModWsgi, limited, with_limits
from support.receivers import Receiver

SECRET = "s3cret"
SIZE = 20_000  # bytes of a recording
LARGE = 8 * 1024 * 1024
# With the limits of deploy/ for each address that is not Kazoo's.
ALL = ["gunicorn", "nginx+limits", "mod_proxy+limits", "mod_wsgi+limits"]
OF_EACH, GUESSES = 200, 40
UPLOADERS = 4
RECOVERED = 10.0  # seconds
APACHE = {"mod_proxy": ApacheProxy, "mod_wsgi": ModWsgi}
BASIC = f"Basic {base64.b64encode(f'kazoo:{SECRET}'.encode()).decode()}"
HEAD = "PUT /kzr/call_recording_attack.mp3 HTTP/1.1\r\nHost: x\r\n"


async def hold(port: int, address: str, sent: str, drip: str, *, reads: bool) -> None:
    """Open a connection, send something, and then hold it: again and again, if it is cut off."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, limit=1024, local_addr=(address, 0)
            )
            try:
                writer.write(sent.encode())
                while reads and await asyncio.wait_for(reader.read(1024), 5):
                    pass
            except TimeoutError:
                pass
            with suppress(OSError):
                while not writer.is_closing() and not reader.at_eof():
                    await asyncio.sleep(1)
                    writer.write(drip.encode())
                    await writer.drain()
            writer.transport.abort()
        await asyncio.sleep(0.5)


async def guess(port: int, address: str, number: int) -> None:
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        wrong = base64.b64encode(f"kazoo:{number}-{os.urandom(8).hex()}".encode()).decode()
        head = (
            f"{HEAD}Authorization: Basic {wrong}\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + b"audio")
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(reader.read(65536), 20)
        writer.transport.abort()


async def attack(port: int) -> None:
    addresses = [f"127.0.0.{number}" for number in range(2, 6)]
    get = f"GET /kzr/call_recording_large.mp3 HTTP/1.1\r\nHost: x\r\nAuthorization: {BASIC}\r\n\r\n"
    tasks = set()
    for number in range(OF_EACH):
        address = addresses[number % len(addresses)]
        for sent, drip in (
            (HEAD, "X: y\r\n"),
            (f"{HEAD}Content-Length: 90000\r\n\r\n", "x"),
            (get, ""),
        ):
            tasks.add(asyncio.create_task(hold(port, address, sent, drip, reads=False)))
    for number in range(10**9):
        task = asyncio.create_task(guess(port, addresses[number % len(addresses)], number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(1 / GUESSES)


@dataclass
class Seen:
    """What uploaders have seen."""

    times: list[float] = field(default_factory=list)  # seconds of those that were stored
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        if not self.times:
            return f"none, {len(self.failed)} failed"
        half, most = statistics.median(self.times), sorted(self.times)[int(len(self.times) * 0.99)]
        text = f"{len(self.times) / self.seconds:.0f}/s, "
        text += f"{half * 1000:.0f} ms, 99 % in {most * 1000:.0f} ms"
        return text + (f", {len(self.failed)} FAILED ({self.failed[0]})" if self.failed else "")


def upload(port: int, name: str) -> str:
    """Upload a recording over a connection of its own; return what went wrong."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(
            "PUT", f"/kzr/call_recording_{name}.mp3", os.urandom(SIZE), {"Authorization": BASIC}
        )
        answer = connection.getresponse()
        answer.read()
        return "" if answer.status == 201 else str(answer.status)
    except (OSError, HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def uploads(port: int, seconds: float, kind: str) -> Seen:
    seen, lock = Seen(seconds=seconds), threading.Lock()
    end = time.monotonic() + seconds

    def run(uploader: int) -> None:
        number = 0
        while time.monotonic() < end:
            began, number = time.monotonic(), number + 1
            wrong = upload(port, f"{kind}-{uploader}-{number}")
            with lock:
                if wrong:
                    seen.failed.append(wrong)
                else:
                    seen.times.append(time.monotonic() - began)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(UPLOADERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def memory(server: Storing) -> float:
    """What the processes of the receiver hold for themselves, in MB."""
    root = server.receiver.process.pid if getattr(server, "receiver", None) else server.process.pid
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        with suppress(OSError):
            for task in Path(f"/proc/{process}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
            status = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += sum(
                int(line.split()[1]) for line in status.splitlines() if line.startswith("Private_")
            )
    return total / 1024


def measure(name: str, seconds: float) -> bool:
    hashed = generate_password_hash(SECRET)
    settings = {"writers": f"kazoo:{hashed}", "readers": f"kazoo:{hashed}", "min_free": 0}
    if name == "gunicorn":
        folder = world_readable_folder()
        server: Storing = Receiver(folder, "--workers=2", **settings)
    else:
        kind, _, limits = name.partition("+")
        options = {} if kind == "mod_wsgi" else {"options": ("--workers=2",)}
        if limits and kind in APACHE:
            server = with_limits(APACHE[kind])(edit=limited, **settings, **options)
        else:
            edit = {"edit": limited} if limits else {}
            server = FRONTS[kind](**settings, **options, **edit)
    attackers = None
    try:
        server.put("/kzr/call_recording_large.mp3", bytes(LARGE), headers={"Authorization": BASIC})
        uploads(server.port, 3, "warm")
        unharmed = uploads(server.port, 10, "unharmed")
        began_with = memory(server)
        attackers = subprocess.Popen([sys.executable, __file__, "--attack", str(server.port)])
        time.sleep(3)  # so that all have begun
        first = uploads(server.port, seconds / 2, "first")
        half = memory(server)
        second = uploads(server.port, seconds / 2, "second")
        ended_with = memory(server)
        attackers.kill()
        attackers.wait()
        ended = time.monotonic()
        recovered = 0.0
        usual = sorted(unharmed.times)[int(len(unharmed.times) * 0.99)] * 2
        for number in range(10_000):
            began = time.monotonic()
            if not upload(server.port, f"after-{number}") and time.monotonic() - began <= usual:
                recovered = time.monotonic() - ended
                break
    finally:
        if attackers:
            attackers.kill()
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)
    both = Seen(first.times + second.times, first.failed + second.failed, seconds)
    figures = f"unharmed {unharmed}; under attack for {seconds:.0f} s {both}; memory "
    figures += f"{began_with:.0f}, {half:.0f}, {ended_with:.0f} MB; recovered in {recovered:.1f} s"
    passed = bool(both.times) and not both.failed and 0 < recovered < RECOVERED
    return tell(f"uploads under attack, {name}", figures, passed and ended_with < half * 1.2 + 20)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fronts", nargs="*", default=ALL)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack:
        asyncio.run(attack(given.attack))
    passed = [measure(name, given.seconds) for name in given.fronts]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
