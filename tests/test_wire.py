"""The very bytes that Kazoo and curl were seen to send, to each kind of gunicorn's workers."""

import re

import pytest
from conftest import WIRE, Receiver

UGLY = "a%2Fb%3Fc%25d%7Ee%3Cf%3Eg%28h%29i%5Bj%5Dk%22l%3Am%5Cn%2Ao%21p%27q+r%7Bs%7Dt@10.0.0.1.mp3"
NO_NAME = ("rec_token", "rec_recording_eq", "rec_q_noeq", "fieldlist_empty", "_token")


def captures(*, named: bool) -> list[str]:
    names = [path.name.removesuffix(".1.raw") for path in sorted(WIRE.glob("*.1.raw"))]
    return [name for name in names if any(part in name for part in NO_NAME) is not named]


def split(capture: str) -> tuple[bytes, bytes, bytes]:
    """A capture's bytes, its target, and its body as the sender had it."""
    data = (WIRE / f"{capture}.1.raw").read_bytes()
    head, _, body = data.partition(b"\r\n\r\n")
    if b"chunked" in head:
        size, _, body = body.partition(b"\r\n")
        body = body[: int(size, 16)]
    return data, head.split(b" ")[1], body


def expected_path(capture: str, target: bytes) -> str:
    if "rec_" in capture or "kzc_" in capture or capture.startswith("curl"):
        known = {
            "rec_wav": "abc123@10.0.0.1.wav",
            "rec_ugly": UGLY,
            "rec_cisco": "9c57ad3d-1c6f11e4-8d5dffff-b3ba6b23@192.168.1.20.mp3",
        }
        return known.get(capture.rpartition("-")[2], "abc123@10.0.0.1.mp3")
    return re.sub(r"\?.*", "", target.decode()).removeprefix("/kzr/")


@pytest.mark.parametrize("capture", captures(named=True))
def test_capture_is_stored(worker: Receiver, capture):
    data, target, body = split(capture)
    answer = worker.raw(data)
    if b"multipart/form-data" in data:
        assert answer.status == 415
        assert answer.line.startswith("a multipart body")
        assert worker.stored() == {}
        return
    assert answer.status == 201, answer.text
    assert worker.stored() == {expected_path(capture, target): body}


@pytest.mark.parametrize("capture", captures(named=False))
def test_capture_without_a_name_in_its_path_is_refused(worker: Receiver, capture):
    answer = worker.raw(split(capture)[0])
    assert answer.status == 400
    assert answer.line.startswith("the URL holds no recording name")
    assert worker.stored() == {}


def test_every_capture_is_tried():
    assert len(captures(named=True)) + len(captures(named=False)) == len(list(WIRE.glob("*.1.*")))
    assert len(captures(named=True)) >= 30
