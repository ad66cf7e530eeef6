"""Requests for fuzz.py, as bytes: good ones, and such as no client should send."""

import re
from base64 import b64encode
from dataclasses import dataclass

from hypothesis import strategies as st

TRAPS = ("link", "link.mp3", "dangling.mp3", "fifo.mp3", "folder.mp3")  # in the storage
AUTHORIZATION = b"Authorization: Basic " + b64encode(b"kazoo:secret")


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
SEGMENTS = st.lists(
    st.sampled_from(
        [b"..", b".", b"...", b"%2e%2e", b"%2e", b"..%2f", b"..%2F..%2F..", b"%2f", b"..%5c", b"\\"]
        + [b"%252e%252e%252f", b"%c0%ae%c0%ae", b".%00.", b"%00", b"%0d%0aX:%20y", b"%0a", b"%1b["]
        + [b"~", b"~1", b"a~1", b"~new", b"a~new", b"%7e1", b"a~12345", b".incoming", b".handover"]
        + [b".htaccess", b".json", b".hold", b"a.json", b"a.mp3.json", b"a.mp3", b"a.mp3."]
        + [b"a..mp3", b"%", b"%z", b"50%", b"%ff%fe", b"\xff", b"\xc3\xb6", b"J\xc3\xb6rg"]
        + [b"call_recording_", b"call_recording_a", b"%63all_recording_a", b"index.php", b"healthz"]
        + [b"'\"<&>", b"*", b"+", b"", b"/", b";a=b", b"?", b"a%20b", b":"]
        + [b"a" * 240, b"a" * 241, b"%41" * 300, b"~" * 90]
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
FLAGS = st.booleans()
BYTES = st.integers(0, 255)
PLACES = st.integers(-20, 20)
CUTS = st.integers(0, 3)


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
