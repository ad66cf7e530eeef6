"""`flask --app app check URL`: the real command on real receivers, and on worse servers."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from receiver.core.naming import RecordingName
from support.checking import Checked, url_of
from support.needs import need
from support.ports import free_port
from support.receivers import Receiver

LINES = 14  # one for each check


@pytest.fixture
def check(tmp_path: Path) -> Callable[[str], Checked]:
    return lambda url: Checked(url, storage=tmp_path / "unused")


class TestGoodReceiver:
    def test_passes_everything(self, receiver: Receiver, check):
        checked = check(url_of(receiver))
        assert (checked.status, checked.failed) == (0, [])
        assert len(checked.ok) + len(checked.notes) == LINES
        assert any("credentials: the URL has none" in note for note in checked.notes)

    def test_what_it_leaves_is_told(self, receiver: Receiver, check):
        receiver.put("/kzr/ACCOUNT/call_recording_X.mp3")
        checked = check(url_of(receiver, path="/kzr/ACCOUNT/"))
        names = {path.split("-", 2)[-1] for path in receiver.stored()}
        assert {
            "small.mp3",
            "dots.mp3",
            "%C3%B6.mp3",
            "a%2Fb@c.mp3",
            "a%252Fb.mp3",
            "cut.mp3",
        } <= names
        (hint,) = [
            line.partition(": ")[2] for line in checked.text.splitlines() if ": rm -r " in line
        ]
        assert hint.startswith("rm -r ACCOUNT/check-")
        subprocess.run(hint, shell=True, cwd=receiver.storage, check=True)
        assert receiver.stored() == {"ACCOUNT/X.mp3": b"audio"}

    def test_runs_do_not_collide(self, receiver: Receiver, check):
        assert [check(url_of(receiver)).status for _ in range(2)] == [0, 0]

    def test_credentials_are_sent_as_they_are_written(self, start, check):
        checked = check(url_of(start(writers="kazoo:p%40ss"), "kazoo:p%40ss@"))
        assert (checked.status, checked.failed) == (0, [])
        assert "credentials" in checked.ok

    def test_tls_needs_no_known_certificate(self, start, check, tmp_path):
        key, certificate = tmp_path / "key", tmp_path / "certificate"
        command = f"req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout {key} -out {certificate}"
        subprocess.run([need("openssl"), *command.split()], check=True, capture_output=True)
        receiver = start(f"--certfile={certificate}", f"--keyfile={key}")
        checked = check(url_of(receiver).replace("http", "https"))
        assert (checked.status, checked.failed) == (0, [])

    def test_leaves_nothing_here_and_needs_no_settings(self, receiver: Receiver, tmp_path):
        checked = Checked(url_of(receiver), cwd=tmp_path)
        assert (checked.status, checked.errors) == (0, "")
        assert list(tmp_path.iterdir()) == []


class TestReceiverInNeedOfChange:
    def test_limit_of_size(self, start, check):
        checked = check(url_of(start(max_bytes="1M")))
        (failure,) = checked.failed
        assert failure.startswith("a recording of 25 MB: 413 from the receiver: the recording is")
        assert "-> receiver: KZR_MAX_BYTES; nginx: client_max_body_size" in failure
        assert checked.status == 1 and len(checked.ok) + len(checked.notes) == LINES - 1

    def test_limit_of_the_request_line(self, start, check):
        checked = check(url_of(start("--limit-request-line=1000")))
        (failure,) = checked.failed
        assert failure.startswith("a request line of 16000 bytes: 4")
        for setting in ("large_client_header_buffers", "LimitRequestLine", "limit_request_line"):
            assert setting in failure

    def test_credentials_that_nobody_looks_at(self, receiver: Receiver, check):
        (failure,) = check(url_of(receiver, "kazoo:secret@")).failed
        assert failure.startswith("credentials: 201 from the receiver: created: check-")
        assert failure.endswith("-> set KZR_WRITERS")

    @pytest.mark.parametrize(
        ("settings", "credentials", "came_back", "advice"),
        [
            ({"writers": "kazoo:secret"}, "", "401 from the receiver: credentials", "KZR_WRITERS"),
            ({"writers": "kazoo:secret"}, "kazoo:hush@", "401 from the receiver", "KZR_WRITERS"),
            ({"allow_from": "192.0.2.0/24"}, "", "403 from the receiver", "KZR_TRUSTED_PROXIES"),
            ({"min_free": "1000T"}, "", "507 from the receiver: the disk is full", "free some"),
        ],
    )
    def test_nothing_gets_in(self, start, check, settings, credentials, came_back, advice):
        checked = check(url_of(start(**settings), credentials))
        (failure,) = checked.failed
        assert failure.startswith(f"a small recording: {came_back}")
        assert advice in failure.partition(" -> ")[2]
        assert (checked.status, checked.ok, checked.notes) == (1, [], [])
        assert "hush" not in checked.text and " rm " not in checked.text


@pytest.mark.parametrize(
    ("url", "came_back", "advice"),
    [
        ("http://127.0.0.1:{free}/kzr", "Connection refused", "nobody listens there"),
        ("http://receiver.invalid/kzr", "receiver.invalid is not reached", "correct its name"),
        ("https://127.0.0.1:{receiver}/kzr", "WRONG_VERSION_NUMBER", "does not speak TLS"),
    ],
)
def test_receiver_that_is_not_reached(receiver: Receiver, check, url, came_back, advice):
    checked = check(url.format(free=free_port(), receiver=receiver.port))
    (failure,) = checked.failed
    assert came_back in failure and advice in failure.partition(" -> ")[2]
    assert checked.status == 1


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("127.0.0.1:8000/kzr", "neither http:// nor https://"),
        ("ftp://127.0.0.1/kzr", "neither http:// nor https://"),
        ("http:///kzr", "no host"),
        ("http://[::1/kzr", "Invalid IPv6 URL"),
        ("http://127.0.0.1:70000/kzr", "Port out of range"),
        ("http://127.0.0.1/kzr?token=x", "holds a ?"),
        ("http://127.0.0.1/k zr", "holds a space"),
        ("http://kazoo:a:hush@127.0.0.1/kzr", "one colon"),
        ("http://hush@127.0.0.1/kzr", "one colon"),
    ],
)
def test_url_that_cannot_be_used(check, url, complaint):
    checked = check(url)
    error = checked.errors.splitlines()[-1]
    assert error.startswith("Error: the URL cannot be used: ") and complaint in error
    assert (checked.status, checked.text) == (1, "")
    assert "hush" not in error


def test_help_has_an_example(check):
    example = "kazoo-receiver check http://kazoo:a-long-secret@10.0.0.5:8000/kzr"
    assert example in check("--help").text


class Careless(BaseHTTPRequestHandler):
    """Takes what comes as complete, as the PHP script did, but answers like the receiver."""

    stored: dict[str, bytes]
    cut_status: int | None = None  # what a body that ends early is answered
    reading: bytes | None = None  # what is read instead of what is stored
    refusal: tuple[int, str] | None = None  # what everything is answered, and its Location

    @staticmethod
    def passed_on(path: str) -> str:
        """The path as a proxy in between makes it."""
        return path

    @property
    def name(self) -> str:
        path = self.path.encode("latin-1").decode().removeprefix("/kzr/").partition("?")[0]
        return str(RecordingName.parse(self.passed_on(path)))

    def do_PUT(self) -> None:
        declared = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(declared)
        known = self.stored.get(self.name)
        outcome = "identical" if known == body else "superseded" if known else "created"
        self.stored[self.name] = body
        line = f"{outcome}: {self.name}, {len(body)} bytes\n".encode()
        if self.refusal:
            self.answer(self.refusal[0], b"<h1>Not so</h1>", "text/html")
        elif self.cut_status and len(body) < declared:
            self.answer(self.cut_status, line, "text/plain")
        else:
            self.answer(200 if known else 201, line, "text/plain")

    def do_GET(self) -> None:
        body = self.stored[self.name]
        self.answer(200, body if self.reading is None else self.reading, "audio/mpeg")

    def answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if self.refusal:
            self.send_header("Location", self.refusal[1])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def careless() -> Iterator[Callable[..., str]]:
    """Start servers with other attributes of `Careless`; returns their URLs."""
    with ExitStack() as stack:

        def serve(**attributes: object) -> str:
            handler = type("Handler", (Careless,), {"stored": {}} | attributes)
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/kzr"

        yield serve


def failures(checked: Checked) -> dict[str, str]:
    return dict(failure.split(": ", 1) for failure in checked.failed)


class TestOtherServer:
    def test_half_an_upload_that_counts_as_whole(self, careless, check):
        failed = failures(check(careless()))
        assert "20000 bytes -> a body that ends early counts" in failed["an upload that is cut off"]

    def test_half_an_upload_that_is_kept_though_it_is_refused(self, careless, check):
        failed = failures(check(careless(cut_status=400)))
        assert "something is stored from the incomplete" in failed["an upload that is cut off"]

    def test_chunks_that_nobody_reads(self, careless, check):
        failed = failures(check(careless()))
        assert "4000 bytes were sent" in failed["a chunked body"]

    def test_missing_100_is_only_noted(self, careless, check):
        notes = check(careless()).notes
        assert any(note.startswith("Expect: 100-continue: stored, but") for note in notes)

    @pytest.mark.parametrize(
        ("passed_on", "what", "stored"),
        [
            (unquote, "a / in a name of record_caller", "-a/d.mp3,"),
            (unquote, "a Call-ID with a percent sign (%252F)", "-a%2Fb.mp3,"),
            (quote, "a Call-ID with @ and / (%2F)", "-a%252Fb%2540c.mp3,"),
        ],
    )
    def test_path_that_a_proxy_changes(self, careless, check, passed_on, what, stored):
        failed = failures(check(careless(passed_on=staticmethod(passed_on))))
        assert stored in failed[what]
        assert "proxy_pass without a path" in failed[what] and "nocanon" in failed[what]

    def test_reading_is_compared_where_it_is_allowed(self, careless, check):
        assert "reading back" in check(careless()).ok
        failed = failures(check(careless(reading=b"other")))
        assert failed["reading back"].startswith("200 with other bytes")

    @pytest.mark.parametrize(
        ("status", "advice"),
        [
            (200, "this is no receiver"),
            (301, "remove the redirect"),
            (302, "remove the redirect"),
            (307, "remove the redirect"),
            (308, "remove the redirect"),
            (401, "KZR_WRITERS"),
            (403, "KZR_ALLOW_FROM"),
            (404, "AllowEncodedSlashes NoDecode"),
            (405, "proxy_pass"),
            (411, "WSGIChunkedRequest On"),
            (413, "LimitRequestBody"),
            (414, "large_client_header_buffers"),
            (418, "error log"),
            (500, "error log"),
            (502, "is gunicorn running"),
            (503, "is gunicorn running"),
            (504, "is gunicorn running"),
        ],
    )
    def test_each_status_has_its_advice(self, careless, check, status, advice):
        checked = check(careless(refusal=(status, "https://elsewhere/\x1b")))
        (failure,) = checked.failed
        assert failure.startswith(f"a small recording: {status} not from it, but BaseHTTP")
        assert advice in failure.partition(" -> ")[2]
        assert "https://elsewhere/ " in failure or not 300 <= status < 400
        assert checked.status == 1

    def test_other_protocol(self, careless, check):
        url = careless(handle=lambda connection: connection.wfile.write(b"SSH-2.0-OpenSSH\r\n"))
        (failure,) = check(url).failed
        assert failure.startswith("a small recording: no answer: ")
        assert "does that port speak HTTP" in failure
