"""Transcripts: what a search shows of them, and how they are read."""

import re
import time
from urllib.parse import quote

import pytest

pytest.importorskip("sqlalchemy")

from receiver.jobs.transcription import to_vtt
from receiver.page.transcript import Segment, excerpt, parse_vtt, pieces
from support.pages import ANN, HOSTILE, SCRIPT, attach, found, html, send, without_player


class TestExcerpt:
    def test_where_a_search_found_the_transcript(self, receiver):
        said = f"{'before ' * 50}\n{HOSTILE} the Café, {'after ' * 50}"
        send(receiver, "call_recording_1.mp3", **ANN)
        attach(receiver, "1.mp3", txt=said)
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
