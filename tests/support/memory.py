"""How much memory an upload costs."""

import re
from pathlib import Path

from support.clients import read_answer
from support.receivers import Receiver

GIB = 1024**3
MIB = 1024**2


def peak(worker: int) -> int:
    """The most memory that the process ever held, in bytes."""
    status = Path(f"/proc/{worker}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def send(receiver: Receiver, name: str, size: int, chunked: bool) -> int:
    """Send `size` bytes without ever holding them here."""
    piece = bytes(range(256)) * (MIB // 256)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    with receiver.connect() as sock:
        sock.settimeout(600)  # a busy machine takes its time
        sock.sendall(f"PUT /kzr/{name} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        for _ in range(size // MIB):
            sock.sendall(b"%x\r\n%s\r\n" % (MIB, piece) if chunked else piece)
        if chunked:
            sock.sendall(b"0\r\n\r\n")
        return read_answer(sock).status
