"""A POST to another server that ends in time, whatever the server does."""

import base64
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, unquote, urlsplit

from .event import JobFailed, printable_lines

CONNECT_SECONDS = 5
LONGEST_REASON = 200  # bytes of an answer that are told
NAT64 = IPv6Network("64:ff9b::/96")


def post(
    url: str,
    headers: Mapping[str, str],
    body: bytes | Iterable[bytes],
    *,
    seconds: float,
    longest: int,
    allow_private: bool,
) -> bytes:
    """Post to a URL and return the first `longest` bytes of the answer, within some seconds.

    Raises `JobFailed` where there is no answer, or its status is not 2xx: redirects are not
    followed. Unless private addresses are allowed, only public ones are connected to.
    """
    parts = urlsplit(url)
    deadline = time.monotonic() + seconds
    try:
        with _connect(parts, deadline, allow_private) as sock, _Deadline(sock, deadline):
            answer, status = _exchange(sock, parts, headers, body, longest)
    except (OSError, HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            raise JobFailed(f"no whole answer within {seconds} seconds") from error
        raise JobFailed(f"no answer: {str(error) or type(error).__name__}") from error
    if not 200 <= status < 300:
        reasons = ["redirects are not followed"] if 300 <= status < 400 else []
        reasons += printable_lines(answer[:LONGEST_REASON])[:1]
        raise JobFailed(": ".join([f"it answered {status}", *reasons]))
    return answer


def _exchange(
    sock: socket.socket,
    parts: SplitResult,
    headers: Mapping[str, str],
    body: bytes | Iterable[bytes],
    longest: int,
) -> tuple[bytes, int]:
    sent = {"User-Agent": "kazoo-receiver", "Connection": "close", **headers}
    if parts.username is not None:
        credentials = unquote(f"{parts.username}:{parts.password or ''}").encode()
        sent["Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
    if isinstance(sock, ssl.SSLSocket):
        sock.do_handshake()
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection  # for the port in Host
    connection = kind(parts.hostname or "", _port(parts))
    connection.sock = sock
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # A server may answer, and hang up, before it has read all.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request("POST", target, body, sent)
    with connection.getresponse() as response:
        return response.read(longest), response.status


def _connect(parts: SplitResult, deadline: float, allow_private: bool) -> socket.socket:
    """Connect to one of the host's addresses; names are not looked up again after the check."""
    host = parts.hostname or ""
    found = socket.getaddrinfo(host, _port(parts), type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    if not allow_private and (refused := [each for each in addresses if not is_public(each)]):
        raise JobFailed(f"{refused[0]} is no public address: set KZR_WEBHOOK_ALLOW_PRIVATE=yes")
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(min(CONNECT_SECONDS, deadline - time.monotonic()), 0.001))
            sock.connect(address)
            if parts.scheme != "https":
                return sock
            context = ssl.create_default_context()
            return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            sock.close()
            failure = OSError(f"cannot connect to {host}: {error}")
    raise failure or OSError(f"{host} has no address")


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def is_public(address: str) -> bool:
    """Whether an address is one of the Internet's, and no network of our own can have it."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inner: IPv4Address | None = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64:
            inner = IPv4Address(ip.packed[-4:])
        if inner is None:
            return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_site_local)
        ip = inner
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


class _Deadline(threading.Timer):
    """Breaks a connection at a time: timeouts of sockets begin anew with each byte."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        left = max(deadline - time.monotonic(), 0.001)
        sock.settimeout(left)
        super().__init__(left, self._break, [sock])
        self.daemon = True

    def _break(self, sock: socket.socket) -> None:
        with suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TLS would go on in the clear

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *error: object) -> None:
        self.cancel()
