"""The receiver behind nginx and Apache, and in Apache, each started with the shipped file."""

import os
import socket
import time

import pytest

from support.fronts import FRONTS, Front, Htaccess, ModWsgi, stored
from support.receivers import Receiver
from support.waiting import wait_for
from support.wire import captures, check, expected_path, request

HEAD = b"PUT /kzr/call_recording_X.mp3 HTTP/1.1\r\nHost: x\r\n"
ALL = list(FRONTS)


@pytest.fixture(scope="module", params=ALL)
def started(request):
    front = FRONTS[request.param](readers="kazoo:secret")
    yield front
    front.stop()


@pytest.fixture
def front(started: Front) -> Front:
    for path in started.storage.iterdir():
        if path.name != ".handover":
            os.system(f"rm -rf '{path}'")
    return started


@pytest.mark.parametrize("capture", captures())
def test_capture_is_stored_and_read_back(front: Front, capture):
    check(front, capture)
    assert list(stored(front)) == [expected_path(capture)]


@pytest.mark.parametrize("capture", captures(named=False))
def test_capture_without_a_usable_name_is_refused(front: Front, capture):
    assert front.raw(request(capture)).status == 400
    assert stored(front) == {}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 5, 100_000, 25 * 1024 * 1024])
def test_body_is_stored_byte_for_byte(front: Front, size, chunked):
    body = os.urandom(size)
    answer = front.put("/kzr/ACCOUNT/call_recording_X.mp3", body, chunked=chunked)
    assert (answer.status, answer.line) == (201, f"created: ACCOUNT/X.mp3, {size} bytes")
    assert stored(front) == {"ACCOUNT/X.mp3": body}
    assert front.put("/kzr/ACCOUNT/call_recording_X.mp3", body).status == 200
    assert (front.storage / "ACCOUNT/X.mp3").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/kzr/call_recording_a%2Fb.mp3", "a%2Fb.mp3"),
        ("/kzr/call_recording_a%252Fb.mp3", "a%252Fb.mp3"),
        ("/kzr/call_recording_a/b.mp3", "a%2Fb.mp3"),
        ("/kzr/call_recording_a%5Cb.mp3", "a%5Cb.mp3"),
        ("/kzr/call_recording_%2e%2e%2f%2e%2e%2fx.mp3", "%2E.%2F..%2Fx.mp3"),
        ("/kzr/call_recording_a%0d%0ab.mp3", "a%0D%0Ab.mp3"),
        ("/kzr/call_recording_%ff.mp3", "%FF.mp3"),
        ("/kzr//call_recording_X.mp3", "X.mp3"),
        ("//call_recording_X.mp3", "X.mp3"),
        ("/voicemail/A/B/call_recording_X.mp3?recording=Y", "voicemail/A/B/X.mp3"),
    ],
)
def test_name_arrives_as_it_was_sent(front: Front, target, path):
    answer = front.put(target)
    assert answer.status == 201, answer.text
    assert list(stored(front)) == [path]


@pytest.mark.parametrize(
    "target", ["/kzr/../../x.mp3", "/../x.mp3", "/kzr/%2e%2e/x.mp3", "/kzr/x%00y/../z", "/kzr/"]
)
def test_nothing_is_stored_outside(front: Front, target):
    assert front.put(target).status in (400, 404)
    assert stored(front) == {}


def test_raw_utf8_is_taken(front: Front):
    line = "PUT /kzr/call_recording_Jörg.mp3?caller_id_name=Jörg HTTP/1.1\r\nHost: x\r\n"
    assert front.raw(line.encode() + b"Content-Length: 5\r\n\r\naudio").status == 201
    assert stored(front) == {"J%C3%B6rg.mp3": b"audio"}


def test_long_query_is_taken(front: Front):
    assert front.put("/kzr/call_recording_X.mp3?from=" + "x" * 8000).status == 201


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 1000000\r\n\r\n" + bytes(999_999),
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nau",
    ],
)
def test_cut_upload_leaves_nothing(front: Front, framing):
    with front.connect() as sock:
        sock.sendall(HEAD + framing)
        sock.shutdown(socket.SHUT_WR)
        assert not sock.recv(100).startswith(b"HTTP/1.1 2")
    assert front.put("/kzr/call_recording_X.mp3", b"whole").status == 201
    assert stored(front) == {"X.mp3": b"whole"}


def test_100_continue(front: Front):
    with front.connect() as sock:
        sock.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        sock.sendall(b"audio")
        assert sock.recv(100).startswith(b"HTTP/1.1 201")


@pytest.mark.parametrize(
    "header",
    [
        "SCRIPT_NAME: /kzr",
        "Script-Name: /kzr",
        "X-Body-File: /etc/passwd",
        "X_Body_File: /etc/passwd",
        "X-Body-Length: 0",
        "X-Forwarded-Prefix: /kzr",
        "X-Accel-Redirect: /etc/passwd",
    ],
)
def test_spoofed_header_has_no_effect(front: Front, header):
    head = HEAD + header.encode() + b"\r\nContent-Length: 5\r\n\r\naudio"
    assert front.raw(head).status == 201
    assert stored(front) == {"X.mp3": b"audio"}


@pytest.mark.parametrize("front_name", ALL)
def test_client_address_and_credentials_arrive(front_name):
    front = FRONTS[front_name](allow_from="127.0.0.0/8", writers="kazoo:p%40ss")
    try:
        right = {"Authorization": "Basic a2F6b286cCU0MHNz"}
        assert front.put("/kzr/call_recording_X.mp3").status == 401
        assert front.put("/kzr/call_recording_X.mp3", headers=right).status == 201
    finally:
        front.stop()
    front = FRONTS[front_name](allow_from="10.0.0.0/8")
    try:
        spoofed = {"X-Forwarded-For": "10.1.2.3"}
        answer = front.put("/kzr/call_recording_X.mp3", headers=spoofed)
        assert (answer.status, answer.line) == (403, "127.0.0.1 is not in KZR_ALLOW_FROM")
    finally:
        front.stop()


def test_wrong_setting_ends_apaches_log_with_one_line():
    front = ModWsgi(min_free="much")
    try:
        assert front.put("/kzr/call_recording_X.mp3").status == 500
        line = (
            "SystemExit: receiver: KZR_MIN_FREE=much: expected a size in bytes, such as 100M or 2G"
        )
        wait_for(lambda: front.log.rstrip().endswith(line))
    finally:
        front.stop()


@pytest.mark.parametrize("front_name", ALL)
def test_log_names_the_client_and_the_recording(front_name):
    front = FRONTS[front_name]()
    try:
        front.put("/kzr/call_recording_X.mp3", b"audio")
        line = "PUT name=X.mp3 bytes=5 ms="
        wait_for(lambda: line in front.log)
        assert "outcome=created client=127.0.0.1" in front.log.partition(line)[2]
    finally:
        front.stop()


class TestHandover:
    """What nginx passes on in place of a body is believed only as far as it has to be."""

    @pytest.fixture
    def receiver(self, start, tmp_path) -> Receiver:
        (tmp_path / "handover").mkdir()
        (tmp_path / "handover" / "0001").write_bytes(b"audio")
        (tmp_path / "handover" / "link").symlink_to("/etc/passwd")
        (tmp_path / "handover" / "folder").mkdir()
        (tmp_path / "outside").write_bytes(b"secret")
        os.mkfifo(tmp_path / "handover" / "fifo")
        self.tmp_path = tmp_path
        return start(handover_dir=tmp_path / "handover")

    def put(self, receiver: Receiver, path: str, **headers: str):
        return receiver.request(
            "PUT", "/kzr/X.mp3", headers={"X-Body-File": str(self.tmp_path / path)} | headers
        )

    def test_file_is_linked_not_copied(self, receiver):
        assert self.put(receiver, "handover/0001", **{"X-Body-Length": "5"}).status == 201
        file = self.tmp_path / "handover" / "0001"
        assert (receiver.storage / "X.mp3").samefile(file)

    @pytest.mark.parametrize(
        "path",
        ["outside", "handover/../outside", "handover/folder", "handover/fifo", "/etc/passwd"],
    )
    def test_anything_but_a_file_in_the_folder_is_refused(self, receiver, path):
        answer = self.put(receiver, path)
        assert answer.status == 500
        assert answer.line.startswith("what nginx handed over is no file in KZR_HANDOVER_DIR")
        assert receiver.stored() == {}

    @pytest.mark.parametrize(
        ("path", "reason"), [("handover/absent", "No such"), ("handover/link", "")]
    )
    def test_file_that_cannot_be_opened_is_told(self, receiver, path, reason):
        answer = self.put(receiver, path)
        assert answer.status == 500
        assert answer.line.startswith(f"cannot open the file that nginx handed over: {reason}")

    def test_what_nginx_left_behind_when_it_was_killed_is_removed_at_start(self, start, tmp_path):
        folder = tmp_path / "handover"
        folder.mkdir()
        day = 24 * 60 * 60
        for name, age in {"0000000001": 2 * day, "0000000002": day / 2, "mine": 2 * day}.items():
            (folder / name).write_bytes(b"partial")
            os.utime(folder / name, (time.time() - age,) * 2)
        start(handover_dir=folder)
        assert sorted(path.name for path in folder.iterdir()) == ["0000000002", "mine"]

    def test_storage_itself_cannot_be_the_folder(self, tmp_path):
        with pytest.raises(AssertionError, match="name a folder of nginx's own"):
            Receiver(tmp_path, storage=tmp_path / "s", handover_dir=tmp_path / "s")

    def test_file_of_another_length_is_refused(self, receiver):
        answer = self.put(receiver, "handover/0001", **{"X-Body-Length": "6"})
        assert (answer.status, answer.line) == (400, "nginx handed over 5 of 6 bytes")

    def test_header_is_ignored_unless_the_handover_is_configured(self, receiver, start):
        plain = start()
        answer = self.put(plain, "handover/0001")
        assert answer.status == 411
        assert "handed over by nginx? set KZR_HANDOVER_DIR" in answer.line

    def test_size_limit_holds(self, start, tmp_path):
        (tmp_path / "handover").mkdir()
        (tmp_path / "handover" / "0001").write_bytes(b"too large")
        self.tmp_path = tmp_path
        receiver = start(handover_dir=tmp_path / "handover", max_bytes=5)
        assert self.put(receiver, "handover/0001").status == 413


def test_other_file_system_stops_the_start(tmp_path):
    from receiver import create_app
    from receiver.errors import SettingError

    settings = {"STORAGE": str(tmp_path), "HANDOVER_DIR": "/dev/shm/handover"}
    with pytest.raises(SettingError, match="put it into the file system of KZR_STORAGE"):
        create_app(settings)
    os.rmdir("/dev/shm/handover")


@pytest.fixture(scope="module")
def host():
    host = Htaccess()
    yield host
    host.stop()


class TestHtaccess:
    """Where nothing but .htaccess can be edited, each upload starts the receiver anew."""

    def test_recordings_are_stored(self, host):
        for body in (b"", b"audio", os.urandom(3_000_000)):
            answer = host.put("/kzr/ACCOUNT/call_recording_abc%4010.0.0.1..mp3?from=x", body)
            assert answer.status in (200, 201), answer.text + host.log
            assert host.stored()["ACCOUNT/abc@10.0.0.1.mp3"] == body

    def test_cut_upload_leaves_nothing(self, host):
        with host.connect() as sock:
            sock.sendall(HEAD + b"Content-Length: 9\r\n\r\naudio")
            sock.shutdown(socket.SHUT_WR)
            assert not sock.recv(100).startswith(b"HTTP/1.1 2")
        assert "X.mp3" not in host.stored()

    def test_raw_utf8_is_taken(self, host):
        head = "PUT /kzr/call_recording_Jörg李.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
        assert host.raw(head.encode() + b"audio").status == 201
        assert host.stored()["J%C3%B6rg%E6%9D%8E.mp3"] == b"audio"

    def test_chunked_upload_is_refused(self, host):
        """CGI has no way to tell that one was cut off."""
        assert host.put("/kzr/call_recording_X.mp3", b"audio", chunked=True).status == 411

    def test_encoded_slash_is_refused_by_the_host(self, host):
        assert host.put("/kzr/call_recording_a%2Fb.mp3").status == 404
