"""Sends the receiver what no client should, and looks whether it keeps its promises all the same.

Hypothesis makes up names, folders, queries, headers, methods, chunks, lengths and forms, which go
as raw bytes over sockets to real servers: gunicorn alone, nginx with deploy/nginx.conf, and nginx
with the handover. An example is one request. Where it is a good one, its connection stays open for
the next, so that bytes taken for the wrong request show; where not, its sender ends.

Each answer has to be one that README.md lists. A 2xx is right only if the bytes that were sent, as
a strict reader of RFC 9112 takes them, lie in the storage under the name that the answer tells; a
5xx only

- 500, where something stands in the recording's place: a link, a FIFO or a folder that was put
  there, a folder of the name of a recording or of its metadata, or a recording of that of a folder;
- 501 and 505, in HTML, of gunicorn's and nginx's own: a Transfer-Encoding or a version of HTTP that
  they do not know.

The storage lies deep in a folder that is watched: nothing there may change but the storage, and
nothing may be in the storage but what was acknowledged, and what lies beside it.

    python tests/proof/fuzz.py                     about three and a half minutes
    python tests/proof/fuzz.py --examples 2000     some seconds
    python tests/proof/fuzz.py --seed 1            the same examples again
"""

import argparse
import hashlib
import json
import os
import re
import socket
import stat
import sys
import tempfile
import time
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import BinaryIO

# This folder, the tests and the project, which need not be the one that is installed.
sys.path[:0] = [str(folder) for folder in Path(__file__).parents[:3]]

from conftest import Receiver  # noqa: E402
from fronts import Nginx  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from report import tell  # noqa: E402

from receiver.naming import is_recording, numbered, original  # noqa: E402

BATCH = 500  # examples between two looks at everything that is watched
WARM_UP = 0.2  # of the examples, before a worker's memory counts
MIB = 1 << 20
MOST_GROWTH = 8 * MIB  # of a worker's memory
TIMEOUT = 20.0  # seconds for an answer
SHARES = {"gunicorn": (0.25, 0.25, 0.25), "nginx": (0.15,), "handover": (0.1,)}  # of each client
TOLD = {
    "gunicorn": "gunicorn alone",
    "nginx": "nginx before it",
    "handover": "nginx with the handover",
}
AUTHORIZATION = b"Authorization: Basic " + b64encode(b"kazoo:secret")
STORED = re.compile(
    rb"(created|identical|superseded): (\S+), \d+ bytes"
    rb"(?:; the older recording is kept as \S+)?\n"
)
OBSTACLE = re.compile(
    rb"could not store: (Not a recording, move it away|Not a directory|Is a directory"
    rb"|Operation not permitted|Too many levels of symbolic links): (\S+)\n"
)
STAMP = rb"\[[-0-9:, ]+\] INFO in \w+: "
OUR_LINE = re.compile(
    STAMP + rb"\S+ name=[!-~]* bytes=\d+ ms=\d+"
    rb" outcome=(?:created|identical|superseded|\d{3}(?: \([ -~]+\))?) client=[0-9a-f.:-]+"
)
OTHER_LINE = re.compile(  # gunicorn's, those of the start, and who read what
    rb"\[[-0-9: +]+\] \[\d+\] \[(?:INFO|WARNING)\] [ -~\x80-\xff]*|"
    + STAMP
    + rb"audit [!-~ ]+|\[[-0-9:, ]+\] WARNING in \w+: anybody [ -~]+"
)
SERVERS_OWN = (501, 505)


class Broken(AssertionError):
    """A promise was broken."""


def expect(condition: object, what: str) -> None:
    if not condition:
        raise Broken(what)


# What is sent


@dataclass(frozen=True)
class Case:
    """A request as bytes; `body` is the only one that a 2xx may mean, None where none may be.

    `whole`: all that its framing announces is there. `keeps`: the connection stays open.
    """

    method: bytes
    data: bytes
    body: bytes | None
    whole: bool
    keeps: bool

    def __repr__(self) -> str:
        data, body = shortened(self.data), shortened(self.body)
        return f"{data}, a body of {body}, whole: {self.whole}, keeps: {self.keeps}"


def shortened(data: bytes | None) -> str:
    is_long = data is not None and len(data) > 1000
    return f"{data[:900]!r}... ({len(data)} bytes)" if is_long else repr(data)


@dataclass(frozen=True)
class Framed:
    """A body on the wire: its headers, its bytes, and what a strict reader takes it for."""

    headers: tuple[bytes, ...]
    data: bytes
    body: bytes | None
    whole: bool = True
    keeps: bool = True


GOOD_METHODS = (b"PUT", b"PUT", b"PUT", b"PUT", b"PUT", b"POST", b"POST", b"GET")
ODD_METHODS = (b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"MKCOL", b"A" * 30)
BAD_METHODS = (b"put", b"PU\x00T", b"", b"P\xc3\x9cT", b"PUT,GET")
METHODS = st.sampled_from(GOOD_METHODS * 16 + ODD_METHODS + BAD_METHODS)
VERSIONS = st.sampled_from(
    [b"HTTP/1.1"] * 150
    + [b"HTTP/1.0"] * 8
    + [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11"]
)
TRAPS = ("link", "link.mp3", "dangling.mp3", "fifo.mp3", "folder.mp3")
SEGMENTS = st.lists(
    st.sampled_from(
        [b"..", b".", b"...", b"%2e%2e", b"%2e", b"..%2f", b"..%2F..%2F..", b"%2f", b"..%5c", b"\\"]
        + [b"%252e%252e%252f", b"%c0%ae%c0%ae", b".%00.", b"%00", b"%0d%0aX:%20y", b"%0a", b"%1b["]
        + [b"~", b"~1", b"a~1", b"~new", b"a~new", b"%7e1", b"a~12345", b".incoming", b".handover"]
        + [
            b".htaccess",
            b".json",
            b".hold",
            b"a.json",
            b"a.mp3.json",
            b"a.mp3",
            b"a.mp3.",
            b"a..mp3",
        ]
        + [b"call_recording_", b"call_recording_a", b"%63all_recording_a", b"index.php", b"healthz"]
        + [
            b"%",
            b"%z",
            b"50%",
            b"%ff%fe",
            b"\xff",
            b"\xc3\xb6",
            b"J\xc3\xb6rg",
            b"'\"<&>",
            b"*",
            b"+",
        ]
        + [
            b"a" * 240,
            b"a" * 241,
            b"%41" * 300,
            b"~" * 90,
            b"",
            b"/",
            b";a=b",
            b"?",
            b"a%20b",
            b":",
        ]
        + [b"a", b"b", b"A", b"ACCOUNT", b"1234567890@10.0.0.1"] * 16
        + [name.encode() for name in TRAPS]
    ),
    max_size=4,
).map(b"/".join)
TEXTS = st.text(alphabet="ab.%/~2eEF_\\\xff?@:;", max_size=12).map(
    lambda text: text.encode("latin-1")
)
PREFIXES = st.sampled_from([b"call_recording_", b"/call_recording_", b"/", b""])
SUFFIXES = st.sampled_from([b".mp3"] * 6 + [b"", b"..mp3", b".", b".wav", b".json"])
ROOTS = st.sampled_from(  # WATCHED stands for the folder that is watched
    [b"/kzr/"] * 24
    + [b"/", b"/a/", b"//", b"/kzr//", b"/kzr/../", b"/KZR/", b"http://x/kzr/", b"/kzrWATCHED/"]
    + [b"/kzr/" + b"d" * 200 + b"/e" * 14 + b"/", b"/f" * 17 + b"/", b"/kzr/%2fWATCHED%2f"]
    + [b"", b"*", b"/kzr" + (b"/" + b"e" * 240) * 16 + b"/"]
)
RAW = st.sampled_from([b" ", b"\t", b"\x00", b"\r", b"\x7f", b"\x1b", b"#"])
QUERIES = st.sampled_from(
    [b""] * 24
    + [b"?call_id=a&from=%ff", b"?recording=../../x.mp3", b"?recording=call_recording_a..mp3"]
    + [b"?a=call_recording_a%2fb.mp3/x", b"?token=x", b"?", b"?&&==&", b"?" + b"a=b&" * 100]
    + [b"?x=%00%0d%0a", b"?\xff=\xff", b"?recording=", b"?recording=..", b"?a=/../../b", b"?n=/x"]
)
BODIES = st.binary(max_size=48)
ODD_BODIES = st.sampled_from(
    [b"", b"0", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"x" * 9000, b"ID3" + bytes(300_000)]
    # A request within a body: it must never be taken for one.
    + [b"PUT /kzr/smuggled.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nevil"] * 2
)
HARMLESS = st.sampled_from(
    [b"X-Forwarded-For: 10.0.0.1, evil", b"X-Forwarded-Proto: https", b"X-Forwarded-Prefix: /.."]
    + [b"X-Forwarded-Host: evil/../..", b"Forwarded: for=evil", b"X-Real-IP: ::1"]
    + [b"X-Body-File: /etc/passwd", b"X-Body-Length: 0", b"X-Body-Length: 7", b"Cookie: a=\xff"]
    + [b"X-Original-URL: /x", b"X-HTTP-Method-Override: DELETE", b"Authorization: Basic \xff=="]
    + [b"Authorization: Basic Og==", b"Authorization: Digest x", AUTHORIZATION, AUTHORIZATION]
    + [b"If-None-Match: *", b"If-Match: x", b"If-Modified-Since: x", b"Range: bytes=1-2,0-"]
    + [b"Range: bytes=9-1", b"Range: bytes=0-", b"Range: \xff", b"Expect: 100-continue"]
    + [b"Content-Type: multipart/form-data", b"Content-Type: \xff", b"Content-Type: text/html"]
    + [b"Content-Digest: sha-256=:!:", b"Content-Digest: md5=:AAAA:", b"Accept: */*", b"X:"]
    + [b"Content-Encoding: identity", b"Upgrade: h2c", b"TE: trailers", b"Trailer: Host"]
    + [b"User-Agent: hackney/1.6.2", b"Date: never", b"X-Long: " + b"y" * 4000]
)
REFUSED = st.sampled_from(  # which no 2xx may follow
    [b"Content-Encoding: gzip", b"Content-Encoding: br, gzip", b"Content-Range: bytes 0-4/9"]
    + [b"Content-Digest: sha-256=:AAAA:", b"Repr-Digest: md5=:x:, sha-256=:AAAA:"]
)
MALFORMED = st.sampled_from(  # servers refuse or ignore these
    [b"No-Colon", b": empty", b"X : y", b"X\xff: y", b"X: \x00", b"X: a\rb", b" folded: x"]
    + [b"X(: y", b"SCRIPT_NAME: /etc", b"CONTENT_LENGTH: 1", b"Transfer_Encoding: x", b"X: \x1b"]
    + [b"Host: second", b"Host: \xff", b"X-Long: " + b"y" * 9000, b"Expect: money", b"X: a\n b"]
    + [b"\r\n".join([b"X: y"] * 120), b"Content-Type: a/b\r\nContent-Type: c/d"]
)
LENGTHS = st.sampled_from(  # that no body has
    [b"-5", b"+5", b"5,5", b"5, 6", b"0x5", b"5 5", b"5.0", b"1e1", b"", b"\xb2", b"5\x00", b"five"]
    + [b"9" * 30, b"9" * 4400, b"18446744073709551621", b"4294967301", b"99999999999"]
)
CODINGS = st.sampled_from(
    [b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"\x0bchunked", b"chunked,"]
    + [b"xchunked", b"chunked;q=1", b'"chunked"', b"", b"chunked\r\nTransfer-Encoding: chunked"]
)
EXTENSIONS = st.sampled_from([b""] * 4 + [b";a", b";a=b", b' ; a = "b;c"', b";a=b;c=d"])
TRAILERS = st.sampled_from([b""] * 4 + [b"X-Trailer: y\r\n", b"Host: evil\r\n", b"Expires: 0\r\n"])
BOUNDARIES = st.sampled_from(
    [b"x", b"zJmZ+L3/idrM'DM8_mTL-NIgZBR3Au__mEKhsH", b"--", b"(a)?*", b"a" * 200]
)
DOCUMENTS = st.sampled_from(
    [b"", b"{}", b'{"a":"\\ud800"}', b'{"n":1e999}', b'{"a\\u0000":[[]]}', b"[]", b"{", b"\xff"]
)
DISPOSITIONS = st.sampled_from([b"name=X.mp3", b'name="a"; filename="../../x"'])
WAYS = st.sampled_from(
    ["length"] * 20
    + ["chunked"] * 8
    + ["mutated"] * 3
    + ["none", "long", "surplus", "zeros", "two lengths", "length and chunked", "no length"]
    + ["coding"]
)
ODDITIES = st.sampled_from([""] * 18 + ["refused", "malformed", "raw"])
FLAGS, BYTES, PLACES, CUTS = (
    st.booleans(),
    st.integers(0, 255),
    st.integers(-20, 20),
    st.integers(0, 3),
)


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def unchunk(data: bytes) -> bytes | None:
    """The body that is chunked in `data` and nothing else, None if it is not one (RFC 9112 7.1)."""
    token = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    quoted = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
    extensions = rb"(?:[ \t]*;[ \t]*" + token
    extensions += rb"(?:[ \t]*=[ \t]*(?:" + token + rb"|" + quoted + rb"))?)*"
    trailers = rb"(?:" + token + rb":[\t -~\x80-\xff]*\r\n)*\r\n"
    body = b""
    while match := re.match(rb"([0-9A-Fa-f]+)" + extensions + rb"\r\n", data):
        size = int(match[1], 16)
        data = data[match.end() :]
        if not size:
            return body if re.fullmatch(trailers, data) else None
        if data[size : size + 2] != b"\r\n":
            return None
        body, data = body + data[:size], data[size + 2 :]
    return None


def mutated(draw: st.DrawFn, data: bytes, only_cut: bool) -> bytes:
    """Cut the data, or replace, insert or remove a byte, near its ends, where the framing is."""
    kind, at = draw(CUTS), draw(PLACES) % len(data)
    if kind == 0 or only_cut:
        return data[:at]
    new = b"" if kind == 1 else bytes([draw(BYTES)])
    return data[:at] + new + data[at + (kind != 2) :]


def framed(draw: st.DrawFn, by_nginx: bool) -> Framed:
    """A body with a Content-Length, in chunks, or in a way that has no meaning."""
    body = draw(BODIES) if draw(CUTS) else draw(ODD_BODIES)
    length = b"Content-Length: %d" % len(body)
    match draw(WAYS):
        case "length":
            return Framed((length,), body, body)
        case "zeros":
            return Framed((b"Content-Length: 000%d" % len(body),), body, body)
        case "surplus":
            return Framed((length,), body + b"SURPLUS\r\n\r\n", body, keeps=False)
        case "long":
            headers = (b"Content-Length: %d" % (len(body) + 1),)
            return Framed(headers, body, None, False, False)
        case "none":
            return Framed((), body, None, keeps=False)
        case "two lengths":
            return Framed((length, length + b"1"), body, None, False, False)
        case "no length":
            return Framed((b"Content-Length: " + draw(LENGTHS),), body, None, False, False)
        case way:
            return chunked(draw, body, length, way, by_nginx)


def chunked(draw: st.DrawFn, body: bytes, length: bytes, way: str, by_nginx: bool) -> Framed:
    """A body in chunks, or what is nearly that."""
    extension = draw(EXTENSIONS)
    half = len(body) // 2
    data = b"".join(chunk(piece, extension) for piece in (body[:half], body[half:]) if piece)
    data += b"0" + extension + b"\r\n" + draw(TRAILERS) + b"\r\n"
    header = b"Transfer-Encoding: chunked"
    match way:
        case "mutated":
            # nginx overlooks much in chunks, and passes on what it took them for.
            data = mutated(draw, data, only_cut=by_nginx)
            body = unchunk(data)
            return Framed((header,), data, body, body is not None, False)
        case "coding":
            return Framed((b"Transfer-Encoding: " + draw(CODINGS),), data, None, False, False)
        case "length and chunked":
            return Framed((length, header), data, None, False, False)
    # A trailer may be one that servers refuse.
    return Framed((header,), data, body, keeps=b"Host" not in data)


def form(draw: st.DrawFn) -> Framed:
    """A form as Kazoo sends it, or one that was cut."""
    boundary, document = draw(BOUNDARIES), draw(DOCUMENTS)
    content = b"ID3\x03" + draw(BODIES).replace(b"--", b"")  # no base64, and no boundary in it
    sent = b64encode(content) if draw(FLAGS) else content
    body = b""
    if document:
        body = b"\r\n--%s\r\ncontent-disposition: form-data; name=D\r\n" % boundary
        body += b"content-type: application/json\r\n\r\n" + document
    body += b"\r\n--%s\r\ncontent-disposition: form-data; %s\r\n" % (boundary, draw(DISPOSITIONS))
    body += b"content-type: audio/mpeg\r\n\r\n%s\r\n--%s--" % (sent, boundary)
    is_good = document[:1] != b"\xff" and document not in (b"[]", b"{")
    if not draw(CUTS):
        body, is_good = body[: draw(BYTES) % len(body)], False
    headers = (
        b'Content-Type: multipart/form-data; boundary="%s"' % boundary,
        b"Content-Length: %d" % len(body),
    )
    return Framed(headers, body, content if is_good else None)


@st.composite
def cases(draw: st.DrawFn, watched: bytes, by_nginx: bool) -> Case:
    """A request that is good but for one or two things, if at all."""
    method, version = draw(METHODS), draw(VERSIONS)
    target = draw(ROOTS).replace(b"WATCHED", watched) + draw(SEGMENTS)
    target += draw(PREFIXES) + draw(TEXTS) + draw(SUFFIXES) + draw(QUERIES)
    sent = framed(draw, by_nginx) if draw(BYTES) % 6 else form(draw)
    headers = [b"Host: x", *sent.headers, draw(HARMLESS)]
    body, keeps = sent.body, sent.keeps and version == b"HTTP/1.1" and method not in BAD_METHODS
    match draw(ODDITIES):
        case "refused":
            headers.append(draw(REFUSED))
            body = None
        case "malformed":
            headers.insert(draw(CUTS), draw(MALFORMED))
            keeps = False
        case "raw":
            target += draw(RAW) + draw(SUFFIXES)
            keeps = False
    if not keeps:
        headers.append(b"Connection: close")
    head = b"\r\n".join([b" ".join([method, target, version]), *headers, b"", b""])
    return Case(method, head + sent.data, body, sent.whole, keeps)


# What comes back


@dataclass(frozen=True)
class Answer:
    status: int
    kind: bytes  # its Content-Type
    body: bytes
    closes: bool


class Connection:
    """One connection, and what was read from it beyond the last answer."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def send(self, case: Case) -> None:
        with suppress(OSError):  # it was refused before all was sent
            self.sock.sendall(case.data)
            if not case.whole:
                self.sock.shutdown(socket.SHUT_WR)

    def read(self, method: bytes) -> Answer | None:
        """The next answer, None if the connection ends before it begins."""
        while True:
            if not (head := self._head()):
                return None
            status = re.match(rb"HTTP/1\.\d (\d{3}) ", head)
            expect(status, f"no answer: {head[:200]!r}")
            if status[1] != b"100":
                break
        lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        fields = {name.lower(): value.strip() for name, _, value in lines}
        kind = fields.get(b"content-type", b"").partition(b";")[0]
        body = b""
        closes = fields.get(b"connection", b"").lower() == b"close"
        if method != b"HEAD":
            body = self._take(int(fields[b"content-length"]))
        elif closes:  # gunicorn's own have a body all the same
            while data := self._receive():
                self.rest += data
            self.rest = b""
        return Answer(int(status[1]), kind, body, closes)

    def _head(self) -> bytes:
        while b"\r\n\r\n" not in self.rest:
            if not (data := self._receive()):
                expect(not self.rest, f"a part of an answer: {self.rest[:200]!r}")
                return b""
            self.rest += data
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        return head

    def _take(self, size: int) -> bytes:
        while len(self.rest) < size:
            data = self._receive()
            expect(data, "an answer that breaks off")
            self.rest += data
        body, self.rest = self.rest[:size], self.rest[size:]
        return body

    def _receive(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except ConnectionError:
            return b""
        except TimeoutError:
            raise Broken(f"no answer within {TIMEOUT:.0f} s") from None


# What is on the disk


@dataclass(frozen=True)
class Watched:
    """A running server whose storage lies in a folder that is watched, with traps in and by it."""

    name: str
    port: int
    master: int  # gunicorn's process
    workers: tuple[int, ...]
    folder: Path  # that the server runs in
    log: Path
    root: Path
    before: dict[str, tuple[int, ...]] = field(default_factory=dict)  # what lay around then

    @property
    def storage(self) -> Path:
        return storage_below(self.root)

    def plant(self) -> None:
        outside = self.root / "outside"
        (outside / "folder").mkdir(parents=True)
        (outside / "file").write_bytes(b"not to be touched")
        (self.storage / "link").symlink_to(outside / "folder")
        (self.storage / "link.mp3").symlink_to(outside / "file")
        (self.storage / "dangling.mp3").symlink_to(outside / "made")
        (self.storage / "folder.mp3").mkdir()
        os.mkfifo(self.storage / "fifo.mp3")
        os.mkfifo(self.root / "fifo.mp3")

    def around(self) -> dict[str, tuple[int, ...]]:
        """All that is not in the storage: what it is, how large, and when it was changed."""
        found: dict[str, tuple[int, ...]] = {name: () for name in os.listdir(self.folder)}
        for folder, folders, files in os.walk(self.root):
            if Path(folder) == self.storage.parent:
                folders.clear()
            for name in [".", *files]:
                status = os.lstat(path := os.path.join(folder, name))
                found[path] = (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns)
        return found

    def changed(self) -> list[str]:
        return sorted(dict(self.around().items() ^ self.before.items()))

    def walk(self) -> Iterator[tuple[str, str, int, int]]:
        """All that is in the storage: its path, its name, the folder's descriptor, its mode.

        By descriptors, because a path below the storage may be longer than the system takes.
        """
        at = os.open(self.storage, os.O_RDONLY)
        try:
            for folder, folders, files, here in os.fwalk(".", dir_fd=at):
                for name in (*folders, *files):
                    with suppress(FileNotFoundError):  # it has another name by now
                        mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
                        yield os.path.join(folder, name)[2:], name, here, mode
        finally:
            os.close(at)

    def files(self) -> dict[str, bytes]:
        """Every file in the storage; what is neither file nor folder has no bytes."""
        found = {}
        for path, name, here, mode in self.walk():
            if stat.S_ISREG(mode):
                with open(os.open(name, os.O_RDONLY, dir_fd=here), "rb") as file:
                    found[path] = file.read()
            elif not stat.S_ISDIR(mode) and path not in TRAPS:
                found[path] = b""
        return found

    def holds(self, path: str, body: bytes) -> bool:
        """Whether the body lies at the path, or at one of its numbers if it was superseded."""
        with suppress(FileNotFoundError):
            for number in count():
                with self._open(numbered(path, number)) as file:
                    if file.read() == body:
                        return True
        return False

    def _open(self, path: str) -> BinaryIO:
        """Open a stored file; no part of its path may be a link."""
        at = os.open(self.storage, os.O_RDONLY)
        for part in path.split("/"):
            try:
                inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
            finally:
                os.close(at)
            at = inner
        return open(at, "rb")

    def is_obstructed(self, answer: bytes) -> bool:
        """Whether what a 500 blames does stand in the way."""
        blamed = OBSTACLE.fullmatch(answer)
        for _, name, _, mode in self.walk() if blamed else ():
            if name == blamed[2].decode():
                # A file is only in a folder's way.
                if not stat.S_ISREG(mode) or blamed[1] == b"Not a directory":
                    return True
        return False

    def memory(self) -> int:
        """The bytes that the workers hold and share with nobody."""
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.workers]
        return sum(
            int(re.search(r"^Pss_Anon: +(\d+) kB", rollup, re.M)[1]) * 1024 for rollup in rollups
        )

    def has_its_workers(self) -> bool:
        children = Path(f"/proc/{self.master}/task/{self.master}/children").read_text()
        return tuple(map(int, children.split())) == self.workers


def storage_below(root: Path) -> Path:
    return root / "one" / "two" / "recordings"


def start(name: str, folder: Path, stack: ExitStack) -> Watched:
    """Start a server of one of the kinds in `SHARES`, with its storage below `folder`."""
    root = folder / "watched"
    storage_below(root).mkdir(parents=True)
    folder.chmod(0o755)
    configured = {
        "storage": storage_below(root),
        "readers": "kazoo:secret",
        "max_bytes": "1M",
        "min_free": 0,
        "read_timeout": 5,
    }
    if name == "gunicorn":
        (folder / "server").mkdir()
        server = receiver = Receiver(folder / "server", **configured)
    else:
        # nginx writes its temporary files into a folder of its own.
        server = Nginx(handover=name == "handover", **configured)
        receiver = server.receiver
    stack.callback(server.stop)
    watched = Watched(
        name,
        server.port,
        receiver.process.pid,
        tuple(receiver.workers),
        receiver.folder,
        receiver.log_path,
        root,
    )
    watched.plant()
    watched.before.update(watched.around())
    return watched


# The proof


@dataclass
class Seen:
    """What clients saw. `stored`: digests of the bodies that were acknowledged, by path."""

    requests: int = 0
    stored: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    read: set[str] = field(default_factory=set)  # digests of what GET answered
    statuses: Counter[str] = field(default_factory=Counter)
    answers: int = 0  # of the receiver itself, so that each has a line in the log
    silent: int = 0  # connections that ended without an answer, to what is no good request
    kept: int = 0  # requests on a connection that was open already
    memory: int = 0  # of the workers, in bytes, after the warm-up
    growth: int = 0  # since then
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Seen") -> None:
        for path, digests in other.stored.items():
            self.stored[path] |= digests
        self.read |= other.read
        self.statuses += other.statuses
        self.failures += other.failures
        self.memory = max(self.memory, other.memory)
        self.growth = max(self.growth, other.growth)
        for name in ("requests", "answers", "silent", "kept"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Sender:
    """A client that sends examples and judges the answers."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.seen = Seen()
        self.connection: Connection | None = None
        self.broken = ""  # the latest promise that was: Hypothesis ends with the smallest example

    def close(self) -> None:
        if self.connection:
            self.connection.sock.close()
        self.connection = None

    def check(self, case: Case) -> None:
        """Send an example; raise `Broken` if the answer is not what was promised."""
        self.seen.requests += 1
        try:
            answer = self._exchange(case)
            self._judge(case, answer)
            if case.keeps and answer and not answer.closes:
                return
            while more := self.connection.read(b""):
                expect(more.status >= 400, f"a further answer: {more}")
                self._judge(case, more)
        except Broken as error:
            self.broken = f"{error}\n  {case}"
            self.close()
            raise
        self.close()

    def _exchange(self, case: Case) -> Answer | None:
        if self.connection:
            self.connection.send(case)
            if answer := self.connection.read(case.method):
                self.seen.kept += 1
                return answer
            self.close()  # the server had closed it meanwhile
        self.connection = Connection(self.watched.port)
        self.connection.send(case)
        return self.connection.read(case.method)

    def _judge(self, case: Case, answer: Answer | None) -> None:
        seen = self.seen
        if answer is None:
            expect(not case.keeps, "a good request without an answer")
            seen.silent += 1
            return
        is_ours = answer.kind != b"text/html"
        seen.answers += is_ours
        seen.statuses[f"{answer.status}{'' if is_ours else ' HTML'}"] += 1
        if answer.status < 300:
            self._judge_success(case, answer)
            return
        expect(answer.status >= 400, f"neither success nor an error: {answer}")
        if not is_ours:
            expect(answer.status < 500 or answer.status in SERVERS_OWN, f"{answer}")
            return
        expect(answer.kind == b"text/plain", f"no plain text: {answer}")
        if case.method != b"HEAD":
            expect(re.fullmatch(rb"[ -~]+\n", answer.body), f"not one line of text: {answer}")
        if answer.status >= 500:
            is_told = answer.status == 500 and self.watched.is_obstructed(answer.body)
            expect(is_told, f"a server's error: {answer}")

    def _judge_success(self, case: Case, answer: Answer) -> None:
        if case.method in (b"GET", b"HEAD"):
            if case.method == b"GET" and answer.status == 200 and answer.body != b"ok\n":
                self.seen.read.add(digest(answer.body))
            return
        expect(case.method in (b"PUT", b"POST"), f"success of another method: {answer}")
        told = STORED.fullmatch(answer.body)
        expect(told and answer.kind == b"text/plain", f"not what a success tells: {answer}")
        expect((told[1] == b"created") is (answer.status == 201), f"a wrong status: {answer}")
        path = told[2].decode()
        for part in path.split("/"):
            is_ordinary = re.fullmatch(r"[A-Za-z0-9@_+%~-][A-Za-z0-9@._+%~-]{0,254}", part)
            expect(is_ordinary, f"not below the storage, or no ordinary name: {answer}")
        expect(case.body is not None, f"acknowledged, yet no whole body: {answer}")
        expect(self.watched.holds(path, case.body), f"acknowledged, yet not stored: {answer}")
        self.seen.stored[path].add(digest(case.body))

    def look(self) -> None:
        """Look at what may not change."""
        changed = self.watched.changed()
        expect(not changed, f"changed outside of the storage: {changed}")
        expect(self.watched.has_its_workers(), "a worker has ended")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def play(watched: Watched, examples: int, number: str) -> Seen:
    """Send that many examples, which `number` determines; return what was seen."""
    sender = Sender(watched)
    seen = sender.seen
    made_up = cases(str(watched.root).encode(), watched.name != "gunicorn")
    configured = settings(
        max_examples=BATCH,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )

    try:
        while seen.requests < examples:

            @seed(f"{number} {seen.requests}")
            @settings(configured, max_examples=min(BATCH, examples - seen.requests))
            @given(made_up)
            def check(case: Case) -> None:
                sender.check(case)

            check()
            sender.look()
            memory = watched.memory()
            if not seen.memory and seen.requests >= examples * WARM_UP:
                seen.memory = memory
            seen.growth = memory - (seen.memory or memory)
            report(f"{watched.name}: {seen.requests} of {examples}, {memory / MIB:.1f} MiB")
    except Exception as error:
        seen.failures.append(f"{watched.name}: {sender.broken or repr(error)}")
    finally:
        sender.close()
    return seen


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def wrong_files(watched: Watched, seen: Seen) -> list[str]:
    """Compare the storage with what was acknowledged, both ways."""
    wrong = []
    files = watched.files()
    found: dict[str, list[str]] = defaultdict(list)
    for path, data in files.items():
        if is_recording(path.rpartition("/")[2]):
            found[original(path)].append(digest(data))
            continue
        beside = path.removesuffix(".json").removesuffix("~")
        with suppress(ValueError):
            if beside in files and isinstance(json.loads(data), dict):
                continue
        wrong.append(f"neither a recording nor beside one: {path}")
    for path in found.keys() | seen.stored.keys():
        if sorted(found[path]) != sorted(seen.stored[path]):
            there, sent = len(found[path]), len(seen.stored[path])
            wrong.append(f"{path}: {there} recordings there, {sent} acknowledged, or other bytes")
    acknowledged = set().union(*seen.stored.values())
    wrong += [f"read, but never acknowledged: {each}" for each in seen.read - acknowledged]
    return wrong


def wrong_lines(watched: Watched, seen: Seen) -> tuple[int, list[str]]:
    """Count the log's lines for requests, and find what is no line that it should have."""
    requests, wrong = 0, []
    for line in watched.log.read_bytes().split(b"\n")[:-1]:
        if OUR_LINE.fullmatch(line):
            requests += 1
        elif not OTHER_LINE.fullmatch(line):
            wrong.append(f"in the log: {line[:300]!r}")
    if requests != seen.answers:
        wrong.append(f"{requests} lines in the log for {seen.answers} answers")
    return requests, wrong


def prove(servers: list[Watched], results: dict[str, Seen]) -> bool:
    """Look at all that is left when the clients are done; print the table."""
    passed = True
    stored, lines, around = 0, 0, 0
    changed, files, logs, grown = [], [], [], []
    for watched in servers:
        seen = results[watched.name]
        stored += sum(len(digests) for digests in seen.stored.values())
        for failure in seen.failures:
            report(f"\n{failure}\n")
        counted = ", ".join(
            f"{number} {status}" for status, number in sorted(seen.statuses.items())
        )
        passed &= tell(
            f"{seen.requests} requests that Hypothesis made up, to {TOLD[watched.name]}",
            f"{counted}; {seen.silent} closed without an answer; {seen.kept} on kept connections; "
            f"{len(seen.failures)} broken promises",
            not seen.failures,
        )
        around += len(watched.before)
        changed += watched.changed()
        files += wrong_files(watched, seen)
        number, wrong = wrong_lines(watched, seen)
        lines += number
        logs += wrong
        grown.append(seen.growth)
    for line in (changed + files + logs)[:20]:
        report(line)
    passed &= tell(
        "what lies around them", f"{around} entries, {len(changed)} changed", not changed
    )
    passed &= tell("what the storages hold", f"{stored} recordings, {len(files)} wrong", not files)
    passed &= tell("a line in the log for each", f"{lines} lines, {len(logs)} wrong", not logs)
    ended = sum(not watched.has_its_workers() for watched in servers)
    passed &= tell(
        "the workers", f"{len(servers)}, {ended} of them not the same any more", not ended
    )
    mebibytes = ", ".join(f"{growth / MIB:.1f}" for growth in grown)
    passed &= tell("memory of the workers", f"+{mebibytes} MiB", max(grown) < MOST_GROWTH)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--examples", type=int, default=50_000, metavar="N", help="of all servers together (50000)"
    )
    parser.add_argument("--seed", default=str(time.time_ns()), help="of all that is made up")
    parser.add_argument("--only", choices=SHARES, help="send all to this server")
    given = parser.parse_args()
    report(f"--seed {given.seed}")

    names = [given.only] if given.only else list(SHARES)
    scale = given.examples / sum(sum(SHARES[name]) for name in names)
    results = {name: Seen() for name in names}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        folder.chmod(0o755)
        servers = []
        for name in names:
            (folder / name).mkdir()
            servers.append(start(name, folder / name, stack))
        pool = stack.enter_context(ProcessPoolExecutor(sum(len(SHARES[name]) for name in names)))
        playing = [
            (
                watched.name,
                pool.submit(play, watched, round(share * scale), f"{given.seed} {name} {client}"),
            )
            for watched in servers
            for client, share in enumerate(SHARES[watched.name])
        ]
        for name, seen in playing:
            results[name].add(seen.result())
        passed = prove(servers, results)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
