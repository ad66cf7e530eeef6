"""Recordings on the page, and the page as browsers and programs get it."""

import base64
import json
import re
from contextlib import closing
from urllib.parse import quote, unquote, urlencode

from receiver.storage import open_storage
from support.clients import Answer
from support.receivers import Receiver
from support.waiting import wait_for

AUDIO = bytes(range(256)) * 40
ANN = {"caller_id_name": "Ann Smith", "caller_id_number": "+15550100", "callee_id_number": "2000"}
BOB = {"caller_id_name": "Bob Jones", "caller_id_number": "+15550123", "callee_id_number": "2001"}
HOSTILE = "<script>alert(1)</script>"
SCRIPT = "&lt;script&gt;alert(1)&lt;/script&gt;"
VTT = """WEBVTT

00:00:00.000 --> 00:00:02.500
Hello, <b>this</b> is Bea &amp; Ann

00:01:01.500 --> 01:00:00.000
Goodbye
"""


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def get(server: Receiver, query: str = "", user: str = "ann:secret", **headers: str) -> Answer:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.request("GET", f"/browse/{query}", headers=basic(user) | headers)


def html(server: Receiver, query: str = "", status: int = 200) -> str:
    answer = get(server, query, Accept="text/html")
    assert (answer.status, answer.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert not re.search(r"<[^>]*\s(style|on\w+)=", answer.text)
    return answer.body.decode()


def without_player(text: str) -> str:
    """A page without its own script, which it has once."""
    text, count = re.subn(r'<script defer src="\?asset=player\.js&amp;v=\w+"></script>', "", text)
    assert count == 1
    return text


def found(server: Receiver, **query: object) -> dict:
    answer = get(server, f"?{urlencode(query)}", Accept="application/json")
    assert answer.status == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    return json.loads(answer.body)


def paths(document: dict) -> list[str]:
    return [each["path"] for each in document["recordings"]]


def send(server: Receiver, name: str, body: bytes = AUDIO, **told: object) -> None:
    """Store a recording, and wait until the catalog has it."""
    before = len(paths(found(server, limit=200)))
    mark = "?" if told else ""
    target = f"/kzr/{name}{mark}{urlencode(told, quote_via=quote)}"
    assert server.put(target, body).status in (200, 201)
    wait_for(lambda: len(paths(found(server, limit=200))) > before, why="the catalog to have it")


def attach(server: Receiver, path: str, **texts: str) -> None:
    """Write transcripts beside a stored recording, as a worker does, and tell the catalog."""
    from receiver.catalog.catalog import Catalog

    for kind, text in texts.items():
        (server.storage / f"{path}.{kind}").write_text(text)
    with closing(Catalog(f"sqlite:///{server.storage}/.catalog.sqlite")) as catalog:
        catalog.refresh(open_storage(str(server.storage), read_only=True), path)


def audits(server: Receiver) -> list[str]:
    return re.findall(r"audit (user=.*)", server.log)


def saved_as(answer: Answer) -> str:
    """The name under which a browser saves a download (RFC 6266)."""
    header = answer.headers["Content-Disposition"]
    match = re.fullmatch(r"attachment; filename=\"[ -~]+\"; filename\*=UTF-8''(\S+)", header)
    assert match, header
    return unquote(match[1])
