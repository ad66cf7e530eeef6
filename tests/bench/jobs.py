"""What one job for each upload costs: each contestant on a new file system, in turns.

ext4 is slow for minutes where many files were just deleted, so that none is used twice.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import quote, urlencode

from support.needs import need
from support.receivers import Receiver

LOADS = {"300 KB": 300_000, "20 KB": 20_000}  # bytes, by name
IMAGE = 8 << 30  # bytes; it is sparse
WITH: dict[str, dict[str, object]] = {"nothing": {}, "one job each": {"on_stored": "true"}}
# What Kazoo's master tells of a call in the URL.
TOLD = {
    "from": "1001@acme.sip.example.com",
    "to": "+14155550100@acme.sip.example.com",
    "caller_id_name": "Alice Smith",
    "caller_id_number": "1001",
    "call_id": "abc123@10.0.0.1",
    "cdr_id": "202611-abc123@10.0.0.1",
    "interaction_id": "63868000000-7a1b2c3d",
    "account_id": "4f8c2d6ba1e04be39c1d7f60a2b3c4d5",
}
QUERY = urlencode(TOLD, quote_via=quote)


@contextmanager
def new_file_system(folder: Path) -> Iterator[Path]:
    image, mount = folder / "image", folder / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE)
    options = "lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run([need("mkfs.ext4"), "-q", "-F", "-E", options, image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)
        image.unlink()
        shutil.rmtree(mount)


def rows(folder, rounds, seconds, shape, measure_load, script) -> Iterator[list[str]]:
    """The table's rows; `measure_load` loads a server, and `script` is wrk's."""
    script.write_text(script.read_text().replace('".mp3"', f'".mp3?{QUERY}"'))
    rates: dict[tuple[str, str], list[float]] = {}
    costs: dict[tuple[str, str], list[float]] = {}
    for number in range(1, rounds + 1):
        for load, size in LOADS.items():
            for name, settings in WITH.items():
                with new_file_system(folder) as disk:
                    settings = {"storage": disk / "recordings", "min_free": "0"} | settings
                    server = Receiver(disk, *shape, **settings)
                    try:
                        rate, cost = measure_load(server, size, seconds, script)
                    finally:
                        server.stop()
                rates.setdefault((load, name), []).append(rate)
                costs.setdefault((load, name), []).append(cost)
                print(f"round {number}, {name}: {load} {rate:.0f}/s", file=sys.stderr)
    yield ["with", *(f"{load}: {what}" for load in LOADS for what in ("uploads/s", "CPU", "ratio"))]
    for name in WITH:
        cells = [name]
        for load, size in LOADS.items():
            mine, others = rates[load, name], rates[load, "nothing"]
            ratio = median(one / other for one, other in zip(mine, others, strict=True))
            cpu = median(costs[load, name]) * size / 1e6
            cells += [f"{median(mine):.0f}", f"{cpu:.2f} ms", f"{ratio:.2f}"]
        yield cells
