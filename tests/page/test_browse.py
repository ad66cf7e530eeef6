"""The page to find and play recordings, over HTTP."""

import base64
import csv
import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from urllib.parse import quote, unquote, urlencode

import pytest
from flask import Flask

from receiver import create_app
from receiver.catalog import Catalog
from receiver.presentation import cell
from receiver.transcript import Segment, excerpt, parse_vtt, pieces
from receiver.transcription import to_vtt
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


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    server = Receiver(
        tmp_path_factory.mktemp("browsed"), catalog="yes", readers="ann:secret jörg:x"
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def catalog(started: Receiver) -> Iterator[Catalog]:
    with closing(Catalog(f"sqlite:///{started.storage}/.catalog.sqlite")) as catalog:
        yield catalog


@pytest.fixture
def receiver(started: Receiver, catalog: Catalog) -> Receiver:
    """A receiver with nothing in its storage and catalog."""
    catalog.remove(list(catalog.paths()))
    for entry in started.storage.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif not entry.name.startswith("."):  # the catalog
            entry.unlink()
    return started


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


def audits(server: Receiver) -> list[str]:
    return re.findall(r"audit (user=.*)", server.log)


def saved_as(answer: Answer) -> str:
    """The name under which a browser saves a download (RFC 6266)."""
    header = answer.headers["Content-Disposition"]
    match = re.fullmatch(r"attachment; filename=\"[ -~]+\"; filename\*=UTF-8''(\S+)", header)
    assert match, header
    return unquote(match[1])


class TestList:
    def test_empty_store_tells_how_to_send_the_first_recording(self, receiver):
        text = html(receiver)
        assert "No recordings yet" in text
        url = f"http://127.0.0.1:{receiver.port}/kzr"
        assert f"curl -T some.mp3 &#39;{url}/call_recording_test.mp3&#39;" in text.replace(
            "'", "&#39;"
        )

    def test_newest_come_first(self, receiver):
        send(receiver, "call_recording_1.mp3", **ANN)
        send(receiver, "A/U/call_recording_2.wav", **BOB)
        text = html(receiver)
        assert text.index("Bob Jones") < text.index("Ann Smith")
        assert paths(found(receiver)) == ["A/U/2.wav", "1.mp3"]
        assert paths(found(receiver, sort="oldest")) == ["1.mp3", "A/U/2.wav"]
        assert "10.2 kB" in text
        assert re.search(r'<time datetime="\d{4}-\d\d-\d\dT[\d:]{8}[+-]\d\d:\d\d">', text)

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"text": "ann"}, ["1.mp3"]),
            ({"text": "smi ANN"}, ["1.mp3"]),
            ({"text": "+15550123"}, ["A/U/2.wav"]),
            ({"text": "0123"}, ["A/U/2.wav"]),
            ({"text": "ann bob"}, []),
            ({"text": "nul\0"}, []),
            ({"text": "", "folder": ""}, ["A/U/2.wav", "1.mp3"]),
            ({"folder": "A"}, ["A/U/2.wav"]),
            ({"folder": "/A/U/"}, ["A/U/2.wav"]),
            ({"folder": "B"}, []),
            ({"since": date.today().isoformat()}, ["A/U/2.wav", "1.mp3"]),
            ({"until": (date.today() - timedelta(days=1)).isoformat()}, []),
            ({"sort": "caller"}, ["1.mp3", "A/U/2.wav"]),
            ({"limit": 1}, ["A/U/2.wav"]),
        ],
    )
    def test_search(self, receiver, query, expected):
        send(receiver, "call_recording_1.mp3", **ANN)
        send(receiver, "A/U/call_recording_2.wav", **BOB)
        assert paths(found(receiver, **query)) == expected
        text = html(receiver, f"?{urlencode(query)}")
        assert [path for path in ("A/U/2.wav", "1.mp3") if quote(path, safe="") in text] == sorted(
            expected, reverse=True
        )
        assert ("Nothing found" in text) == (not expected)

    def test_search_for_a_file_name(self, receiver):
        """A query may name a recording for Kazoo, but not where somebody searches."""
        send(receiver, "call_recording_1.mp3", **ANN)
        assert "Nothing found" in html(receiver, "?text=call_recording_x.mp3")

    def test_pages_lead_forth_and_back(self, receiver):
        for number in range(5):
            send(receiver, f"call_recording_{number}.mp3", caller_id_name=f"Ann {number}")
        text = html(receiver, "?limit=2&text=ann")
        forth = []
        while True:
            forth.append(re.findall(r"details=%2F(\d)\.mp3&amp;|details=%2F(\d)\.mp3\"", text))
            following = re.search(r'rel="next" href="([^"]*)"', text)
            if not following:
                break
            assert "text=ann" in following[1] and "limit=2" in following[1]
            text = html(receiver, following[1].replace("&amp;", "&"))
        assert len(forth) == 3
        assert "First page" in text
        previous = re.search(r'rel="prev" href="([^"]*)"', text)[1].replace("&amp;", "&")
        assert (
            re.findall(
                r"details=%2F(\d)\.mp3&amp;|details=%2F(\d)\.mp3\"", html(receiver, previous)
            )
            == forth[1]
        )

    def test_chart_has_a_link_for_each_day_with_recordings(self, receiver):
        send(receiver, "call_recording_1.mp3", **ANN)
        send(receiver, "call_recording_2.mp3", **BOB)
        today = date.today()
        text = html(receiver, "?text=ann")
        assert f'aria-label="{today:%A} {today.day} {today:%B}: 2 recordings, 20.5 kB"' in text
        (href,) = re.findall(r'<a href="([^"]*)" aria-label', text)
        assert href == f"?text=ann&amp;since={today}&amp;until={today}"
        assert "aria-current" in html(receiver, href.replace("&amp;", "&"))

    def test_metadata_cannot_become_markup(self, receiver):
        send(
            receiver,
            f"{quote(HOSTILE, safe='')}/call_recording_1.mp3",
            **{"caller_id_name": HOSTILE, "callee_id_name": '"><b>', HOSTILE: HOSTILE},
        )
        (path,) = paths(found(receiver))
        (receiver.storage / f"{path}.txt").write_text(HOSTILE)
        for query in (
            "",
            f"?text={quote(HOSTILE)}",
            f"?details={quote(path)}",
            f"?folder={HOSTILE}",
        ):
            text = html(receiver, query.replace("<", "%3C").replace(">", "%3E"))
            assert SCRIPT in text
            assert "<script" not in without_player(text) and "<b>" not in text

    def test_metadata_of_any_kind_is_shown(self, receiver):
        send(receiver, "call_recording_1.mp3", caller_id_name="x")
        told = (
            '{"a": "\\ud800", "b": NaN, "c": {"d": [1, null], "e": {"f": 2}}, "start": 8e11, '
            '"g": ' + "[" * 900 + "]" * 900 + "}"
        )
        (receiver.storage / "1.mp3.json").write_text(told)
        text = html(receiver, "?details=1.mp3")
        for name in ("a", "b", "c.d", "c.e"):
            assert f"<code>{name}</code>" in text
        assert found(receiver, details="1.mp3")["metadata"]["b"] == "NaN"

    def test_times_are_those_of_the_servers_zone(self, start, monkeypatch):
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        receiver = start(catalog="yes", readers="ann:secret")
        send(receiver, "call_recording_1.mp3", start=63_900_000_000)
        (listed,) = found(receiver)["recordings"]
        assert listed["received"].endswith("+09:00")
        assert listed["start"] == "2024-11-28T17:00:00+09:00"
        assert 'datetime="2024-11-28T17:00:00+09:00"' in html(receiver, "?details=1.mp3")

    def test_older_versions_are_marked(self, receiver):
        send(receiver, "call_recording_1.mp3", **ANN)
        assert "older version" not in html(receiver)
        send(receiver, "call_recording_1.mp3", b"other", **BOB)
        text = html(receiver)
        assert text.count("older version") == 1
        old = next(path for path in paths(found(receiver)) if "~" in path)
        assert get(receiver, f"?play={quote(old)}").body == AUDIO


class TestDetails:
    def test_all_that_is_known(self, receiver):
        send(receiver, "A/call_recording_1%402.mp3", **ANN, call_id="1@2", unforeseen="a thing")
        send(receiver, "A/call_recording_1%402.mp3", b"other", **BOB)
        (receiver.storage / "A/1@2.mp3.vtt").write_text(VTT)
        old = next(path for path in paths(found(receiver)) if "~" in path)
        text = html(receiver, f"?text=ann&details={quote(old)}")
        for part in (
            "Ann Smith to 2000",
            "a thing",
            old,
            "unforeseen",
            "older version",
            "Versions",
        ):
            assert part in text, part
        assert 'href="?text=ann"' in text
        assert "captions=" not in text
        text = html(receiver, "?details=A/1@2.mp3")
        assert f"http://127.0.0.1:{receiver.port}/kzr/A/call_recording_1@2.mp3" in text
        assert 'href="?captions=%2FA%2F1%402.mp3"' in text
        answer = get(receiver, "?captions=A/1@2.mp3")
        assert (answer.headers.get_content_type(), answer.text) == ("text/vtt", VTT)
        assert saved_as(answer).endswith(" Bob Jones to 2001.vtt")
        assert get(receiver, f"?captions={quote(old)}").status == 404

    def test_as_json(self, receiver):
        send(receiver, "call_recording_1.mp3", **ANN, start=63_900_000_000, duration_ms=61_500)
        (listed,) = found(receiver)["recordings"]
        about = found(receiver, details="1.mp3")
        assert listed.items() <= about.items()
        assert about["caller_name"] == "Ann Smith"
        assert about["duration"] == 61.5
        assert re.fullmatch(r"2024-11-2\dT[\d:]{8}[+-]\d\d:\d\d", about["start"])
        assert about["metadata"]["caller_id_name"] == "Ann Smith"
        assert [each["path"] for each in about["versions"]] == ["1.mp3"]
        for name in ("play", "download"):
            assert receiver.request("GET", about[name], headers=basic("ann:secret")).body == AUDIO
        assert get(receiver, about["details"].removeprefix("/browse/")).status == 200

    def test_transcript(self, receiver):
        (receiver.storage / "1.mp3.txt").write_text("Hello\nthis is a transcript")
        send(receiver, "call_recording_1.mp3", **ANN)
        assert "Hello\nthis is a transcript" in html(receiver, "?details=1.mp3")
        assert paths(found(receiver, text="transcr")) == ["1.mp3"]
        assert audits(receiver)[-1].startswith("user=ann action=transcript recording=1.mp3 ")

    def test_list_tells_no_transcript_that_nobody_notes_to_be_read(self, receiver):
        (receiver.storage / "1.mp3.txt").write_text("Hello\nthis is a transcript")
        send(receiver, "call_recording_1.mp3", **ANN)
        (listed,) = found(receiver)["recordings"]
        assert "transcript" not in listed
        answer = get(receiver, "?details=1.mp3&format=json")
        assert json.loads(answer.text)["transcript"] == "Hello\nthis is a transcript"

    def test_segments_have_times_that_lead_to_them(self, receiver):
        send(receiver, "call_recording_1.mp3", **ANN)
        (receiver.storage / "1.mp3.vtt").write_text(VTT)
        count = len(audits(receiver))
        text = html(receiver, "?text=ann&details=1.mp3")
        said = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", text.partition('"segments"')[2]))
        for part in ("Play from 0:00 Hello, this is Bea &amp; Ann ", " Play from 1:01 Goodbye "):
            assert part in said
        assert "<mark>Ann</mark>" in text and "aria-current" not in text
        assert 'preload="none"' in text and 'src="?text=ann&amp;play=%2F1.mp3"' in text
        links = re.findall(r'<a href="([^"]*at=[^"]*)"', text)
        assert links[1] == "?text=ann&amp;details=%2F1.mp3&amp;at=61.500#segment-2"
        text = html(receiver, links[1].replace("&amp;", "&").partition("#")[0])
        assert 'src="?text=ann&amp;play=%2F1.mp3#t=61.500"' in text and "autoplay" in text
        assert re.findall(r'<li id="(\S+)" [^>]*class="playing" aria-current="true">', text) == [
            "segment-2"
        ]
        line = "user=ann action=transcript recording=1.mp3 client=127.0.0.1"
        assert audits(receiver)[count:] == [line, line]
        assert found(receiver, details="1.mp3")["segments"] == [
            {"start": 0.0, "end": 2.5, "text": "Hello, this is Bea & Ann"},
            {"start": 61.5, "end": 3600.0, "text": "Goodbye"},
        ]

    def test_markup_in_segments_is_text(self, receiver):
        send(receiver, "call_recording_1.mp3", **ANN)
        vtt = f"WEBVTT\n\n00:00.000 --> 00:01.000\n{SCRIPT} <script>alert(2)</script>"
        (receiver.storage / "1.mp3.vtt").write_text(vtt)
        text = without_player(html(receiver, "?details=1.mp3"))
        assert SCRIPT in text and "alert(2)" in text and "<script" not in text

    def test_text_where_the_times_are_broken(self, receiver):
        (receiver.storage / "1.mp3.txt").write_text("Hello there")
        (receiver.storage / "1.mp3.vtt").write_text("WEBVTT\n\n00:02.000 --> 00:01.000\nHello")
        send(receiver, "call_recording_1.mp3", **ANN)
        text = html(receiver, "?details=1.mp3")
        assert ">Hello there</p>" in text and "Play from" not in text
        assert found(receiver, details="1.mp3")["segments"] == []

    def test_what_browsers_do_not_play_has_no_links_to_times(self, receiver):
        send(receiver, "call_recording_1.amr", **ANN)
        (receiver.storage / "1.amr.vtt").write_text(VTT)
        text = html(receiver, "?details=1.amr")
        assert "Goodbye" in text and "1:01" in text and "at=" not in text

    @pytest.mark.parametrize("at", ["x", "-1", "1e9", "nan", "1.", "9" * 9])
    def test_bad_time(self, receiver, at):
        send(receiver, "call_recording_1.mp3", **ANN)
        assert "at is a number of seconds" in html(receiver, f"?details=1.mp3&at={at}", 400)


class TestExcerpt:
    def test_where_a_search_found_the_transcript(self, receiver):
        said = f"{'before ' * 50}\n{HOSTILE} the Café, {'after ' * 50}"
        (receiver.storage / "1.mp3.txt").write_text(said)
        send(receiver, "call_recording_1.mp3", **ANN)
        send(receiver, "call_recording_2.mp3", caller_id_name="Cafer")
        text = without_player(html(receiver, "?text=cafe"))
        (cell,) = re.findall(r'<tr role="row" class="said">.*?</tr>', text, re.DOTALL)
        assert f"before {SCRIPT} the <mark>Café</mark>, after after" in cell
        assert len(cell) < 500 and cell.count("…") == 2
        text = without_player(html(receiver, f"?text={quote(HOSTILE)}"))
        assert f"<mark>{SCRIPT}</mark>" in text and "<script" not in text
        by_path = {each["path"]: each for each in found(receiver, text="cafe")["recordings"]}
        assert f"before {HOSTILE} the Café, after" in by_path["1.mp3"]["excerpt"]
        assert by_path["2.mp3"]["excerpt"] is None
        assert 'class="said"' not in html(receiver, "?text=ann")
        assert {each["excerpt"] for each in found(receiver)["recordings"]} == {None}

    @pytest.mark.parametrize(
        ("text", "search", "expected"),
        [
            ("one two three", "tw", "one two three"),
            ("one two three", "wo", ""),
            ("one two three", "x tw", "one two three"),
            ("one", "", ""),
            ("", "x", ""),
            ("call 555-0100 (now)", "0100 now", "call 555-0100 (now)"),
            (f"{'a ' * 100}needle", "needle", f"… {'a ' * 34}needle"),
            (f"needle{' a' * 100}", "NEEDLE", f"needle{' a' * 61} …"),
            ("漢" * 300, "漢", "漢" * 130 + " …"),
        ],
    )
    def test_excerpts(self, text, search, expected):
        assert excerpt(text, search) == expected

    @pytest.mark.parametrize(
        ("text", "search", "expected"),
        [
            ("Guten Tag, Jörg.", "jorg tag,", ["Tag", "Jörg"]),
            ("(monday) on-line 2.", "mon line 2", ["monday", "line", "2"]),
            ("Straße", "strasse", ["Straße"]),
            ("o'clock", "o'cl", ["o'clock"]),
            ("nothing", "", []),
        ],
    )
    def test_words_that_are_marked(self, text, search, expected):
        found = pieces(text, search)
        assert "".join(piece for piece, _ in found) == text
        assert [piece for piece, is_found in found if is_found] == expected


class TestWebVTT:
    def cue(self, *texts: str) -> list[Segment]:
        return parse_vtt("\n\n".join(["WEBVTT", *texts]).encode())

    def test_what_the_job_writes(self):
        cues = [(0.0, 1.25, "a < b & c"), (3600.0, 3661.001, "<v x> &amp;")]
        assert parse_vtt(to_vtt(cues)) == [Segment(*cue) for cue in cues]

    @pytest.mark.parametrize(
        ("block", "expected"),
        [
            ("00:01.000 --> 00:02.000\na\nb", (1, 2, "a b")),
            ("1\n00:01,000 --> 00:02,500\na", (1, 2.5, "a")),
            ("name\n100:00:01.5 --> 100:00:02 align:start\n<i>a</i>", (360001.5, 360002, "a")),
            ("00:01.000 --> 00:02.000\n<v.loud Ann>Hi<v Bob>Ho</v>", (1, 2, "Ann: HiBob: Ho")),
            ("\n\n00:01.000-->00:02.000\n a \n", (1, 2, "a")),
            ("NOTE 00:09.000 --> no time\n\n00:01.000 --> 00:02.000\na", (1, 2, "a")),
            ("STYLE\n::cue {}\n\n00:01.000 --> 00:02.000\na --> b", (1, 2, "a --> b")),
            ("00:00.000 --> 00:01.000\n<b></b>\n\n00:01.000 --> 00:02.000\na", (1, 2, "a")),
        ],
    )
    def test_what_others_write(self, block, expected):
        assert self.cue(block) == [Segment(*expected)]

    def test_order_marks_and_line_ends(self):
        text = "\ufeffWEBVTT x\r\nKind: y\r\n\r\n00:02.000 --> 00:03.000\r\nb\r\n \r\n"
        text += "00:01.000 --> 00:02.000\r\na"
        assert [each.text for each in parse_vtt(text.encode())] == ["a", "b"]

    @pytest.mark.parametrize(
        "block",
        ["00:02.000 --> 00:01.000\na", "1 --> 2\na", "00:01.000 --> x\na", "x --> 00:01.000\na"]
        + [f"{'9' * 5000}:00:00.000 --> 00:01.000\na"],
    )
    def test_broken_files_have_no_segments(self, block):
        assert self.cue("00:01.000 --> 00:02.000\na", block) == []

    @pytest.mark.parametrize(
        "data", [b"", b"\xff\xfe", b"1\n00:00.000 --> 00:01.000\na", b"WEBVTT"]
    )
    def test_other_files_have_no_segments(self, data):
        assert parse_vtt(data) == []

    @pytest.mark.parametrize("text", ["<", "<v ", "<v" + " " * 99, "&#", "1", "\n", "--> ", ":"])
    def test_long_files_take_no_long_time(self, text):
        data = b"WEBVTT\n\n00:00.000 --> 00:01.000\n" + text.encode() * (200_000 // len(text))
        begin = time.process_time()
        parse_vtt(data)
        parse_vtt(data.replace(b" --> ", b"", 1))
        assert time.process_time() - begin < 2


class TestAudio:
    def test_whole_and_ranges(self, receiver):
        send(receiver, "A/call_recording_1.mp3", **ANN)
        answer = get(receiver, "?play=A/1.mp3")
        assert (answer.status, answer.body) == (200, AUDIO)
        assert answer.headers.get_content_type() == "audio/mpeg"
        assert answer.headers["Content-Security-Policy"].startswith("sandbox;")
        answer = get(receiver, "?play=%2FA%2F1.mp3", Range="bytes=100-199")
        assert (answer.status, answer.body) == (206, AUDIO[100:200])
        assert answer.headers["Content-Range"] == "bytes 100-199/10240"
        assert get(receiver, "?play=A/1.mp3", Range="bytes=99999-").status == 416

    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            (ANN, r"20\d\d-\d\d-\d\d \d\d\.\d\d Ann Smith to 2000\.mp3"),
            ({"caller_id_name": "Jörg & 李"}, r".{16} Jörg & 李\.mp3"),
            ({"caller_id_name": '../..\\"%\u202e\n'}, r".{16} _\.\._%_\.mp3"),
            ({"caller_id_name": "x" * 300}, r".{16} x{100}\.mp3"),
            ({"from": "15550100@host", "to": "2000@host"}, r".{16} 15550100 to 2000\.mp3"),
            ({}, r".{16} 1\.mp3"),
        ],
    )
    def test_download_has_a_name_that_tells(self, receiver, told, expected):
        send(receiver, "call_recording_1.mp3", **told)
        answer = get(receiver, "?download=1.mp3")
        assert (answer.status, answer.body) == (200, AUDIO)
        assert re.fullmatch(expected, saved_as(answer)), saved_as(answer)

    @pytest.mark.parametrize("action", ["play", "download", "details", "captions"])
    @pytest.mark.parametrize(
        "path",
        ["absent.mp3", "1.mp3.json", ".catalog.sqlite", "../log", "../../etc/passwd", "/etc/passwd"]
        + ["%2e%2e/log", "A", "", "%00", "%0Aforged", "1.mp3%00"],
    )
    def test_only_recordings_that_are_known_are_opened(self, receiver, action, path):
        send(receiver, "call_recording_1.mp3", **ANN)
        for encoded in (path, quote(path)):
            answer = get(receiver, f"?{action}={encoded}", Accept="text/plain")
            assert answer.status == 404
            assert "\nforged" not in receiver.log

    def test_no_other_assets(self, receiver):
        answer = get(receiver, "?asset=style.css")
        assert answer.headers.get_content_type() == "text/css"
        assert "max-age" in answer.headers["Cache-Control"]
        for name in ("../browse.py", "browse.py", "/etc/passwd", ""):
            assert get(receiver, f"?asset={name}").status == 404

    def test_script(self, receiver):
        answer = get(receiver, "?asset=player.js")
        assert answer.headers.get_content_type() == "text/javascript"
        policy = get(receiver).headers["Content-Security-Policy"]
        assert "script-src 'self';" in policy


class TestAccess:
    QUERIES = ("", "?details=1.mp3", "?play=1.mp3", "?download=1.mp3", "?captions=1.mp3")

    @pytest.mark.parametrize(
        "query", [*QUERIES, "?asset=style.css", "?asset=player.js", "?format=csv", "?format=json"]
    )
    def test_readers_only(self, receiver, query):
        for headers in ({}, basic("ann:wrong"), basic("nobody:secret"), basic("ann:")):
            answer = receiver.request("GET", f"/browse/{query}", headers=headers)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
            assert "Ann Smith" not in answer.text

    def test_nobody_where_there_are_no_readers(self, start):
        answer = get(start(catalog="yes"), Accept="text/html")
        assert answer.status == 403
        assert "KZR_READERS" in answer.text

    def test_each_play_and_download_is_logged_once(self, receiver):
        send(receiver, "A/call_recording_%25a.mp3", **ANN)
        count = len(audits(receiver))
        path = quote("A/%25a.mp3")
        get(receiver, f"?play={path}", Range="bytes=0-")
        for start in (100, 5000, 200):
            assert get(receiver, f"?play={path}", Range=f"bytes={start}-").status == 206
        get(receiver, f"?play={path}", user="jörg:x", Range="bytes=100-")
        get(receiver, f"?download={path}", user="annsecret:")
        receiver.request("HEAD", f"/browse/?play={path}", headers=basic("ann:secret"))
        assert get(receiver, f"?play={path}", user="ann:wrong").status == 401
        assert audits(receiver)[count:] == [
            "user=ann action=play recording=A/%25a.mp3 client=127.0.0.1",
            "user=j%C3%B6rg action=play recording=A/%25a.mp3 client=127.0.0.1",
            "user=ann action=download recording=A/%25a.mp3 client=127.0.0.1",
        ]


class TestUrl:
    def test_what_is_below_belongs_to_recordings(self, receiver):
        for target in ("/browse/call_recording_x.mp3", "/browse/y.mp3", "/browse/A/z.mp3"):
            assert receiver.put(target, AUDIO).status == 201
            answer = receiver.request("GET", target, headers=basic("ann:secret"))
            assert (answer.status, answer.body) == (200, AUDIO)
        target = "/browse/?recording=call_recording_q.mp3&call_id=q"
        assert receiver.put(target, AUDIO).status == 201
        assert receiver.request("GET", target, headers=basic("ann:secret")).body == AUDIO

    @pytest.mark.parametrize("target", ["/browse/", "/browse/?text=x", "/browse/?play=1.mp3"])
    @pytest.mark.parametrize("method", ["PUT", "POST"])
    def test_uploads_get_the_receivers_own_answer(self, receiver, method, target):
        answer = receiver.request(method, target, AUDIO)
        assert answer.status == 400
        assert answer.line.startswith("the URL holds no recording name: ")

    def test_slash_may_be_missing(self, receiver):
        answer = receiver.request("GET", "/browse?sort=oldest", headers=basic("ann:secret"))
        assert (answer.status, answer.headers.get_content_type()) == (200, "text/html")

    def test_path_is_a_setting(self, start):
        server = start(catalog="yes", readers="ann:secret", browse_path="/a/calls")
        answer = server.request("GET", "/a/calls/", headers=basic("ann:secret"))
        assert answer.status == 200
        assert get(server).status in (400, 404)


class TestFormats:
    def test_json_by_parameter_or_header(self, receiver):
        send(receiver, "call_recording_1.mp3", **ANN)
        assert json.loads(get(receiver, "?format=json").body) == found(receiver)
        assert get(receiver).headers.get_content_type() == "text/html"
        assert get(receiver, Accept="*/*").headers.get_content_type() == "text/html"
        assert get(receiver, Accept="text/csv").headers.get_content_type() == "text/csv"

    def test_json_has_pages_and_days(self, receiver):
        for number in range(3):
            send(receiver, f"call_recording_{number}.mp3")
        first = found(receiver, limit=2)
        assert first["previous"] is None
        second = json.loads(get(receiver, first["next"].removeprefix("/browse/")).body)
        assert (paths(second), second["next"]) == (["0.mp3"], None)
        back = json.loads(get(receiver, second["previous"].removeprefix("/browse/")).body)
        assert paths(back) == paths(first)
        assert len(first["days"]) == 30
        today = {"day": date.today().isoformat(), "recordings": 3, "bytes": 3 * len(AUDIO)}
        assert first["days"][-1] == today

    def test_csv_has_all_pages_of_a_search(self, start):
        receiver = start(catalog="yes", readers="ann:secret")
        names = [f"{number:03}" for number in range(205)]
        for name in names:
            assert receiver.put(f"/kzr/call_recording_{name}.mp3?caller_id_name=J%C3%B6rg").status
        assert receiver.put("/kzr/call_recording_other.mp3").status == 201
        wait_for(lambda: found(receiver)["days"][-1]["recordings"] == 206)
        answer = get(receiver, "?format=csv&text=jorg&limit=3&sort=oldest")
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
        assert answer.body.startswith(b"\xef\xbb\xbfpath,")
        rows = list(csv.DictReader(io.StringIO(answer.body.decode("utf-8-sig"), newline="")))
        assert sorted(row["call_id"].lstrip("'") for row in rows) == names
        assert {row["caller_name"] for row in rows} == {"Jörg"}
        assert "transcript" not in rows[0]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("=1+1", "'=1+1"),
            ("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0"),
            ("-Ann", "'-Ann"),
            ("@SUM(1)", "'@SUM(1)"),
            ("\t=1", "'\t=1"),
            ("＝1", "'＝1"),
            ("+15550100\n=1", "'+15550100\n=1"),
            ("+15550100\n", "'+15550100\n"),
            ("+15550100", "+15550100"),
            ("-5", "-5"),
            ("Ann", "Ann"),
            ("", ""),
        ],
    )
    def test_cells_are_no_formulas(self, text, expected):
        assert cell(text) == expected


class TestErrors:
    @pytest.mark.parametrize(
        ("query", "reason"),
        [
            ("sort=x", "sort is one of newest, oldest, "),
            ("since=nonsense", "since is a day such as "),
            ("until=0001-01-01", "until is a day such as "),
            ("until=9999-12-31", "until is a day such as "),
            ("limit=0", "limit is a number from 1 to 200"),
            ("limit=201", "limit is a number from 1 to 200"),
            ("limit=x", "limit is a number from 1 to 200"),
            ("after=x", "there is no such page"),
            ("before=5", "there is no such page"),
            ("after=[1,99999999999999999999]", "there is no such page"),
            ('after=["x",1]', "there is no such page"),
            ("after=[NaN,1]", "there is no such page"),
            ("sort=caller&after=[1,1]", "there is no such page"),
            (f"after={'[' * 2400}", "there is no such page"),
            ("folder=../x", "a folder is written as the storage has it"),
            (f"text={'x' * 201}", "a search has at most 200 characters"),
        ],
    )
    def test_bad_query_is_400_in_the_form_that_was_asked_for(self, receiver, query, reason):
        query = quote(query, safe="=&/")
        text = html(receiver, f"?{query}", 400)
        assert reason in text and "<form" in text
        answer = get(receiver, f"?{query}", Accept="application/json")
        assert answer.status == 400
        assert json.loads(answer.body)["error"].startswith(reason)
        if "no such page" not in reason:  # there, all pages are asked for
            answer = get(receiver, f"?{query}&format=csv")
            assert answer.status == 400 and answer.line.startswith(reason)

    def test_unknown_format(self, receiver):
        answer = get(receiver, "?format=xml")
        assert (answer.status, answer.line) == (400, "format is html, json or csv")

    def test_catalog_that_is_down(self, start):
        receiver = start(catalog="sqlite:////absent/catalog.sqlite", readers="ann:secret")
        for query in ("", "?text=ann", "?details=1.mp3"):
            text = html(receiver, query, 503)
            assert "The catalog is down" in text and "stored all the same" in text
        assert "<form" in text
        answer = get(receiver, "?format=json")
        assert (answer.status, list(json.loads(answer.body))) == (503, ["error"])
        assert receiver.put("/kzr/call_recording_1.mp3", AUDIO).status == 201
        assert get(receiver, "?play=1.mp3").status == 503


def test_sender_is_told_to_give_credentials(tmp_path):
    app: Flask = create_app(
        {
            "STORAGE": str(tmp_path),
            "CATALOG": "yes",
            "READERS": "ann:secret",
            "WRITERS": "kazoo:sesame",
        }
    )
    with closing(app.extensions["catalog"]):
        answer = app.test_client().get(
            "/browse/", auth=("ann", "secret"), headers={"X-Forwarded-Proto": "https"}
        )
    assert "curl -u USER:SECRET -T some.mp3 &#39;https://localhost/kzr/" in answer.text.replace(
        "'", "&#39;"
    )
    assert "sesame" not in answer.text
