"""Who may write, who may read, and from where."""

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from flask import Flask, Request
from werkzeug.security import check_password_hash

from .config import HASH_METHODS
from .errors import Forbidden, Unauthorized
from .guesses import Guesses

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LONGEST_ADDRESS = 64  # characters that are told of what is no address
_WITH_ZONE = re.compile(r"([^%]*)%[A-Za-z0-9._~%-]+")  # an IPv6 address and the client's interface
# An IPv4 address and a port, or an address in brackets, with or without a port.
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}|\[([^\]]+)\](?::[0-9]{1,5})?")


class Access:
    """Checks clients against the settings of who may write and who may read.

    `KZR_WRITERS`, `KZR_WRITE_TOKENS` and `KZR_ALLOW_FROM` limit writing; with none, all may.
    Reading is for `KZR_READERS` only.
    """

    def __init__(
        self,
        writers: Mapping[str, str],
        networks: Sequence[IPv4Network | IPv6Network],
        tokens: Sequence[str] = (),
        readers: Mapping[str, str] | None = None,
    ) -> None:
        self._writers = writers
        self._networks = networks
        self._tokens = tokens
        self._readers = readers or {}
        self._guesses = Guesses(lambda address: is_in(address, networks))

    @property
    def is_open(self) -> bool:
        """Whether anybody who reaches the port may write."""
        return not (self._writers or self._tokens or self._networks)

    def __str__(self) -> str:
        """Who may write and who may read, by name."""
        writers = [*self._writers, *["whoever has a token"][: len(self._tokens)]]
        networks = " ".join(map(str, self._networks))
        writing = " ".join(filter(None, [", ".join(writers), networks and f"from {networks}"]))
        reading = ", ".join(self._readers)
        return f"may write: {writing or 'anybody'}; may read: {reading or 'nobody'}"

    def check_writer(self, request: Request) -> None:
        """Raise `Forbidden` or `Unauthorized` unless the client may write."""
        if self._networks and not is_in(request.remote_addr, self._networks):
            raise Forbidden(f"{request.remote_addr or 'this client'} is not in KZR_ALLOW_FROM")
        if not (self._writers or self._tokens) or self._has_token(request):
            return
        user, secret = _basic(request)
        check = partial(self._is_known, self._writers, user, secret)
        if not self._is_right("write", request, (user, secret), self._writers, check):
            raise Unauthorized("the user or the secret is wrong: see KZR_WRITERS")

    def check_reader(self, request: Request) -> None:
        """Raise `Forbidden` or `Unauthorized` unless the client may read."""
        if not self._readers:
            raise Forbidden("nothing is readable here: see KZR_READERS")
        user, secret = _basic(request)
        check = partial(self._is_known_reader, user, secret)
        if not self._is_right("read", request, (user, secret), self._readers, check):
            raise Unauthorized("the user or the secret is wrong: see KZR_READERS")

    def _is_right(
        self,
        what: str,
        request: Request,
        given: tuple[str, str],
        known: Mapping[str, str],
        check: Callable[[], bool],
    ) -> bool:
        if not any(secret.startswith(HASH_METHODS) for secret in known.values()):
            return check()  # which costs next to nothing
        return self._guesses.is_right((what, *given), request.remote_addr, check)

    def _is_known_reader(self, user: str, secret: str) -> bool:
        if secret:
            return self._is_known(self._readers, user, secret, is_read_back=True)
        # Reading back, Kazoo 4.3 and master drop the colon between the two. A refusal has tried
        # every reader's name, so that the time does not tell whether one is in front.
        names = sorted(self._readers, key=user.startswith, reverse=True)
        return any(
            self._is_known(self._readers, name, user[len(name) :], is_read_back=True)
            and user.startswith(name)
            for name in names
        )

    def _has_token(self, request: Request) -> bool:
        given = request.args.get("token", "").encode()
        # A list, so that every token is compared and the time does not tell which is near.
        return any([hmac.compare_digest(given, token.encode()) for token in self._tokens])

    def _is_known(
        self, known: Mapping[str, str], user: str, secret: str, *, is_read_back: bool = False
    ) -> bool:
        # An unknown user's secret is compared too, and where some secrets are hashes, each refusal
        # checks one, so that the time does not tell who exists.
        hashed = next((each for each in known.values() if each.startswith(HASH_METHODS)), "")
        expected = known.get(user) or hashed or next(iter(known.values()), "")
        if self._matches(expected, secret, is_read_back) and user in known:
            return True
        if hashed and not expected.startswith(HASH_METHODS):
            self._matches(hashed, secret, is_read_back)
        return False

    def _matches(self, expected: str, secret: str, is_read_back: bool) -> bool:
        """Whether a secret is the expected one, or what Kazoo 4.3 and master read it back as.

        They take its leading digits for a port, so that `01abc` comes as `1abc`: without zeros
        before another digit. Of a hashed secret, one zero may be missing.
        """
        if expected.startswith(HASH_METHODS):
            return check_password_hash(expected, secret) or bool(
                is_read_back
                and re.match("[0-9]", secret)
                and check_password_hash(expected, f"0{secret}")
            )
        given, read_back = secret.encode(), re.sub("^0+(?=[0-9])", "", expected)
        is_it = hmac.compare_digest(expected.encode(), given)
        return hmac.compare_digest(read_back.encode(), given) and is_read_back or is_it


def init_app(app: Flask) -> Access:
    """What the settings say of who may; a client's address is that which trusted proxies tell."""
    config = app.config
    # Flask's own way to add middleware, which mypy takes for a method that is replaced.
    app.wsgi_app = ClientAddress(  # type: ignore[method-assign]
        app.wsgi_app, config["TRUSTED_PROXIES"]
    )
    return Access(
        config["WRITERS"], config["ALLOW_FROM"], config["WRITE_TOKENS"], config["READERS"]
    )


class ClientAddress:
    """WSGI middleware: the client's address in one spelling, as rules and logs compare it.

    It is that which the first of `proxies` trusted proxies tells, each of which adds one at the
    end of X-Forwarded-For. What comes before is the client's, which may open quotes there: so only
    commas count, and a whole header never becomes one address, or none.
    """

    def __init__(self, app: "WSGIApplication", proxies: int = 0) -> None:
        self.app = app
        self._proxies = proxies

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> "Iterable[bytes]":
        given = environ.get("REMOTE_ADDR") or ""
        if self._proxies and (forwarded := environ.get("HTTP_X_FORWARDED_FOR")):
            told = forwarded.split(",")
            given = told[-self._proxies] if len(told) >= self._proxies else given
        address = address_of(given) if len(given) <= LONGEST_ADDRESS else None
        # What is none, such as a proxy's "unknown", is one word of a log and passes for no address.
        other = re.sub("[^A-Za-z0-9.:-]", "_", given.strip()[:LONGEST_ADDRESS])
        environ["REMOTE_ADDR"] = str(address) if address else other
        return self.app(environ, start_response)


@lru_cache(1024)
def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """The address that servers and proxies tell, some with a port, in brackets or with a zone."""
    text = text.strip().strip('"').strip()
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2]
    if ":" in text and (match := _WITH_ZONE.fullmatch(text)):
        text = match[1]
    try:
        address = ip_address("" if "%" in text else text)
    except ValueError:  # a Unix socket has none: its proxy tells, if it is trusted
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_in(address: str | None, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether a client's address is in one of the networks."""
    client = address_of(address or "")
    if client is None:
        return False
    spellings = [client]
    if isinstance(client, IPv4Address):  # which a network may be written in too
        spellings.append(IPv6Address(f"::ffff:{client}"))
    return any(each in network for each in spellings for network in networks)


def _basic(request: Request) -> tuple[str, str]:
    """The request's user and secret (RFC 7617)."""
    try:
        given = request.authorization
    except ValueError:  # Werkzeug's, where bytes that are not ASCII are in place of base64
        given = None
    if given is None or given.type != "basic":
        raise Unauthorized("credentials are missing: put user:secret@ into the URL")
    return given.username or "", given.password or ""
