"""Work after storing: webhooks, against real servers and an independent library."""

import base64
import json
import socket
import ssl
import subprocess
import threading
import time
from contextlib import closing
from functools import partial

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("standardwebhooks")

from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from receiver.jobs import client, webhook
from receiver.jobs.client import is_public
from receiver.jobs.event import Event, JobFailed
from receiver.jobs.webhook import key_of, sign
from receiver.storage import open_storage
from receiver.storage.paths import numbered
from support.hooks import AUDIO, DIGEST, PATH, SECRET, TOLD, store, work
from support.needs import need
from support.ports import free_port
from support.web import reply, serving


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
            with pytest.raises(JobFailed, match=f"^it answered {status}: why$"):
                tell(storage, f"http://{server.authority}/")

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_redirects_are_not_followed(self, storage, status):
        with serving() as elsewhere:
            location = f"http://{elsewhere.authority}/"
            answer = partial(reply, status=status, Location=location)
            with serving(answer) as server:
                with pytest.raises(JobFailed, match=f"{status}: redirects are not followed"):
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
            with pytest.raises(JobFailed, match=r"^it answered 413"):
                client.post(
                    f"http://127.0.0.1:{listener.getsockname()[1]}/",
                    {"Content-Length": str(65536 * 1000)},
                    parts,
                    seconds=20,
                    longest=100,
                    allow_private=True,
                )
            thread.join()

    def test_nobody_answers(self, storage):
        with pytest.raises(JobFailed, match="no answer: cannot connect.*refused"):
            tell(storage, f"http://127.0.0.1:{free_port()}/")
        with pytest.raises(JobFailed, match="no answer: "):
            tell(storage, "http://no-such-host.invalid/")

    def test_a_slow_server_is_given_up(self, storage, monkeypatch):
        monkeypatch.setattr(webhook, "ANSWER_SECONDS", 1)
        stop = threading.Event()
        with serving(lambda handler: stop.wait(20)) as server:
            begin = time.monotonic()
            with pytest.raises(JobFailed, match="no whole answer within 1 seconds"):
                tell(storage, f"http://{server.authority}/")
            assert time.monotonic() - begin < 5
            stop.set()

    def test_an_answer_may_take_longer_than_a_connection(self, storage, monkeypatch):
        monkeypatch.setattr(client, "CONNECT_SECONDS", 0.2)

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
            with pytest.raises(JobFailed, match="no whole answer within 1 seconds"):
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
                with pytest.raises(JobFailed, match="is no public address"):
                    tell(storage, url, WEBHOOK_ALLOW_PRIVATE="no")
                assert not server.requests
                tell(storage, url)
                assert len(server.requests) == 1
        except OSError as error:  # of the server, on a machine without IPv6
            if ":" not in host:
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
        monkeypatch.setattr(client, "is_public", lambda address: address == "203.0.113.1")
        monkeypatch.setattr(client, "CONNECT_SECONDS", 0.2)
        with serving() as server:
            with pytest.raises(JobFailed, match="no answer"):
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
            with pytest.raises(JobFailed, match="(?i)certificate"):
                tell(storage, f"https://localhost:{server.server_port}/")
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            tell(storage, f"https://localhost:{server.server_port}/")
            assert len(server.requests) == 1
            with pytest.raises(JobFailed, match="(?i)certificate"):
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
