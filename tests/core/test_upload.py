"""The URL rule and the answers, on a running receiver."""

import pytest

from support.receivers import Receiver


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/kzr/call_recording_X.mp3", "X.mp3"),
        ("/kzr/call_recording_X..mp3", "X.mp3"),
        ("/kzr/ACCOUNT/call_recording_X.mp3", "ACCOUNT/X.mp3"),
        ("/recordings/call_recording_X.mp3", "recordings/X.mp3"),
        ("/4f8c2d6b/aa11bb22/call_recording_X.wav", "4f8c2d6b/aa11bb22/X.wav"),
        ("/voicemail/4f8c2d6b/b0c1/call_recording_X.mp3", "voicemail/4f8c2d6b/b0c1/X.mp3"),
        ("/call_recording_X.mp3", "X.mp3"),
        ("/kzr/X@10.0.0.1.mp3", "X@10.0.0.1.mp3"),
        ("/kzr//call_recording_X.mp3", "X.mp3"),
        ("//call_recording_X.mp3", "X.mp3"),
        ("http://somewhere/kzr/call_recording_X.mp3", "X.mp3"),
        ("/kzr/call_recording_X.mp3?recording=../../evil&call_id=Y", "X.mp3"),
        ("/kzr/call_recording_a%2Fb.mp3", "a%2Fb.mp3"),
        ("/kzr/call_recording_a%252Fb.mp3", "a%252Fb.mp3"),
        ("/kzr/call_recording_a#b.mp3", "a%23b.mp3"),
        ("/kzr/call_recording_..%2f..%2f..%2fetc%2fpasswd", "%2E.%2F..%2F..%2Fetc%2Fpasswd~"),
        ("/kzr/call_recording_a%0d%0a%00b.mp3", "a%0D%0A%00b.mp3"),
    ],
)
def test_recording_is_stored_where_its_url_says(receiver: Receiver, method, target, path):
    answer = receiver.request(method, target, b"\x00audio\xff")
    assert answer.status == 201, answer.text
    assert answer.line == f"created: {path}, 7 bytes"
    assert receiver.stored() == {path: b"\x00audio\xff"}


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/", "no recording name"),
        ("/kzr", "no recording name"),
        ("/kzr/", "no recording name"),
        ("/kzr?token=abc", "no recording name"),
        ("/kzr/call_recording_", "no recording name"),
        ("/kzr/../../x.mp3", "'..' segment"),
        ("/kzr/%2e%2e/x.mp3", "'..' segment"),
        ("/..", "'..' segment"),
        ("/" + "a/" * 17 + "x.mp3", "folders"),
    ],
)
def test_url_without_a_usable_name_is_refused(receiver: Receiver, target, reason):
    answer = receiver.put(target)
    assert answer.status == 400
    assert reason in answer.line
    assert receiver.stored() == {}


def test_location_leads_to_the_same_recording(receiver: Receiver):
    location = receiver.put("/ACCOUNT/call_recording_a%2Fb%3F~..mp3?from=x").headers["Location"]
    assert location == "/ACCOUNT/call_recording_a%2Fb%3F~.mp3"
    assert receiver.put(location).status == 200
    assert list(receiver.stored()) == ["ACCOUNT/a%2Fb%3F%7E.mp3"]


def test_same_bytes_again_are_a_retry(receiver: Receiver):
    receiver.put("/kzr/call_recording_X.mp3", b"one")
    answer = receiver.put("/kzr/call_recording_X.mp3", b"one")
    assert (answer.status, answer.line) == (200, "identical: X.mp3, 3 bytes")
    assert receiver.stored() == {"X.mp3": b"one"}


def test_other_bytes_take_the_name_and_older_recordings_are_kept(receiver: Receiver):
    receiver.put("/kzr/call_recording_X.mp3", b"one")
    answer = receiver.put("/kzr/call_recording_X.mp3", b"two")
    assert answer.status == 200
    assert answer.line == ("superseded: X.mp3, 3 bytes; the older recording is kept as X~1.mp3")
    receiver.put("/kzr/call_recording_X.mp3", b"three")
    assert receiver.stored() == {"X.mp3": b"three", "X~1.mp3": b"one", "X~2.mp3": b"two"}


def test_conflict_is_refused_where_that_is_set(start):
    receiver = start(on_conflict="refuse")
    receiver.put("/kzr/call_recording_X.mp3", b"one")
    answer = receiver.put("/kzr/call_recording_X.mp3", b"two")
    assert answer.status == 409
    assert answer.line == "another recording is stored as X.mp3: it was kept"
    assert receiver.put("/kzr/call_recording_X.mp3", b"one").status == 200
    assert receiver.stored() == {"X.mp3": b"one"}


@pytest.mark.parametrize("prefix", ["/", "/some/where"])
def test_url_prefix_is_the_root_of_the_storage(start, prefix):
    receiver = start(url_prefix=prefix)
    receiver.put(f"{prefix.rstrip('/')}/call_recording_X.mp3")
    receiver.put("/kzr/call_recording_Y.mp3")
    assert list(receiver.stored()) == ["X.mp3", "kzr/Y.mp3"]


@pytest.mark.parametrize("method", ["DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(receiver: Receiver, method):
    answer = receiver.request(method, "/kzr/call_recording_X.mp3")
    assert answer.status == 405
    assert sorted(answer.headers["Allow"].split(", ")) == ["GET", "HEAD", "POST", "PUT"]
    assert answer.line


def test_full_disk_is_told_before_the_body_is_read(start):
    receiver = start(min_free="1000T")
    answer = receiver.raw(
        b"PUT /kzr/X.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123456789"
    )
    assert answer.status == 507
    assert answer.line == "the disk is full: free some space or lower KZR_MIN_FREE"
    assert receiver.stored() == {}


def test_every_request_is_logged_in_one_line(receiver: Receiver):
    receiver.put("/kzr/call_recording_a%0d%0aforged.mp3?token=secret", b"audio")
    line = receiver.log_line
    assert "PUT name=a%0D%0Aforged.mp3 bytes=5 ms=" in line
    assert line.endswith(" outcome=created client=127.0.0.1")


def test_refusal_is_logged_with_its_reason(receiver: Receiver):
    receiver.put("/kzr/%0d%0a/../x?token=secret", b"audio")
    assert "name=/kzr/%0d%0a/../x bytes=0" in receiver.log_line
    assert "outcome=400 (the URL holds a '.' or '..' segment: remove it)" in receiver.log_line


def test_internal_error_shows_no_trace_to_the_sender(receiver: Receiver):
    # A folder where the file should be is what no check of the request can foresee.
    (receiver.storage / "X.mp3").mkdir()
    answer = receiver.put("/kzr/call_recording_X.mp3")
    assert answer.status == 500
    assert answer.line == "could not store: Not a recording, move it away: X.mp3"
