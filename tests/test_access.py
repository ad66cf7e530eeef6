"""Who may write: credentials, networks, proxies."""

import base64

import pytest
from flask import Flask
from werkzeug.security import generate_password_hash

from receiver import create_app
from receiver.access import Access, ClientAddress
from support.receivers import Receiver

TARGET = "/kzr/call_recording_X.mp3"


def basic(credentials: str | bytes) -> dict[str, str]:
    data = credentials.encode() if isinstance(credentials, str) else credentials
    return {"Authorization": f"Basic {base64.b64encode(data).decode()}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    hashed = generate_password_hash("hashed:secret", "pbkdf2:sha256:1000")
    server = Receiver(
        tmp_path_factory.mktemp("guarded"), writers=f"kazoo:p%40ss jörg:über fs:{hashed}"
    )
    yield server
    server.stop()


@pytest.mark.parametrize("credentials", ["kazoo:p%40ss", "jörg:über", "fs:hashed:secret"])
def test_writer_may_write(guarded: Receiver, credentials):
    assert guarded.put(TARGET, headers=basic(credentials)).status in (200, 201)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("kazoo:wrong"),
        basic("kazoo:"),
        basic("kazoo:p@ss"),
        basic("nobody:p%40ss"),
        basic("nobody:hashed:secret"),
        basic("fs:wrong"),
        basic(b"kazoo:\xff\xfe"),
        basic("kazoo"),
        basic(""),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Bearer p%40ss"},
    ],
)
def test_others_may_not(guarded: Receiver, headers):
    guarded.clear()
    answer = guarded.put(TARGET, headers=headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="recordings", charset="UTF-8"'
    assert answer.line.startswith(("credentials are missing: ", "the user or the secret is wrong"))
    assert guarded.stored() == {}


def test_refused_sender_that_reads_last_sees_the_status(guarded: Receiver):
    head = b"PUT /kzr/X.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"
    assert guarded.raw(head + bytes(3_000_000)).status == 401


def test_secrets_are_not_logged(guarded: Receiver):
    guarded.put(TARGET, headers=basic("kazoo:p%40ss"))
    guarded.put(TARGET, headers=basic("kazoo:wrong"))
    assert "p%40ss" not in guarded.log and "kazoo:" not in guarded.log


READ_BACK = [
    ("01abc", ["01abc", "1abc"], ["abc", "001abc", "0abc", "11abc", "1abd", "1", ""]),
    ("0012", ["0012", "12"], ["012", "1", "2", "0"]),
    ("00x", ["00x", "0x"], ["x", "000x"]),
    ("0x", ["0x"], ["x", "00x"]),
    ("000", ["000", "0"], ["00", ""]),
    ("10", ["10"], ["010", "1", "0"]),
    ("x01", ["x01"], ["x1"]),
]


@pytest.mark.parametrize(("secret", "right", "wrong"), READ_BACK)
@pytest.mark.parametrize("colon", [":", ""])
def test_secret_may_lack_the_zeros_that_kazoo_drops_when_it_reads(secret, right, wrong, colon):
    """Its parser takes the digits before the rest for a port."""
    access = Access({}, (), readers={"kazoo": secret, "other": "secret"})

    def may_read(given: str) -> bool:
        if colon and given:
            return access._is_known_reader("kazoo", given)
        return access._is_known_reader(f"kazoo{given}", "")

    assert [each for each in [*right, *wrong] if may_read(each)] == right
    assert not access._is_known_reader("other", "1abc")


def test_hashed_secret_may_lack_one_zero():
    hashed = generate_password_hash("01abc", "pbkdf2:sha256:1000")
    access = Access({}, (), readers={"kazoo": hashed, "x": "y"})
    for given in ("01abc", "1abc"):
        assert access._is_known_reader("kazoo", given)
        assert access._is_known_reader(f"kazoo{given}", "")
    for given in ("abc", "001abc", "1abd", ""):
        assert not access._is_known_reader("kazoo", given or "-")
        assert not access._is_known_reader(f"kazoo{given}", "")


def test_refusal_checks_as_many_hashes_whoever_is_named(monkeypatch):
    checks = []

    def check(expected: str, secret: str) -> bool:
        checks.append(secret)
        return False

    monkeypatch.setattr("receiver.access.check_password_hash", check)
    readers = {"hash": "scrypt:32768:8:1$salt$hash", "plain": "01abc"}
    for secret, count in (("wrong", 1), ("1wrong", 2)):
        for user in ("hash", "plain", "nobody"):
            checks.clear()
            assert not Access({}, (), readers=readers)._is_known_reader(user, secret)
            assert len(checks) == count


def test_writer_needs_the_very_secret(tmp_path):
    app = create_app({"STORAGE": str(tmp_path), "WRITERS": "kazoo:01abc"})
    assert put(app, "10.0.0.1", **basic("kazoo:1abc")) == 401
    assert put(app, "10.0.0.1", **basic("kazoo:01abc")) == 201


def put(app: Flask, address: str, **headers: str) -> int:
    environ = {"REMOTE_ADDR": address}
    return (
        app.test_client()
        .put(TARGET, data=b"x", environ_overrides=environ, headers=headers)
        .status_code
    )


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("10.1.2.3", 201),
        ("::ffff:10.1.2.3", 201),
        ("fd00::1", 201),
        ("192.0.2.1", 403),
        ("fe80::1", 403),
        ("", 403),
        ("10.1.2.3:41234", 201),
        ("[::ffff:10.1.2.3]:41234", 201),
        ("[fd00::1]", 201),
        ("[fd00::1]:443", 201),
        ("fd00::1%eth0", 201),
        ("fd00::1%20x y", 403),
        ("10.1.2.3%eth0", 403),
        ("10.1.2.3 x", 403),
        ("[fd00::1%25eth0]:443", 201),
        ("FD00:0:0:0:0:0:0:1", 201),
        ('"[fd00::1]:443"', 201),
        (" 10.1.2.3 ", 201),
        ("192.0.2.1:10", 403),
        ("10.1.2.3:x", 403),
        ("10.1.2.3:41234:1", 403),
        ("unknown", 403),
        ("_hidden", 403),
        ("010.1.2.3", 403),
        ("[fd00::1", 403),
    ],
)
def test_only_listed_networks_may_write(tmp_path, address, status):
    app = create_app({"STORAGE": str(tmp_path), "ALLOW_FROM": "10.0.0.0/8 fd00::/8"})
    assert put(app, address) == status


def test_forwarded_address_counts_only_from_trusted_proxies(tmp_path):
    settings = {"STORAGE": str(tmp_path), "ALLOW_FROM": "10.0.0.0/8"}
    spoofed = {"X-Forwarded-For": "10.1.2.3", "X-Real-IP": "10.1.2.3", "Forwarded": "for=10.1.2.3"}
    assert put(create_app(settings), "192.0.2.1", **spoofed) == 403
    proxied = create_app(settings | {"TRUSTED_PROXIES": "1"})
    assert put(proxied, "127.0.0.1", **{"X-Forwarded-For": "10.1.2.3"}) == 201
    assert put(proxied, "127.0.0.1", **{"X-Forwarded-For": "10.1.2.3, 192.0.2.1"}) == 403


@pytest.mark.parametrize("networks", ["::ffff:10.0.0.0/104", "10.0.0.0/8"])
@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "[::ffff:a01:203]:5"])
def test_networks_too_may_be_written_either_way(tmp_path, networks, address):
    app = create_app({"STORAGE": str(tmp_path), "ALLOW_FROM": networks})
    assert put(app, address) == 201
    assert put(app, "11.1.2.3") == 403


def test_forwarded_addresses_with_ports(tmp_path):
    settings = {"STORAGE": str(tmp_path), "ALLOW_FROM": "10.0.0.0/8 fd00::/8"}
    app = create_app(settings | {"TRUSTED_PROXIES": "1"})
    for forwarded in ("10.0.0.5:41234", "[fd00::1]:443", "192.0.2.1:9, 10.0.0.5:41234"):
        assert put(app, "127.0.0.1", **{"X-Forwarded-For": forwarded}) in (200, 201)
    for forwarded in ("192.0.2.1:41234", "10.0.0.5:1, 192.0.2.1:9", "unknown", "10.0.0.5 x"):
        assert put(app, "127.0.0.1", **{"X-Forwarded-For": forwarded}) == 403


@pytest.mark.parametrize("proxies", [1, 2])
@pytest.mark.parametrize(
    "sent",
    ['"', '"x', '10.9.9.9, "x', '10.9.9.9, "x\\', "10.9.9.9,", ',"', "\\", '""', "a=b;", "("],
)
def test_what_a_client_sends_as_forwarded_hides_no_address(tmp_path, proxies, sent):
    """Each proxy adds an address to what it was sent, and is itself in an allowed network."""
    settings = {"STORAGE": str(tmp_path), "ALLOW_FROM": "10.0.0.0/8"}
    app = create_app(settings | {"TRUSTED_PROXIES": str(proxies)})
    added = ", ".join(["", "192.0.2.1", "10.0.0.2"][: proxies + 1])
    assert put(app, "10.0.0.1", **{"X-Forwarded-For": sent + added}) == 403
    added = added.replace("192.0.2.1", "10.1.2.3")
    assert put(app, "192.0.2.9", **{"X-Forwarded-For": sent + added}) in (200, 201)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("10.0.0.5:41234", "10.0.0.5"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("[2001:DB8:0::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("unknown", "unknown"),
        ("x user=eve action=play", "x_user_eve_action_play"),
        ("10.0.0.5 x", "10.0.0.5_x"),
        ("10.0.0.5%20x", "10.0.0.5_20x"),
        ("fd00::1 x", "fd00::1_x"),
        ("fd00::1% x", "fd00::1__x"),
        ("10.0.0.5\n", "10.0.0.5"),
        ("x" * 1000, "x" * 64),
        ("", ""),
    ],
)
def test_address_is_one_word_in_one_spelling(given, plain):
    seen = []
    app = ClientAddress(lambda environ, start_response: seen.append(environ["REMOTE_ADDR"]) or [])
    app({"REMOTE_ADDR": given}, lambda *args: None)
    assert seen == [plain]


def test_network_and_credentials_are_both_needed_where_both_are_set(tmp_path):
    app = create_app(
        {"STORAGE": str(tmp_path), "ALLOW_FROM": "10.0.0.0/8", "WRITERS": "kazoo:secret"}
    )
    assert put(app, "10.1.2.3") == 401
    assert put(app, "192.0.2.1", **basic("kazoo:secret")) == 403
    assert put(app, "10.1.2.3", **basic("kazoo:secret")) == 201


def test_start_says_whether_writing_is_open(receiver: Receiver, guarded: Receiver):
    line = "anybody who reaches this server may write: set KZR_WRITERS or KZR_ALLOW_FROM"
    assert receiver.log.count(line) == 1
    assert line not in guarded.log
