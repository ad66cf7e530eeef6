"""The page as JSON and CSV, and what is wrong with a query in each format."""

import csv
import io
import json
from datetime import date
from urllib.parse import quote

import pytest

pytest.importorskip("sqlalchemy")

from receiver.page.presentation import cell
from support.pages import ANN, AUDIO, found, get, html, paths, send
from support.waiting import wait_for


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
            ("\t=1", "'\t'=1"),
            ("＝1", "'＝1"),
            ("+15550100\n=1", "'+15550100\n'=1"),
            ("+15550100\n", "'+15550100\n"),
            ("+15550100", "+15550100"),
            ("-5", "-5"),
            (" =1+1", "' =1+1"),
            ("\xa0=1+1", "'\xa0=1+1"),
            ("\u200b\ufeff=1+1", "'\u200b\ufeff=1+1"),
            ("\x00\x01=1+1", "'\x00\x01=1+1"),
            ("Bob;=1+1", "'Bob;'=1+1"),
            ("Bob\t=1+1", "'Bob\t'=1+1"),
            ("Bob,=1+1", "'Bob,'=1+1"),
            ("Bob|@x", "'Bob|'@x"),
            ("Bob; \x01-x", "'Bob;' \x01-x"),
            ('Bob;"=1+1', "'Bob;'\"=1+1"),
            ("Bob\u2028+x", "'Bob\u2028'+x"),
            ("Bob; Ann, Eve-Lee = two", "Bob; Ann, Eve-Lee = two"),
            ("Bob;+15550100", "Bob;+15550100"),
            ("+15550100;+15550101", "+15550100;+15550101"),
            ("+15550100;+cmd", "'+15550100;'+cmd"),
            ("Ann", "Ann"),
            ("", ""),
        ],
    )
    def test_cells_are_no_formulas(self, text, expected):
        assert cell(text) == expected

    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    def test_table_has_no_formula_by_any_separator(self, receiver, separator):
        names = ["Bob;=1+1", " =1+1", "Bob\t=1+1", 'x",=1;"=2', ';";";=3', "a\r\n=4;\t=5", "+1;@6"]
        for number, name in enumerate(names):
            send(receiver, f"call_recording_{number}.mp3", caller_id_name=name)
        text = get(receiver, "?format=csv").body.decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
        cells = [cell for row in rows for cell in row]
        cells += [part for line in text.splitlines() for part in line.split(separator)]
        for each in cells:
            plain = each.strip("\"' \t\r\n") if not each.strip().strip('"').startswith("'") else ""
            assert not plain.startswith(("=", "@", "-")), each
            assert not plain.startswith("+") or plain[1:].isdigit(), each


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
            ("after=[true,1]", "there is no such page"),
            ('after=["1",1]', "there is no such page"),
            ("time=x", "time is one of began, received"),
            ("direction=x", "direction is one of inbound, outbound"),
            ("shortest=x", "shortest is a number of seconds"),
            ("shortest=-1", "shortest is a number of seconds"),
            (f"account={'x' * 256}", "account has at most 255 characters"),
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
