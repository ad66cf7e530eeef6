"""Work after storing: checksums, commands, webhooks and transcripts, against real programs."""

import base64
import hashlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from receiver import config, hooks, transcription, webhook
from receiver.catalog import Catalog
from receiver.catalog_search import Query
from receiver.description import read_metadata
from receiver.errors import CatalogUnavailable, NotStored, SettingError
from receiver.hooks import HookFailed, kinds
from receiver.jobs import Event
from receiver.naming import RecordingName, numbered, sidecar
from receiver.storage import Storage, open_storage
from receiver.webhook import is_public, key_of, sign
from support.needs import need
from support.ports import free_port
from support.speech import PAUSE, SpeechServer, say
from support.storages import NAME, publish
from support.waiting import wait_for

AUDIO = b"RIFF" + bytes(range(256)) * 4000  # more than is read at a time
DIGEST = hashlib.sha256(AUDIO).hexdigest()
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PATH = str(NAME)
TOLD = {"from": "1001", "caller_id_name": "Jörg & 李", "cost": float("nan")}
METADATA = json.dumps(TOLD, ensure_ascii=False).encode()


@pytest.fixture
def storage(tmp_path) -> Storage:
    return open_storage(str(tmp_path / "recordings"))


@pytest.fixture
def catalog(tmp_path) -> Iterator[Catalog]:
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.sqlite")
    yield catalog
    catalog.close()


def store(storage: Storage, data: bytes = AUDIO, name: RecordingName = NAME, metadata=METADATA):
    """Publish a recording and return the event that the queue would hold."""
    stored = publish(storage, data, name, metadata=metadata)
    with closing(storage.open(stored.path)) as recording:
        return Event(stored.path, recording.etag, str(stored.outcome), 1_800_000_000.25)


def work(kind: str, storage: Storage, catalog: Catalog | None = None, **settings: str):
    """The work of one kind that settings ask for, parsed as those of a real receiver are."""
    return kinds(config.load(settings), storage, catalog)[kind]


def read(storage: Storage, path: str) -> bytes:
    with closing(storage.open(path)) as recording:
        return recording.file.read()


class TestKinds:
    def test_no_settings_ask_for_nothing(self, storage):
        assert kinds(config.load({}), storage, None) == {}

    def test_kinds_come_in_order(self, storage):
        settings = {
            "TRANSCRIBE_URL": "http://127.0.0.1/",
            "WEBHOOK_URL": "https://example.com/",
            "WEBHOOK_SECRET": SECRET,
            "ON_STORED": "true",
            "CHECKSUMS": "yes",
        }
        found = kinds(config.load(settings), storage, None)
        assert list(found) == ["checksum", "command", "webhook", "transcription"]

    @pytest.mark.parametrize("secret", ["", "whsec_", "whsec_no base64!"])
    def test_webhook_needs_a_secret(self, storage, secret):
        with pytest.raises(SettingError, match="KZR_WEBHOOK_SECRET"):
            work("webhook", storage, WEBHOOK_URL="https://example.com/", WEBHOOK_SECRET=secret)

    @pytest.mark.parametrize(
        ("kind", "settings"),
        [
            ("checksum", {"CHECKSUMS": "yes"}),
            ("command", {"ON_STORED": "false"}),
            ("webhook", {"WEBHOOK_URL": "http://127.0.0.1:1/", "WEBHOOK_SECRET": SECRET}),
            ("transcription", {"TRANSCRIBE_URL": "http://127.0.0.1:1/"}),
        ],
    )
    def test_a_recording_that_is_gone_is_no_failure(self, storage, kind, settings):
        event = store(storage)
        storage.delete(PATH)
        assert work(kind, storage, **settings)(event) == "the recording is gone"
        store(storage, b"others have the name")
        assert work(kind, storage, **settings)(event) == "the recording is gone"

    def test_a_recording_that_is_superseded_in_the_middle_is_tried_again(self, storage):
        event = store(storage)

        def supersede_first(event: Event) -> str:
            store(storage, b"another")
            storage.attach(event.path, "txt", b"text", event.etag)
            return "done"

        with pytest.raises(NotStored):
            hooks._unless_gone(storage, supersede_first, event)

    @pytest.mark.parametrize(
        ("kind", "settings"),
        [
            ("checksum", {"CHECKSUMS": "yes"}),
            ("command", {"ON_STORED": "true"}),
            ("webhook", {"WEBHOOK_URL": "http://127.0.0.1:1/", "WEBHOOK_SECRET": SECRET}),
        ],
    )
    def test_metadata_of_other_bytes_is_not_taken_for_its_own(
        self, storage, monkeypatch, kind, settings
    ):
        event = store(storage)
        read = hooks.read_metadata

        def supersede_first(storage, path):
            monkeypatch.setattr(hooks, "read_metadata", read)
            store(storage, b"another", metadata=b'{"from": "another"}')
            return read(storage, path)

        monkeypatch.setattr(hooks, "read_metadata", supersede_first)
        with pytest.raises(NotStored):
            work(kind, storage, **settings)(event)
        assert read_metadata(storage, PATH) == {"from": "another"}


class TestChecksum:
    def test_it_is_in_the_metadata_with_all_else(self, storage):
        event = store(storage, metadata=b'{\n "from": "1001"\n}\n')
        assert work("checksum", storage, CHECKSUMS="yes")(event) == DIGEST
        expected = f'{{\n "from": "1001",\n "sha256": "{DIGEST}"\n}}\n'
        assert read(storage, sidecar(PATH, "json")) == expected.encode()

    def test_it_is_there_without_other_metadata(self, storage):
        event = store(storage, metadata=b"")
        work("checksum", storage, CHECKSUMS="yes")(event)
        assert read_metadata(storage, PATH) == {"sha256": DIGEST}

    def test_what_the_sender_told_does_not_count(self, storage):
        event = store(storage, metadata=b'{"sha256": "0"}')
        work("checksum", storage, CHECKSUMS="yes")(event)
        assert read_metadata(storage, PATH) == {"sha256": DIGEST}

    @pytest.mark.parametrize("text", [b"[1]", b"{", b"no JSON"])
    def test_metadata_that_cannot_be_read_is_not_overwritten(self, storage, text):
        event = store(storage, metadata=text)
        with pytest.raises(HookFailed, match="left as it is"):
            work("checksum", storage, CHECKSUMS="yes")(event)
        assert read(storage, sidecar(PATH, "json")) == text

    def test_a_superseded_recording_gets_its_own(self, storage):
        event = store(storage)
        newer = store(storage, b"newer", metadata=b"")
        assert newer.outcome == "superseded"
        work("checksum", storage, CHECKSUMS="yes")(event)
        assert read_metadata(storage, numbered(PATH, 1))["sha256"] == DIGEST
        assert read_metadata(storage, PATH) == {}

    def test_the_catalog_knows_it(self, storage, catalog):
        event = store(storage)
        work("checksum", storage, catalog, CHECKSUMS="yes")(event)
        assert catalog.get(PATH).sha256 == DIGEST
        assert catalog.get(PATH).caller_name == TOLD["caller_id_name"]

    def test_a_catalog_that_is_down_is_tried_again(self, storage, tmp_path):
        catalog = Catalog(f"sqlite:///{tmp_path}/missing/catalog.sqlite")
        event = store(storage)
        with pytest.raises(CatalogUnavailable):
            work("checksum", storage, catalog, CHECKSUMS="yes")(event)
        (tmp_path / "missing").mkdir()
        work("checksum", storage, catalog, CHECKSUMS="yes")(event)
        assert catalog.get(PATH).sha256 == DIGEST
        catalog.close()

    def test_what_other_work_attaches_meanwhile_is_in_the_catalog(self, storage, catalog):
        event = store(storage)

        class Meanwhile:
            """Another worker attaches, and tells the catalog, before this one's row is added."""

            def add(self, found):
                if catalog.get(PATH) is None:
                    storage.attach(PATH, "txt", b"hello\n", event.etag)
                    hooks.refresh(storage, catalog, PATH)
                catalog.add(found)

        hooks.refresh(storage, Meanwhile(), PATH)
        assert catalog.get(PATH).transcript == "hello\n"


def is_running(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


class TestCommand:
    def script(self, tmp_path: Path, text: str) -> str:
        path = tmp_path / "hook"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def run(self, storage, tmp_path, text: str, event=None) -> str:
        script = self.script(tmp_path, text)
        return work("command", storage, ON_STORED=script)(event or store(storage))

    def test_it_knows_the_recording(self, storage, tmp_path):
        text = (
            'sha256sum < "$RECORDING_PATH"; echo "$RECORDING_NAME"; echo "$RECORDING_OUTCOME"; '
            f'echo "$RECORDING_PATH"; printf %s "$RECORDING_METADATA" > {tmp_path}/told'
        )
        noted = self.run(storage, tmp_path, text)
        path = tmp_path / "recordings" / PATH
        assert noted == f"exit status 0: {DIGEST}  - / {PATH} / created / {path}"
        told = json.loads((tmp_path / "told").read_text())
        assert told == TOLD | {"cost": "NaN"}

    def test_elsewhere_it_gets_a_copy_that_goes_with_it(self, tmp_path):
        storage = open_storage(f"sqlite:///{tmp_path}/recordings.sqlite")
        noted = self.run(storage, tmp_path, 'sha256sum < "$RECORDING_PATH"; echo "$RECORDING_PATH"')
        storage.engine.dispose()
        digest, path = noted.removeprefix("exit status 0: ").split(" / ")
        assert digest == f"{DIGEST}  -"
        assert path.endswith(".mp3") and not Path(path).exists()

    def test_arguments_are_no_shell(self, storage):
        noted = work("command", storage, ON_STORED="echo '$HOME; ls' \"two  spaces\"")(
            store(storage)
        )
        assert noted == "exit status 0: $HOME; ls two  spaces"

    def test_secrets_stay_here(self, storage, tmp_path, monkeypatch):
        for name in ("KZR_WRITERS", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_KEY", "PGPASSWORD"):
            monkeypatch.setenv(name, "user:hunter2")
        monkeypatch.setenv("HARMLESS", "known")
        self.run(storage, tmp_path, f"env > {tmp_path}/environment")
        environment = (tmp_path / "environment").read_text()
        assert "hunter2" not in environment
        assert "HARMLESS=known" in environment

    def test_large_metadata_fits(self, storage, tmp_path):
        deep = b'{"deep": ' + b"[" * 400 + b"]" * 400 + b', "long": "' + b"x" * 60_000 + b'"}'
        event = store(storage, metadata=deep)
        noted = self.run(storage, tmp_path, 'printf %s "$RECORDING_METADATA" | wc -c', event)
        assert int(noted.split()[-1]) > 60_000

    def test_a_failure_tells_the_last_line(self, storage, tmp_path):
        with pytest.raises(HookFailed, match=r"^exit status 3: no space$"):
            self.run(storage, tmp_path, "echo begin; echo no space >&2; exit 3")
        with pytest.raises(HookFailed, match=r"^exit status 4$"):
            self.run(storage, tmp_path, "exit 4")
        with pytest.raises(HookFailed, match=r"^killed by signal 9$"):
            self.run(storage, tmp_path, "kill -9 $$")

    def test_what_it_says_cannot_forge_lines_of_the_log(self, storage, tmp_path):
        noted = self.run(storage, tmp_path, r"printf 'one\r\n\033[31mtwo\n\377'")
        assert noted == "exit status 0: one / ?[31mtwo / \ufffd"

    @pytest.mark.parametrize(
        ("mode", "reason"),
        [(None, "No such file"), (0o644, "Permission denied"), (0o755, "Exec format error")],
    )
    def test_a_command_that_cannot_run_is_named(self, storage, tmp_path, mode, reason):
        path = tmp_path / "hook"
        if mode:
            path.write_text("no program\n")
            path.chmod(mode)
        with pytest.raises(HookFailed, match=f"^cannot run {path}: {reason}"):
            work("command", storage, ON_STORED=f"{path} --option")(store(storage))

    def test_its_time_ends_with_all_that_it_started(self, storage, tmp_path, monkeypatch):
        monkeypatch.setattr(hooks, "COMMAND_SECONDS", 1)
        begin = time.monotonic()
        with pytest.raises(HookFailed, match="still ran after 1 seconds.*: waiting"):
            self.run(
                storage, tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; echo waiting; sleep 60"
            )
        assert 1 <= time.monotonic() - begin < 10
        child = int((tmp_path / "child").read_text())
        wait_for(lambda: not is_running(child))

    def test_what_it_leaves_in_the_background_ends_with_it(self, storage, tmp_path):
        begin = time.monotonic()
        noted = self.run(storage, tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; echo done")
        assert noted == "exit status 0: done"
        assert time.monotonic() - begin < 10
        child = int((tmp_path / "child").read_text())
        wait_for(lambda: not is_running(child))

    def test_endless_output_takes_no_memory(self, storage, tmp_path, monkeypatch):
        monkeypatch.setattr(hooks, "COMMAND_SECONDS", 1)
        tails = []
        watch = hooks._watch
        monkeypatch.setattr(
            hooks, "_watch", lambda process: tails.append(watch(process)) or tails[0]
        )
        with pytest.raises(HookFailed, match="still ran after 1 seconds"):
            self.run(storage, tmp_path, "yes endless")
        assert len(tails[0][1]) == hooks.TAIL

    def test_all_of_the_end_of_long_output_is_kept(self, storage, tmp_path):
        noted = self.run(storage, tmp_path, "seq 100000")
        assert noted.startswith("exit status 0: ") and noted.endswith("/ 99999 / 100000")
        assert len(noted) < 2 * hooks.TAIL

    def test_closed_output_is_not_the_end(self, storage, tmp_path):
        assert self.run(storage, tmp_path, "exec >&- 2>&-; sleep 0.3") == "exit status 0"


class Handler(BaseHTTPRequestHandler):
    """Notes requests, and answers as `server.answer` says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(
            SimpleNamespace(path=self.path, headers=self.headers, body=body)
        )
        self.server.answer(self)

    def log_message(self, *args) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request, client_address) -> None:
        pass  # clients hang up where they have waited enough


@contextmanager
def serving(answer=None, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"):
    """A web server; `answer` is a status, or is called to answer."""
    if not callable(answer):
        status = answer or 204
        answer = partial(reply, status=status)
    kind = type(
        "Server",
        (QuietServer,),
        {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET},
    )
    server = kind((host, 0), Handler)
    server.requests, server.answer = [], answer
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.authority = f"{f'[{host}]' if ':' in host else host}:{server.server_port}"
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if status != 204:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def tell(storage, url: str, event: Event | None = None, **settings: str) -> str:
    known = {"WEBHOOK_URL": url, "WEBHOOK_SECRET": SECRET, "WEBHOOK_ALLOW_PRIVATE": "yes"}
    return work("webhook", storage, **known | settings)(event or store(storage))


class TestWebhook:
    def test_an_independent_library_verifies_it(self, storage):
        event = store(storage)
        with serving() as server:
            tell(
                storage, f"http://{server.authority}/a?b=c", event, PUBLIC_URL="https://r.example/"
            )
        (request,) = server.requests
        assert request.path == "/a?b=c"
        assert request.headers["Host"] == server.authority
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["webhook-id"] == event.id
        assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
        assert Verifier(SECRET).verify(request.body, dict(request.headers)) == {
            "type": "recording.stored",
            "timestamp": "2027-01-15T08:00:00.250Z",
            "data": {
                "name": PATH,
                "url": "https://r.example/kzr/ACCOUNT/USER/call_recording_abc@10.0.0.1.mp3",
                "size": len(AUDIO),
                "sha256": DIGEST,
                "received": "2027-01-15T08:00:00.250Z",
                "superseded_is_kept_as": None,
                "metadata": TOLD | {"cost": "NaN"},
            },
        }
        with pytest.raises(WebhookVerificationError):
            Verifier(SECRET).verify(request.body + b" ", dict(request.headers))

    def test_signature_is_that_of_the_published_example(self):
        signature = sign(
            key_of(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}'
        )
        assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

    def test_any_text_is_a_secret(self, storage):
        with serving() as server:
            tell(storage, f"http://{server.authority}/", WEBHOOK_SECRET="correct horse")
        (request,) = server.requests
        assert Verifier(b"correct horse").verify(request.body, dict(request.headers))

    def test_a_retry_has_the_same_id(self, storage):
        event = store(storage)
        with serving() as server:
            for _ in range(2):
                tell(storage, f"http://{server.authority}/", event)
        assert len({each.headers["webhook-id"] for each in server.requests}) == 1

    def test_superseding_is_told(self, storage):
        store(storage, b"older")
        with serving() as server:
            tell(storage, f"http://{server.authority}/")
        assert json.loads(server.requests[0].body)["type"] == "recording.superseded"

    def test_a_recording_that_was_superseded_has_its_own_facts_and_no_url(self, storage):
        event = store(storage)
        store(storage, b"newer", metadata=b"")
        with serving() as server:
            tell(storage, f"http://{server.authority}/", event, PUBLIC_URL="https://r.example")
        data = json.loads(server.requests[0].body)["data"]
        assert data["name"] == numbered(PATH, 1)
        assert (data["url"], data["sha256"]) == (None, DIGEST)
        assert data["metadata"]["from"] == "1001"

    @pytest.mark.parametrize("prefix", ["/kzr", ""])
    def test_the_url_is_where_the_recording_is(self, start, prefix):
        receiver = start(url_prefix=prefix, readers="kazoo:secret")
        receiver.put("/ACCOUNT/call_recording_a%2Fb%20c@10.0.0.1..mp3", b"audio")
        (path,) = [path for path in receiver.stored() if not path.startswith(".")]
        storage = open_storage(str(receiver.storage))
        with closing(storage.open(path)) as recording:
            event = Event(path, recording.etag, "created", 0.0)
        with serving() as server:
            public = {"PUBLIC_URL": f"http://127.0.0.1:{receiver.port}", "URL_PREFIX": prefix}
            tell(storage, f"http://{server.authority}/", event, **public)
        url = json.loads(server.requests[0].body)["data"]["url"]
        target = url.removeprefix(f"http://127.0.0.1:{receiver.port}")
        headers = {"Authorization": f"Basic {base64.b64encode(b'kazoo:secret').decode()}"}
        assert receiver.request("GET", target, headers=headers).body == b"audio"

    @pytest.mark.parametrize("status", [200, 201, 204, 299])
    def test_success_is_2xx(self, storage, status):
        with serving(status) as server:
            assert tell(storage, f"http://{server.authority}/") == ""

    @pytest.mark.parametrize("status", [400, 404, 408, 410, 429, 500, 503])
    def test_all_else_is_tried_again(self, storage, status):
        answer = partial(reply, status=status, body=b"why\nmore")
        with serving(answer) as server:
            with pytest.raises(HookFailed, match=f"^it answered {status}: why$"):
                tell(storage, f"http://{server.authority}/")

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_redirects_are_not_followed(self, storage, status):
        with serving() as elsewhere:
            location = f"http://{elsewhere.authority}/"
            answer = partial(reply, status=status, Location=location)
            with serving(answer) as server:
                with pytest.raises(HookFailed, match=f"{status}: redirects are not followed"):
                    tell(storage, f"http://{server.authority}/")
        assert not elsewhere.requests

    def test_an_early_answer_is_heard(self, storage):
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:

            def refuse() -> None:
                with closing(listener.accept()[0]) as sock:
                    sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                    sock.shutdown(socket.SHUT_WR)
                    time.sleep(0.2)

            thread = threading.Thread(target=refuse)
            thread.start()
            parts = (b"x" * 65536 for _ in range(1000))
            with pytest.raises(HookFailed, match=r"^it answered 413"):
                webhook.post(
                    f"http://127.0.0.1:{listener.getsockname()[1]}/",
                    {"Content-Length": str(65536 * 1000)},
                    parts,
                    seconds=20,
                    longest=100,
                    allow_private=True,
                )
            thread.join()

    def test_nobody_answers(self, storage):
        with pytest.raises(HookFailed, match="no answer: cannot connect.*refused"):
            tell(storage, f"http://127.0.0.1:{free_port()}/")
        with pytest.raises(HookFailed, match="no answer: "):
            tell(storage, "http://no-such-host.invalid/")

    def test_a_slow_server_is_given_up(self, storage, monkeypatch):
        monkeypatch.setattr(webhook, "ANSWER_SECONDS", 1)
        stop = threading.Event()
        with serving(lambda handler: stop.wait(20)) as server:
            begin = time.monotonic()
            with pytest.raises(HookFailed, match="no whole answer within 1 seconds"):
                tell(storage, f"http://{server.authority}/")
            assert time.monotonic() - begin < 5
            stop.set()

    def test_an_answer_may_take_longer_than_a_connection(self, storage, monkeypatch):
        monkeypatch.setattr(webhook, "CONNECT_SECONDS", 0.2)

        def think(handler) -> None:
            time.sleep(0.6)
            reply(handler, 204)

        with serving(think) as server:
            tell(storage, f"http://{server.authority}/")

    def test_a_server_that_drips_is_given_up(self, storage, monkeypatch):
        monkeypatch.setattr(webhook, "ANSWER_SECONDS", 1)

        def drip(handler) -> None:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.1)

        with serving(drip) as server:
            begin = time.monotonic()
            with pytest.raises(HookFailed, match="no whole answer within 1 seconds"):
                tell(storage, f"http://{server.authority}/")
            assert time.monotonic() - begin < 5

    def test_credentials_of_the_url_are_sent(self, storage):
        with serving() as server:
            tell(storage, f"http://user:p%40ss@{server.authority}/")
        expected = base64.b64encode(b"user:p@ss").decode()
        assert server.requests[0].headers["Authorization"] == f"Basic {expected}"

    @pytest.mark.parametrize(
        ("url", "host"),
        [
            ("http://127.0.0.1:{port}/", "127.0.0.1"),
            ("http://localhost:{port}/", "127.0.0.1"),
            ("http://LOCALHOST:{port}/", "127.0.0.1"),
            ("http://[::ffff:127.0.0.1]:{port}/", "127.0.0.1"),
            ("http://0.0.0.0:{port}/", "127.0.0.1"),
            ("http://2130706433:{port}/", "127.0.0.1"),
            ("http://0x7f.1:{port}/", "127.0.0.1"),
            ("http://[::1]:{port}/", "::1"),
            ("http://[::]:{port}/", "::1"),
        ],
    )
    def test_private_addresses_are_refused_unless_allowed(self, storage, url, host):
        try:
            server_context = serving(host=host)
            with server_context as server:
                url = url.format(port=server.server_port)
                with pytest.raises(HookFailed, match="is no public address"):
                    tell(storage, url, WEBHOOK_ALLOW_PRIVATE="no")
                assert not server.requests
                tell(storage, url)
                assert len(server.requests) == 1
        except OSError as error:  # of the server, on a machine without IPv6
            if ":" not in host or os.environ.get("CI") == "true":
                raise
            pytest.skip(str(error))

    def test_a_name_is_looked_up_once(self, storage, monkeypatch):
        """Whoever answers for a name might tell a public address first, and a private one then."""
        real = socket.getaddrinfo
        asked = []

        def rebind(host, *args, **options):
            asked.append(host)
            return real("203.0.113.1" if len(asked) == 1 else host, *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", rebind)
        monkeypatch.setattr(webhook, "is_public", lambda address: address == "203.0.113.1")
        monkeypatch.setattr(webhook, "CONNECT_SECONDS", 0.2)
        with serving() as server:
            with pytest.raises(HookFailed, match="no answer"):
                url = f"http://localhost:{server.server_port}/"
                tell(storage, url, WEBHOOK_ALLOW_PRIVATE="no")
            assert not server.requests
        assert asked == ["localhost"]

    def test_tls_is_verified_for_the_name(self, storage, tmp_path, monkeypatch):
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        command = f"{need('openssl')} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test"
        command += f" -addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}"
        subprocess.run(command.split(), check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        with serving(context=context) as server:
            with pytest.raises(HookFailed, match="(?i)certificate"):
                tell(storage, f"https://localhost:{server.server_port}/")
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            tell(storage, f"https://localhost:{server.server_port}/")
            assert len(server.requests) == 1
            with pytest.raises(HookFailed, match="(?i)certificate"):
                tell(storage, f"https://127.0.0.1:{server.server_port}/")
            assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("ff0e::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::7f00:1", False),
        ("2001:db8::1", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) is public


SENTENCES = [
    "the meeting is on monday at nine in the morning",
    "please call me back as soon as possible",
    "i would like to speak with the manager about my bill",
]


def transcribe(storage, url: str, event: Event, catalog=None, **settings: str) -> str:
    return work("transcription", storage, catalog, TRANSCRIBE_URL=url, **settings)(event)


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


@pytest.fixture(scope="module")
def call(tmp_path_factory) -> bytes:
    """A recording of the sentences."""
    path = tmp_path_factory.mktemp("speech") / "call.wav"
    say(SENTENCES, path)
    return path.read_bytes()


class TestTranscription:
    def test_speech_is_transcribed_with_its_times(self, storage, catalog, call):
        event = store(storage, call, RecordingName("ACCOUNT", "abc", "wav"))
        with SpeechServer() as server:
            noted = transcribe(storage, server.url, event, catalog, TRANSCRIBE_KEY="sk-1")
        (upload,) = server.uploads
        assert upload.authorization == "Bearer sk-1"
        assert upload.fields == {"model": "whisper-1", "response_format": "verbose_json"}
        assert (upload.filename, upload.content_type) == ("recording.wav", "audio/x-wav")
        assert upload.size == len(call)

        text = read(storage, "ACCOUNT/abc.wav.txt").decode()
        assert text.endswith("\n") and noted == f"{len(text.split())} words"
        said = " ".join(SENTENCES).split()
        assert sum(word in text.split() for word in said) >= 0.9 * len(said), text

        head, *cues = read(storage, "ACCOUNT/abc.wav.vtt").decode().split("\n\n")
        assert head == "WEBVTT" and len(cues) == len(SENTENCES)
        times = [cue.splitlines()[0].split(" --> ") for cue in cues]
        begins = [seconds(begin) for begin, _ in times]
        ends = [seconds(end) for _, end in times]
        for end, begin in zip(ends, begins[1:], strict=False):
            assert PAUSE - 0.5 < begin - end < PAUSE + 0.5
        assert " ".join(cue.splitlines()[1] for cue in cues) == text.strip()

        assert catalog.get("ACCOUNT/abc.wav").transcript == text
        (found,) = catalog.search(Query("manager monday")).recordings
        assert found.path == "ACCOUNT/abc.wav"

    def test_a_server_without_times_gives_the_text(self, storage, call):
        event = store(storage, call, RecordingName("", "abc", "wav"))
        with SpeechServer(plain=True) as server:
            transcribe(storage, server.url, event, TRANSCRIBE_MODEL="small")
        assert server.uploads[0].fields["model"] == "small"
        assert server.uploads[0].authorization is None
        assert b"monday" in read(storage, "abc.wav.txt")
        with pytest.raises(NotStored):
            storage.open("abc.wav.vtt")

    def test_silence_is_not_tried_again(self, storage, tmp_path):
        path = tmp_path / "silence.wav"
        command = [need("sox"), "-n", "-r", "8000", "-b", "16", str(path), "trim", "0", "2"]
        subprocess.run(command, check=True)
        event = store(storage, path.read_bytes(), RecordingName("", "abc", "wav"))
        with SpeechServer() as server:
            assert transcribe(storage, server.url, event) == "nothing is said in it"
        assert len(server.uploads) == 1
        with pytest.raises(NotStored):
            storage.open("abc.wav.txt")

    @pytest.mark.parametrize("extension", ["pdf", "tif", "txt", "json"])
    def test_what_is_no_audio_is_not_sent(self, storage, extension):
        event = store(storage, AUDIO, RecordingName("", "abc", extension))
        with serving() as server:
            url = f"http://{server.authority}/"
            assert transcribe(storage, url, event) == "it is no audio"
            empty = store(storage, b"", RecordingName("", "empty", "mp3"))
            assert transcribe(storage, url, empty) == "it is no audio"
        assert not server.requests

    @pytest.mark.parametrize(("start", "name"), [(b"RIFF", "wav"), (b"ID3\3", "mp3")])
    def test_a_recording_without_an_extension_is_sent_whole_with_one(self, storage, start, name):
        event = store(storage, start + AUDIO, RecordingName("", "abc", ""))
        answer = partial(reply, status=200, body=b'{"text": "hi"}')
        with serving(answer) as server:
            transcribe(storage, f"http://{server.authority}/", event)
        (request,) = server.requests
        assert f'filename="recording.{name}"'.encode() in request.body
        assert b"\r\n\r\n" + start + AUDIO + b"\r\n--" in request.body
        assert read(storage, "abc~.txt") == b"hi\n"

    def test_it_is_never_whole_in_memory(self, storage, monkeypatch):
        event = store(storage, b"x" * 5_000_000)
        sizes = []
        parts = transcription._parts

        def note(*args):
            for part in parts(*args):
                sizes.append(len(part))
                yield part

        monkeypatch.setattr(transcription, "_parts", note)
        answer = partial(reply, status=200, body=b'{"text": "hi"}')
        with serving(answer) as server:
            transcribe(storage, f"http://{server.authority}/", event)
        assert sum(sizes) == len(server.requests[0].body) > 5_000_000
        assert max(sizes) <= hooks.CHUNK

    @pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"text": 1}', b'"text"', b"{}"])
    def test_an_answer_that_is_no_transcript_is_tried_again(self, storage, answer):
        event = store(storage)
        with serving(lambda handler: reply(handler, 200, answer)) as server:
            with pytest.raises(HookFailed, match="something else than a transcript"):
                transcribe(storage, f"http://{server.authority}/", event)
        with pytest.raises(NotStored):
            storage.open(f"{PATH}.txt")

    def test_a_server_that_fails_is_tried_again(self, storage):
        event = store(storage)
        with serving(lambda handler: reply(handler, 500, b"no model")) as server:
            with pytest.raises(HookFailed, match="it answered 500: no model"):
                transcribe(storage, f"http://{server.authority}/", event)

    def test_texts_cannot_break_the_times(self, storage):
        event = store(storage)
        segments = [
            {"start": 3600, "end": 3661.0005, "text": " last "},
            {"start": 0, "end": 0, "text": "a --> b\n\n00:00:01.000 <b>&amp;</b>"},
            {"start": 1.5, "end": 2.25, "text": "  "},
        ]
        body = json.dumps({"text": " a\ud800 ", "segments": segments}).encode()
        with serving(lambda handler: reply(handler, 200, body)) as server:
            transcribe(storage, f"http://{server.authority}/", event)
        assert read(storage, f"{PATH}.txt") == b"a?\n"
        assert read(storage, f"{PATH}.vtt").decode() == (
            "WEBVTT\n\n"
            "00:00:00.000 --> 00:00:00.001\n"
            "a --&gt; b 00:00:01.000 &lt;b&gt;&amp;amp;&lt;/b&gt;\n\n"
            "01:00:00.000 --> 01:01:01.000\nlast\n"
        )

    @pytest.mark.parametrize(
        "segments",
        [
            None,
            [],
            "text",
            [1],
            [{"start": 0, "text": "a"}],
            [{"start": None, "end": 1, "text": "a"}],
            [{"start": 0, "end": float("nan"), "text": "a"}],
            [{"start": 0, "end": float("inf"), "text": "a"}],
            [{"start": -1, "end": 1, "text": "a"}],
            [{"start": 2, "end": 1, "text": "a"}],
            [{"start": 0, "end": 1, "text": 5}],
            {"start": 0},
        ],
    )
    def test_times_that_cannot_be_used_cost_no_text(self, storage, segments):
        event = store(storage)
        body = json.dumps({"text": "a", "segments": segments}).encode()
        with serving(lambda handler: reply(handler, 200, body)) as server:
            transcribe(storage, f"http://{server.authority}/", event)
        assert read(storage, f"{PATH}.txt") == b"a\n"
        with pytest.raises(NotStored):
            storage.open(f"{PATH}.vtt")


class TestAttached:
    """What work leaves beside a recording in a directory."""

    def test_files_lie_beside_the_recording_and_go_with_it(self, storage, tmp_path):
        event = store(storage)
        body = b'{"text": "hi", "segments": [{"start": 0, "end": 1, "text": "hi"}]}'
        with serving(lambda handler: reply(handler, 200, body)) as server:
            transcribe(storage, f"http://{server.authority}/", event)
        work("checksum", storage, CHECKSUMS="yes")(event)
        folder = tmp_path / "recordings" / NAME.folder
        beside = [f"{NAME.filename}{ending}" for ending in ("", ".json", ".txt", ".vtt")]
        assert sorted(os.listdir(folder)) == beside
        assert [listed.path for listed in storage.scan()] == [PATH]

        store(storage, b"newer", metadata=b"")
        kept = Path(numbered(PATH, 1)).name
        moved = [f"{kept}{ending}" for ending in ("", ".json", ".txt", ".vtt")]
        assert sorted(os.listdir(folder)) == sorted([NAME.filename, *moved])
        storage.delete(numbered(PATH, 1))
        assert os.listdir(folder) == [NAME.filename]

    def test_nothing_is_attached_to_other_bytes(self, storage):
        event = store(storage)
        store(storage, b"newer", metadata=b"")
        with pytest.raises(NotStored):
            storage.attach(PATH, "txt", b"hi\n", event.etag)
        with pytest.raises(NotStored):
            storage.open(f"{PATH}.txt")
