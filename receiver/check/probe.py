"""One request to a receiver, as Kazoo or FreeSWITCH sends it, and what its answer tells."""

import base64
import http.client
import re
import secrets
import select
import socket
import ssl
import sys
from collections.abc import Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field

import click

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 65.0  # nginx and Apache wait 60 for the receiver before they answer 504
CONTINUE_SECONDS = 1.0  # as long as FreeSWITCH waits
SMALL, LARGE = 4_000, 25_000_000  # bytes
PIECE = 64 * 1024  # bytes
STATUS = {"created": 201, "identical": 200}

PATH = (
    "the path must pass unchanged; nginx: proxy_pass without a path or slash after the upstream; "
    "Apache: AllowEncodedSlashes NoDecode, and nocanon at the end of ProxyPass"
)
SIZE = "receiver: KZR_MAX_BYTES; nginx: client_max_body_size 0; Apache: LimitRequestBody 0"
CHUNKED = "Apache with mod_wsgi: WSGIChunkedRequest On; nginx: proxy_http_version 1.1"
LINE = (
    "nginx: large_client_header_buffers 4 16k; Apache: LimitRequestLine 16380; "
    "gunicorn: limit_request_line 16380, with -c python:receiver.serve"
)
RAW = "Apache: HttpProtocolOptions Unsafe; gunicorn: start it with -c python:receiver.serve"
CUT = "a body that ends early counts as complete: what serves or proxies the receiver must abort it"
DOWN = (
    "is gunicorn running, do proxy_pass (nginx) or ProxyPass (Apache) have its address or socket, "
    "and may their user open that socket?"
)
REDIRECT = (
    "remove the redirect (to https, of a trailing slash) or give Kazoo the URL that it leads to: "
    "Kazoo fails at some redirects, and sends every recording twice at others"
)
SHARED = "do several receivers with storages of their own share this address?"
BROKEN = f"does that port speak HTTP, and no TLS? or a size limit closes it: {SIZE}"
OTHERWISE = "see the log of the receiver, and the error log of nginx or Apache"
ADVICE: Mapping[int, str] = {
    200: "this is no receiver: correct the URL, or lead its path to the receiver",
    **dict.fromkeys((301, 302, 303, 307, 308), REDIRECT),
    401: "the URL needs a user:secret@ of KZR_WRITERS; mod_wsgi: WSGIPassAuthorization On; "
    "nginx: no auth_basic; Apache: no AuthType",
    403: "receiver: KZR_ALLOW_FROM needs the sender's address, and KZR_TRUSTED_PROXIES the number "
    "of proxies; nginx: allow; Apache: Require",
    404: f"does nginx (proxy_pass) or Apache (ProxyPass) lead the URL's path to it? if so, {PATH}",
    405: "lead the URL's path to the receiver; nginx: proxy_pass; Apache: ProxyPass",
    411: CHUNKED,
    413: SIZE,
    414: LINE,
    **dict.fromkeys((502, 503, 504), DOWN),
    507: "free some space in the storage, or lower KZR_MIN_FREE",
}
UNREACHABLE: Mapping[type[OSError], str] = {  # the first that fits
    ConnectionRefusedError: "nobody listens there: start the receiver, nginx or Apache, or correct "
    "the port; what is bound to 127.0.0.1 is reached from its own machine only",
    socket.gaierror: "the host is not known here: correct its name, or the DNS",
    TimeoutError: "correct the address, or let this machine through the firewall",
    ssl.SSLError: "that port does not speak TLS: should the URL begin with http:// instead?",
    OSError: "correct the address, or the network in between",
}


class Failure(Exception):
    """A check failed: what came back, and what to change."""

    def __init__(self, came_back: object, advice: str) -> None:
        super().__init__(came_back)
        self.advice = advice


@dataclass(frozen=True)
class Answer:
    """What came back, and whether something did within the second that FreeSWITCH waits."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    is_prompt: bool

    @property
    def line(self) -> str:
        """The receiver's line of text; "" if the answer comes from something in front of it."""
        is_text = self.headers.get_content_type() == "text/plain"
        is_line = is_text and self.body.endswith(b"\n") and self.body.count(b"\n") == 1
        return self.body.decode(errors="replace").strip() if is_line else ""

    @property
    def stored(self) -> re.Match[str] | None:
        """The outcome, path and size of what the receiver says it has stored."""
        return re.match(r"(\w+): (\S+), (\d+) bytes", self.line) if self.status < 300 else None

    @property
    def advice(self) -> str:
        return ADVICE.get(200 if self.status < 300 else self.status, OTHERWISE)

    def __str__(self) -> str:
        server = self.headers.get("Server", "another server")
        shown = f"from the receiver: {self.line}" if self.line else f"not from it, but {server}"
        shown += f", to {self.headers.get('Location')}" if 300 <= self.status < 400 else ""
        return f"{self.status} {shown}"


@dataclass(frozen=True)
class Site:
    """A deployed receiver, as the URL of a callflow names it, and one run of the checks on it."""

    host: str
    port: int
    is_tls: bool
    authority: str
    path: str
    credentials: str
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    audio: bytes = field(default_factory=lambda: secrets.token_bytes(LARGE))
    stored: list[str] = field(default_factory=list)

    def connect(self) -> socket.socket:
        try:
            sock = socket.create_connection((self.host, self.port), CONNECT_SECONDS)
            if self.is_tls:
                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE  # Kazoo does not verify certificates either
                sock = context.wrap_socket(sock, server_hostname=self.host)
        except OSError as error:
            advice = next(text for kind, text in UNREACHABLE.items() if isinstance(error, kind))
            reason = f"{self.authority} is not reached: {error.strerror or error}"
            raise Failure(reason, advice) from None
        sock.settimeout(ANSWER_SECONDS)
        return sock

    def send(self, upload: "Upload", method: str = "PUT", credentials: str = "") -> Answer:
        """Send a request and return its answer; `credentials` are others than those of the URL."""
        with self.connect() as sock:
            try:
                is_prompt = False
                with suppress(ConnectionError, ssl.SSLError):  # it may answer before the body ends
                    sock.sendall(upload.head(self, method, credentials or self.credentials))
                    if upload.expect:
                        is_prompt = bool(select.select([sock], [], [], CONTINUE_SECONDS)[0])
                    upload.send_body(sock, self.audio)
                with closing(http.client.HTTPResponse(sock, method=method)) as response:
                    response.begin()
                    body = response.read(PIECE)
                answer = Answer(response.status, response.headers, body, is_prompt)
            except TimeoutError:
                raise Failure("no answer in time", "are all workers busy? see the logs") from None
            except (OSError, http.client.HTTPException) as error:
                raise Failure(f"no answer: {error or type(error).__name__}", BROKEN) from None
        if answer.stored:
            self.stored.append(answer.stored[2])
        return answer


@dataclass(frozen=True)
class Upload:
    """A check: a recording as Kazoo or FreeSWITCH sends it, and what must be stored of it.

    `name` is its name in the URL and `filename` that of the stored file, if that is another;
    `advice` goes before the general one. `sent` is where a cut upload ends.
    """

    name: str
    filename: str = ""
    size: int = SMALL
    prefix: str = "call_recording_"
    query: str = ""
    line_bytes: int = 0
    chunked: bool = False
    expect: bool = False
    sent: int | None = None
    outcome: str = "created"
    advice: Mapping[int, str] = field(default_factory=dict)

    def __call__(self, site: Site) -> str:
        answer = site.send(self)
        if not answer.stored:
            raise Failure(answer, self.advice.get(answer.status, answer.advice))
        outcome, path, size = answer.stored.groups()
        if path.rpartition("/")[2] != f"check-{site.run}-{self.filename or self.name}":
            raise Failure(answer, PATH)
        if int(size) != self.size:
            raise Failure(answer, f"{self.size} bytes were sent: what changes bodies in between?")
        if (outcome, answer.status) != (self.outcome, STATUS[self.outcome]):
            raise Failure(answer, self.advice.get(answer.status, SHARED))
        if self.expect and not answer.is_prompt:
            return "stored, but FreeSWITCH waits a second in vain each time: there was no 100"
        return ""

    def head(self, site: Site, method: str, credentials: str) -> bytes:
        target = f"{site.path}/{self.prefix}check-{site.run}-{self.name}"
        if self.query:
            target += f"?{self.query}"
            target += "x" * (self.line_bytes - len(f"{method} {target} HTTP/1.1"))
        lines = [
            f"{method} {target} HTTP/1.1",
            f"host: {site.authority}",
            "te: ",  # Kazoo sends an empty one
            "content-type: audio/mpeg",
            "transfer-encoding: chunked" if self.chunked else f"content-length: {self.size}",
        ]
        if credentials:
            lines.append(f"authorization: Basic {base64.b64encode(credentials.encode()).decode()}")
        if self.expect:
            lines.append("expect: 100-continue")
        return "\r\n".join([*lines, "", ""]).encode()

    def send_body(self, sock: socket.socket, audio: bytes) -> None:
        end = self.size if self.sent is None else self.sent
        starts = range(0, end, PIECE)
        has_bar = self.size >= LARGE and sys.stderr.isatty()
        bar = click.progressbar(starts, file=sys.stderr) if has_bar else nullcontext(starts)
        with bar as pieces:
            for start in pieces:
                piece = audio[start : min(start + PIECE, end)]
                sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece)
        if self.chunked:
            sock.sendall(b"0\r\n\r\n")
        if self.sent is not None:
            socket.socket.shutdown(sock, socket.SHUT_WR)  # TLS' own would end reading too
