"""The very bytes that Kazoo and curl were seen to send, and what has to become of them."""

import base64
import json
import re
from urllib.parse import unquote

from support.clients import Storing
from support.paths import WIRE

UGLY = "a%2Fb%3Fc%25d%7Ee%3Cf%3Eg%28h%29i%5Bj%5Dk%22l%3Am%5Cn%2Ao%21p%27q+r%7Bs%7Dt@10.0.0.1.mp3"
NAMED_BY_CALL = {
    "rec_wav": "abc123@10.0.0.1.wav",
    "rec_ugly": UGLY,
    "rec_cisco": "9c57ad3d-1c6f11e4-8d5dffff-b3ba6b23@192.168.1.20.mp3",
}
NO_NAME = ("fieldlist_empty", "plan_token", "cred_token")
READER = b"authorization: Basic " + base64.b64encode(b"kazoo:secret") + b"\r\n"


def captures(*, named: bool = True) -> list[str]:
    names = [path.name.removesuffix(".1.raw") for path in sorted(WIRE.glob("*.1.raw"))]
    return [name for name in names if any(part in name for part in NO_NAME) is not named]


def request(capture: str) -> bytes:
    return (WIRE / f"{capture}.1.raw").read_bytes()


def expected_path(capture: str) -> str:
    case = capture.rpartition("-")[2]
    if case.startswith(("rec_", "kzc_")) or capture.startswith("curl"):
        return NAMED_BY_CALL.get(case, "abc123@10.0.0.1.mp3")
    return re.match(rb"\w+ /kzr/([^? ]*)", request(capture))[1].decode()


def expected_body(capture: str) -> bytes:
    head, _, body = request(capture).partition(b"\r\n\r\n")
    if b"chunked" in head:
        size, _, body = body.partition(b"\r\n")
        return body[: int(size, 16)]
    if b"multipart" not in head:
        return body
    content = parts(capture)[-1]
    return base64.b64decode(content) if "b64" in capture or "proper" in capture else content


def parts(capture: str) -> list[bytes]:
    boundary = re.search(rb"boundary=(\S+)", request(capture))[1]
    pieces = request(capture).split(b"\r\n--" + boundary)[1:-1]
    return [piece.partition(b"\r\n\r\n")[2] for piece in pieces]


def expected_metadata(capture: str) -> dict[str, object]:
    head = request(capture).partition(b"\r\n\r\n")[0]
    if b"multipart" in head:
        told = json.loads(parts(capture)[0])
        return {"from": "pqc_cb_storage"} | told if "proper" in capture else told
    query = head.split(b" ")[1].decode().partition("?")[2]
    pairs = [pair.split("=") for pair in query.split("&") if "=" in pair]
    known = {"token", "recording", "a"}
    return {unquote(name): unquote(value) for name, value in pairs if name not in known}


def check(server: Storing, capture: str, folder: str = "") -> None:
    """Store a capture; find its bytes, name and metadata; read it back as Kazoo did.

    With `folder`, below a folder of that name in place of the storage's root.
    """

    def moved(data: bytes) -> bytes:
        return data.replace(b" /kzr", f" /{folder}".encode(), 1) if folder else data

    path, body = expected_path(capture), expected_body(capture)
    path = f"{folder}/{path}" if folder else path
    answer = server.raw(moved(request(capture)))
    assert answer.status == 201, answer.text
    files = server.files(folder)
    assert files[path] == body
    assert json.loads(files.get(f"{path}.json", "{}")) == expected_metadata(capture)
    get = WIRE / f"{capture}.2.raw"
    if get.exists():
        head = re.sub(rb"authorization: .*?\r\n", b"", moved(get.read_bytes()))
        answer = server.raw(head.replace(b"\r\n", b"\r\n" + READER, 1))
        assert (answer.status, answer.body) == (200, body), answer.text
