"""Reading back: who may, what is answered, and that it is what was stored."""

import base64
import os
import re
from hashlib import sha256
from pathlib import Path

import pytest
from werkzeug.security import generate_password_hash

from support.clients import Storing
from support.notes import MARKER
from support.reading import READER, SENDING, basic, reading
from support.receivers import Receiver

X = "/kzr/call_recording_X.mp3"
AUDIO = bytes(range(256)) * 100


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    hashed = generate_password_hash("hashed", "pbkdf2:sha256:1000")
    server = Receiver(
        tmp_path_factory.mktemp("readable"),
        readers=f"kaz:other kazoo:secret hash:{hashed}",
        write_tokens="abc über",
    )
    yield server
    server.stop()


@pytest.fixture
def receiver(started: Receiver) -> Receiver:
    started.clear()
    return started


def put(server: Storing, target: str, body: bytes = AUDIO) -> None:
    mark = "&" if "?" in target else "?"
    assert server.put(f"{target}{mark}token=abc", body).status in (200, 201)


def get(server: Storing, target: str = X, method: str = "GET", **headers: str):
    return server.request(method, target, headers=READER | headers)


class TestAccess:
    @pytest.mark.parametrize(
        "text",
        ["kazoo:secret", "kazoosecret:", "kaz:other", "kazother:", "hash:hashed", "hashhashed:"],
    )
    def test_reader_may_read_also_without_the_colon(self, receiver, text):
        put(receiver, X)
        assert receiver.request("GET", X, headers=basic(text)).body == AUDIO

    @pytest.mark.parametrize(
        "text",
        ["kazoo:wrong", "kazoosecre:", "kazxxsecret:", "kazoo:", ":", "secretkazoo:", "x:y"],
    )
    def test_others_may_not(self, receiver, text):
        put(receiver, X)
        assert receiver.request("GET", X, headers=basic(text)).status == 401

    @pytest.mark.parametrize("target", [X, f"{X}?token=abc"])
    def test_credentials_are_needed(self, receiver, target):
        put(receiver, X)
        answer = receiver.request("GET", target)
        assert answer.status == 401
        assert "WWW-Authenticate" in answer.headers

    def test_nobody_may_read_where_no_reader_is_set(self, shared):
        answer = shared.request("GET", X, headers=READER)
        assert (answer.status, answer.line) == (403, "nothing is readable here: see KZR_READERS")

    @pytest.mark.parametrize("query", ["", "?token=", "?token=ab", "?token=abcd", "?x=abc"])
    def test_token_is_needed_for_writing(self, receiver, query):
        assert receiver.put(X + query).status == 401
        assert receiver.stored() == {}

    @pytest.mark.parametrize("token", ["abc", "%C3%BCber"])
    def test_token_is_neither_logged_nor_kept(self, receiver, token):
        assert (
            receiver.put(f"/kzr?token={token}&recording=call_recording_T.mp3&from=x").status == 201
        )
        assert receiver.metadata("T.mp3") == {"from": "x"}
        requests = [line for line in receiver.log.splitlines() if " name=" in line]
        assert requests and "token" not in "".join(requests)


class TestAnswer:
    @pytest.mark.parametrize(
        ("extension", "content_type"),
        [
            (".mp3", "audio/mpeg"),
            (".wav", "audio/x-wav"),
            (".txt", "text/plain"),
            (".json", "application/octet-stream"),
            (".html", "application/octet-stream"),
            ("", "application/octet-stream"),
        ],
    )
    def test_type_comes_from_a_fixed_table(self, receiver, extension, content_type):
        target = f"/kzr/call_recording_X{extension}"
        put(receiver, target, b"<script>alert(1)</script>")
        answer = get(receiver, target)
        assert answer.status == 200
        assert answer.headers.get_content_type() == content_type
        downloads = answer.headers.get("Content-Disposition") == "attachment"
        assert downloads == (content_type == "application/octet-stream")

    def test_headers_guard_who_looks_at_it(self, receiver):
        put(receiver, X)
        headers = get(receiver).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("sandbox;")
        assert headers["Cache-Control"] == "private, no-cache"
        assert headers["ETag"] and headers["Last-Modified"]

    def test_head_has_no_body(self, receiver):
        put(receiver, X)
        answer = get(receiver, method="HEAD")
        assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "25600", b"")

    def test_range_that_is_not_there(self, receiver):
        put(receiver, X)
        answer = get(receiver, Range="bytes=30000-")
        assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */25600")
        assert answer.line

    def test_range_from_the_middle_reads_nothing_before_it(self, start):
        receiver = start("--threads=1", readers="kazoo:secret")
        with (receiver.storage / "X.mp3").open("wb") as file:
            file.truncate(500_000_000)
            file.seek(250_000_000)
            file.write(b"middle")
        (worker,) = receiver.workers
        io = Path(f"/proc/{worker}/io")
        before = int(re.search(r"rchar: (\d+)", io.read_text())[1])
        answer = get(receiver, Range="bytes=250000000-250000005")
        assert (answer.status, answer.body) == (206, b"middle")
        read = int(re.search(r"rchar: (\d+)", io.read_text())[1]) - before
        assert read < 1_000_000

    @pytest.mark.parametrize("target", ["/kzr/absent.mp3", "/kzr/A", "/A/B/call_recording_X.mp3"])
    def test_absent_recording_is_404_and_creates_no_folder(self, receiver, target):
        put(receiver, "/kzr/A/x.mp3")
        answer = get(receiver, target)
        assert answer.status == 404
        assert answer.line.startswith("no recording is stored as ")
        assert {path.name for path in receiver.storage.iterdir()} == {"A", MARKER}

    @pytest.mark.parametrize("target", ["/kzr/../x.mp3", "/kzr/%2e%2e/x.mp3", "/kzr/"])
    def test_nothing_outside_is_read(self, receiver, target):
        assert get(receiver, target).status == 400

    def test_symlink_is_not_followed(self, receiver):
        (receiver.storage / "x.mp3").symlink_to("/etc/passwd")
        assert get(receiver, "/kzr/x.mp3").status == 404


class TestNames:
    @pytest.mark.parametrize(
        ("target", "path"),
        [
            ("/kzr?token=abc&recording=call_recording_X%2FY..mp3&from=z", "X%2FY.mp3"),
            ("/kzr/?recording=call_recording_X..mp3&token=abc", "X.mp3"),
            ("/kzr?a=call_recording_X..mp3&token=abc", "X.mp3"),
            ("/kzr/index.php?recording=X.mp3&token=abc", "X.mp3"),
            ("/kzr/index.php?recording=../../X.mp3&token=abc", "%2E.%2F..%2FX.mp3"),
            ("/recordings?token=abc&recording=call_recording_X..mp3", "recordings/X.mp3"),
            ("/A/U?token=abc&recording=call_recording_X..mp3&from=call_recording_Z", "A/U/X.mp3"),
            ("/kzr/call_recording_X.mp3?token=abc&recording=call_recording_Y.mp3", "X.mp3"),
            ("/kzr/X.mp3?token=abc&recording=call_recording_Y.mp3", "X.mp3"),
            ("/kzr/call_recording_X.?token=abc&recording=call_recording_Y.mp3", "X~"),
        ],
    )
    def test_name_in_the_query_counts_where_the_path_has_none(self, receiver, target, path):
        assert receiver.put(target, AUDIO).status == 201
        assert receiver.stored() == {path: AUDIO}
        assert get(receiver, target).body == AUDIO

    @pytest.mark.parametrize(
        "target",
        [
            "/kzr?token=abc4f8c/DOC/X.mp3",
            "/recordings?token=abc4f8c/DOC/X.mp3",
            "/kzr/",
            "/kzr?token=abc",
        ],
    )
    def test_storage_plan_that_names_nothing_is_told_what_to_change(self, receiver, target):
        answer = receiver.put(target)
        assert answer.status == 400
        assert "in a storage plan, leave the field list as it is" in answer.line
        assert receiver.stored() == {}

    @pytest.mark.parametrize("base", ["/kzr", "/kzr/recs/2024", "/recordings"])
    def test_doubled_path_is_answered_with_the_recording(self, receiver, base):
        put(receiver, f"{base}/ACC/DOC/X.mp3")
        put(receiver, f"{base}/ACC/ACC/Y.mp3")
        assert get(receiver, f"{base}/ACC/DOC/X.mp3/ACC/DOC/X.mp3?id=1").body == AUDIO
        assert get(receiver, f"{base}/ACC/ACC/Y.mp3").body == AUDIO
        assert get(receiver, f"{base}/ACC/DOC/X.mp3/ACC/OTHER/X.mp3").status == 404


class TestConditions:
    def test_if_none_match_refuses_where_the_name_exists(self, receiver):
        headers = {"If-None-Match": "*"}
        assert receiver.put(f"{X}?token=abc", b"one", headers=headers).status == 201
        for body in (b"one", b"two"):
            answer = receiver.put(f"{X}?token=abc", body, headers=headers)
            assert (answer.status, answer.line) == (412, "a recording is stored as X.mp3")
        assert receiver.stored() == {"X.mp3": b"one"}

    @pytest.mark.parametrize("header", ["Content-Digest", "Repr-Digest"])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_digest_is_verified(self, receiver, header, chunked):
        digest = "sha-256=:cfqOUZ9Gk8a/s3vZoBlxZIRX6G0K5xM8O2z5DbsUrTM=:"
        wrong = {header: digest}
        answer = receiver.put(f"{X}?token=abc", b"audio", headers=wrong, chunked=chunked)
        assert answer.status == 400
        assert "sha-256" in answer.line
        assert receiver.stored() == {}
        right = base64.b64encode(sha256(b"audio").digest()).decode()
        headers = {header: f"sha-512=:AAAA:, sha-256=:{right}:"}
        assert (
            receiver.put(f"{X}?token=abc", b"audio", headers=headers, chunked=chunked).status == 201
        )


class TestServersThatSendFiles:
    """nginx and Apache send the file themselves, where that is configured."""

    NAMES = ("/kzr/A/call_recording_a%2Fb%3F%25..mp3", "/kzr/call_recording_plain.wav")

    @pytest.mark.parametrize("name", SENDING)
    def test_what_is_sent_is_what_was_stored(self, tmp_path, request, name):
        audio = os.urandom(300_000)
        with reading(name, tmp_path, request.getfixturevalue) as server:
            for target in self.NAMES:
                assert server.put(target, audio).status == 201
                answer = get(server, target)
                assert (answer.status, answer.body) == (200, audio), server.log
                assert answer.headers.get_content_type() in ("audio/mpeg", "audio/x-wav")
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                answer = get(server, target, Range="bytes=1000-1999")
                assert (answer.status, answer.body) == (206, audio[1000:2000])
            assert server.request("GET", target).status == 401
