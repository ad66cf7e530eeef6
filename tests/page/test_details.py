"""The page's details of a recording, its audio and its downloads."""

import json
import re
from urllib.parse import quote

import pytest

pytest.importorskip("sqlalchemy")

from support.pages import (
    ANN,
    AUDIO,
    BOB,
    SCRIPT,
    VTT,
    attach,
    audits,
    basic,
    found,
    get,
    html,
    paths,
    saved_as,
    send,
    without_player,
)


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
        send(receiver, "call_recording_1.mp3", **ANN)
        attach(receiver, "1.mp3", txt="Hello\nthis is a transcript")
        assert "Hello\nthis is a transcript" in html(receiver, "?details=1.mp3")
        assert paths(found(receiver, text="transcr")) == ["1.mp3"]
        assert audits(receiver)[-2].startswith("user=ann action=transcript recording=1.mp3 ")

    def test_list_tells_no_transcript_that_nobody_notes_to_be_read(self, receiver):
        send(receiver, "call_recording_1.mp3", **ANN)
        attach(receiver, "1.mp3", txt="Hello\nthis is a transcript")
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
        played = 'src="?text=ann&amp;play=%2F1.mp3&amp;received='
        assert 'preload="none"' in text and re.search(rf'{re.escape(played)}[0-9]+"', text)
        links = re.findall(r'<a href="([^"]*at=[^"]*)"', text)
        assert links[1] == "?text=ann&amp;details=%2F1.mp3&amp;at=61.500#segment-2"
        text = html(receiver, links[1].replace("&amp;", "&").partition("#")[0])
        assert re.search(rf'{re.escape(played)}[0-9]+#t=61.500"', text) and "autoplay" in text
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
        send(receiver, "call_recording_1.mp3", **ANN)
        vtt = "WEBVTT\n\n00:02.000 --> 00:01.000\nHello"
        attach(receiver, "1.mp3", txt="Hello there", vtt=vtt)
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

    @pytest.mark.parametrize("action", ["play", "download"])
    def test_link_is_to_the_recording_that_was_listed(self, receiver, action):
        """Another may take its name before somebody clicks, and the catalog learns of it later."""
        send(receiver, "1.mp3", AUDIO, caller_id_name="Ann")
        link = found(receiver)["recordings"][0][action]
        for number in range(3):
            receiver.put("/kzr/1.mp3?caller_id_name=Bob", b"other%d" % number)
            answer = receiver.request("GET", link, headers=basic("ann:secret"))
            assert (answer.status, answer.body) == (200, AUDIO)
        count = len(audits(receiver))
        assert receiver.request("GET", link, headers=basic("jörg:x")).body == AUDIO
        assert audits(receiver)[count:] == [
            f"user=j%C3%B6rg action={action} recording=1~1.mp3 client=127.0.0.1"
        ]
        (receiver.storage / "1~1.mp3").unlink()
        answer = receiver.request("GET", link, headers=basic("ann:secret"))
        assert answer.status == 404 and "load the page again" in answer.text
        assert get(receiver, "?play=1.mp3&received=x").status == 400

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
