"""What Kazoo 4.1 to master sends when it reads, on every storage and in every server."""

import re

import pytest

from support.clients import Client
from support.forms import TYPE, B, form
from support.paths import READ_BACK, WIRE
from support.reading import get, new_name, put
from support.wire import READER, captures, expected_body, request

ACCOUNT, OWNER = "4f8c2d6ba1e04be39c1d7f60a2b3c4d5", "aa11bb22cc33dd44ee55ff6600778899"
DOC, NAME = "202611-99ad89fdb3014631360857ac2e674c39", "bf2f2b1e1c4f4f0e9a3b5c6d7e8f9a0b.mp3"
CALL = "from=1001%40acme.example&caller_id_name=Alice%20Smith&call_id={n}%40h&account_id=" + ACCOUNT
RECORD_CALL = f"{CALL}&start=63868001222&duration_ms=12340&recording_id={DOC}"
# The document, which Kazoo 4.3 and later add to what they ask for.
TELLS = (
    f"name={NAME}&call_id={{n}}%40h&caller_id_name=Alice+Smith&media_type=mp3&"
    f"custom_channel_vars[Account-ID]={ACCOUNT}&custom_channel_vars[Media-Recording-ID]={DOC}&"
    f"url=http%3A%2F%2Fkazoo%3Asecret%40127.0.0.1%2Fkzr&id={DOC}"
)
GLUED = f"{ACCOUNT}/{OWNER}/{DOC}/{NAME}&{TELLS}"
PLAN, OWNED = f"{ACCOUNT}/{{n}}/{DOC}/{NAME}", f"{ACCOUNT}/{OWNER}/{{n}}{DOC}/{NAME}"
TEST = f"{ACCOUNT}/{{n}}/298c8096885ff0236484e5309521f2b8_test_credentials_file.txt"
GROUP = f"{ACCOUNT}/call_recording_{{n}}%40h.mp3"

# What stored a recording, and what reads it; {n} is its Call-ID.
READS = {
    "4.1": (f"call_recording_{{n}}%40h..mp3?{CALL}", f"call_recording_{{n}}%40h..mp3?{CALL}"),
    "4.1, record_call": (
        f"call_recording_{{n}}%40h.mp3?{CALL}",
        f"call_recording_{{n}}%40h.mp3?{CALL}",
    ),
    "4.2, record_call": (
        f"call_recording_{{n}}%40h.mp3?{RECORD_CALL}",
        f"call_recording_{{n}}%40h.mp3?{RECORD_CALL}",
    ),
    "4.3, record_call": (
        f"call_recording_{{n}}%40h.mp3?{RECORD_CALL}",
        f"call_recording_{{n}}%40h.mp3?{RECORD_CALL}{GLUED}",
    ),
    "4.3, endpoint, and master": (
        f"call_recording_{{n}}%40h..mp3?{CALL}",
        f"call_recording_{{n}}%40h..mp3?{CALL}{GLUED}",
    ),
    "no format": (f"call_recording_{{n}}%40h.?{CALL}", f"call_recording_{{n}}%40h.?{CALL}{GLUED}"),
    "an umlaut": (
        f"call_recording_{{n}}%C3%B6.mp3?{RECORD_CALL}",
        f"call_recording_{{n}}%C3%B6.mp3?{RECORD_CALL}{GLUED}",
    ),
    "base with a token": (
        f"?token=abc&recording=call_recording_{{n}}..mp3&{CALL}",
        f"?token=abc&recording=call_recording_{{n}}..mp3&{CALL}{GLUED}",
    ),
    "base ?recording=": (
        f"?recording=call_recording_{{n}}..mp3&{CALL}",
        f"?recording=call_recording_{{n}}..mp3&{CALL}{GLUED}",
    ),
    "base ?a": (
        f"?a=call_recording_{{n}}..mp3&{CALL}",
        f"?a=call_recording_{{n}}..mp3&{CALL}{GLUED}",
    ),
    "storage plan": (PLAN, f"{PLAN}/{PLAN}?{TELLS}"),
    "storage plan with an owner": (OWNED, f"{OWNED}/{OWNED}?{TELLS}"),
    "acceptance test": (TEST, f"{TEST}/{TEST}?att_uuid=0e9d&content=some+random&id={{n}}"),
    "field list: the attachment": ("{n}.mp3", f"{{n}}.mp3/{{n}}.mp3?{TELLS}"),
    "the same, master to a phone": ("{n}.mp3", f"{{n}}.mp3/{ACCOUNT}/{DOC}/{NAME}?{TELLS}"),
    "with an owner": ("{n}.mp3", f"{{n}}.mp3/{ACCOUNT}/{OWNER}/{DOC}/{NAME}?{TELLS}"),
    "field list: call_recording_": (GROUP, f"{GROUP}/{GROUP}?{TELLS}"),
    "that to a phone": (GROUP, f"{GROUP}/{ACCOUNT}/{DOC}/{NAME}?{TELLS}"),
    "field separator": (
        f"{ACCOUNT}_{{n}}_{NAME}",
        f"{ACCOUNT}_{{n}}_{NAME}/{ACCOUNT}/{DOC}/{NAME}?{TELLS}",
    ),
}


def ask(server: Client, target: str):
    """GET as Kazoo 4.3 and master do: no colon between user and secret, and an empty `te`."""
    head = b"GET %s HTTP/1.1\r\ncontent-length: 0\r\nte: \r\nhost: x\r\n" % target.encode()
    return server.raw(
        head + b"authorization: Basic a2F6b29zZWNyZXQ6\r\nconnection: keep-alive\r\n\r\n"
    )


@pytest.mark.parametrize("verb", ["PUT", "POST"])
@pytest.mark.parametrize("read", list(READS))
def test_read(server: Client, read, verb):
    name = new_name()
    stored, asked = (f"/kzr/{each}".replace("{n}", name) for each in READS[read])
    stored, asked = stored.replace("/?", "?"), asked.replace("/?", "?")
    audio = f"{read} {name}".encode()
    assert server.request(verb, stored, audio).status == 201
    answer = ask(server, asked)
    assert (answer.status, answer.body) == (200, audio), answer.text


@pytest.mark.parametrize("variables", [0, 20, 90])
def test_document_with_many_channel_variables(server: Client, variables):
    """Its query has up to 10 KB and more."""
    target = f"/kzr/call_recording_{new_name()}.mp3?{RECORD_CALL}"
    put(server, target, b"audio")
    added = "".join(f"&custom_channel_vars[Variable-{n}]={'v' * 110}" for n in range(variables))
    answer = ask(server, f"{target}{GLUED}{added}")
    assert (answer.status, answer.body) == (200, b"audio")


def test_multipart_plan(server: Client):
    path = f"/kzr/{PLAN}".replace("{n}", new_name())
    for number in range(2):  # the document's id tells these apart
        body = form(b"%d" % number, {"id": f"{DOC}{number}"})
        headers = {"Content-Type": TYPE + B}
        assert server.request("POST", path, body, headers=headers).status in (200, 201)
    for number in range(2):
        asked = f"{path}/{path.removeprefix('/kzr/')}?call_id=x&id={DOC}{number}"
        assert ask(server, asked).body == b"%d" % number


@pytest.mark.parametrize("capture", [name for name in captures() if not name.startswith("curl")])
def test_capture(server: Client, capture):
    """Just as it was sent, but for a folder, so that no two share a name."""

    def moved(data: bytes) -> bytes:
        return data.replace(b" /kzr", f" /kzr/{folder}".encode(), 1)

    folder = new_name()
    answer = server.raw(moved(request(capture)))
    assert answer.status == 201, answer.text
    path = WIRE / f"{capture}.2.raw"
    if not path.exists():
        target = request(capture).split(b" ")[1].decode()
        answer = ask(server, target.replace("/kzr", f"/kzr/{folder}", 1))
    else:
        data = moved(path.read_bytes())
        # What was doubled was what comes after the base.
        head = re.sub(rb"authorization: .*?\r\n", b"", data)
        answer = server.raw(head.replace(b"\r\n", b"\r\n" + READER, 1))
    assert (answer.status, answer.body) == (200, expected_body(capture)), answer.text


def exchange(name: str) -> bytes:
    """The head of a captured request."""
    return (READ_BACK / f"{name}.txt").read_bytes().partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("stores", "reads"),
    [
        (["same-call.1-put-first"], ["same-call.4-get-first"]),
        (
            ["same-call.1-put-first", "same-call.2-put-second"],
            ["same-call.4-get-first", "same-call.3-get-second"],
        ),
        (["field-group.1-put"], ["field-group.2-get"]),
        (
            ["field-attachment.1-put"],
            ["field-attachment.2-get-api", "field-attachment.3-get-phone"],
        ),
    ],
)
def test_what_read_back_wrong_once(server: Client, stores, reads):
    bodies = {}
    for number, name in enumerate(stores):
        head = exchange(name)
        size = int(re.search(rb"content-length: (\d+)", head)[1])
        bodies[number] = b"%d" % number * size
        assert server.raw(head + bodies[number]).status in (200, 201)
    for number, name in enumerate(reads):
        answer = server.raw(exchange(name))
        assert (answer.status, answer.body) == (200, bodies[min(number, len(stores) - 1)])


def test_head_of_what_kazoo_reads(server: Client):
    name = new_name()
    put(server, f"/kzr/{name}.mp3", b"audio")
    answer = get(server, f"/kzr/{name}.mp3/{ACCOUNT}/{DOC}/{NAME}?id={DOC}", "HEAD")
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "5", b"")
