"""Who may write."""

import hmac
import os
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from flask import Request
from werkzeug.security import check_password_hash

from .errors import Forbidden, Unauthorized

HASH_METHODS = ("scrypt:", "pbkdf2:")


class Access:
    """Checks clients against `KZR_WRITERS` and `KZR_ALLOW_FROM`; with neither, all may write."""

    def __init__(
        self, writers: Mapping[str, str], networks: Sequence[IPv4Network | IPv6Network]
    ) -> None:
        self._writers = writers
        self._networks = networks
        self._key = os.urandom(32)
        self._verified: set[bytes] = set()  # digests of credentials whose hash was checked

    @property
    def is_open(self) -> bool:
        """Whether anybody who reaches the port may write."""
        return not (self._writers or self._networks)

    def check_writer(self, request: Request) -> None:
        """Raise `Forbidden` or `Unauthorized` unless the client may write."""
        if self._networks and not self._is_near(request.remote_addr):
            raise Forbidden(f"{request.remote_addr or 'this client'} is not in KZR_ALLOW_FROM")
        if not self._writers:
            return
        given = request.authorization
        if given is None or given.type != "basic":
            raise Unauthorized("credentials are missing: put user:secret@ into the URL")
        if not self._is_writer(given.username or "", given.password or ""):
            raise Unauthorized("the user or the secret is wrong: see KZR_WRITERS")

    def _is_near(self, address: str | None) -> bool:
        try:
            client = ip_address(address or "")
        except ValueError:  # a Unix socket has no address: its proxy tells, if it is trusted
            return False
        if isinstance(client, IPv6Address) and client.ipv4_mapped:
            client = client.ipv4_mapped
        return any(client in network for network in self._networks)

    def _is_writer(self, user: str, secret: str) -> bool:
        # An unknown user's secret is compared too, so that the time does not tell who exists.
        expected = self._writers.get(user) or next(iter(self._writers.values()))
        return self._matches(expected, secret) and user in self._writers

    def _matches(self, expected: str, secret: str) -> bool:
        if not expected.startswith(HASH_METHODS):
            return hmac.compare_digest(expected.encode(), secret.encode())
        # Checking a password hash is slow by design: remember a success, by a keyed digest.
        digest = hmac.digest(self._key, f"{expected} {secret}".encode(), "sha256")
        if digest not in self._verified and check_password_hash(expected, secret):
            self._verified.add(digest)
        return digest in self._verified
