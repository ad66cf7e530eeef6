"""The page to find and play recordings, over HTTP."""

import re
from contextlib import closing
from datetime import date, timedelta
from urllib.parse import quote, urlencode

import pytest

pytest.importorskip("sqlalchemy")

from flask import Flask

from receiver import create_app
from support.pages import (
    ANN,
    AUDIO,
    BOB,
    HOSTILE,
    SCRIPT,
    audits,
    basic,
    found,
    get,
    html,
    paths,
    send,
    without_player,
)


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


def test_sender_is_told_to_give_credentials(tmp_path):
    app: Flask = create_app(
        {
            "STORAGE": str(tmp_path),
            "CATALOG": "yes",
            "READERS": "ann:secret",
            "WRITERS": "kazoo:sesame",
        }
    )
    with closing(app.extensions["receiver"].catalog):
        answer = app.test_client().get(
            "/browse/", auth=("ann", "secret"), headers={"X-Forwarded-Proto": "https"}
        )
    assert "curl -u USER:SECRET -T some.mp3 &#39;https://localhost/kzr/" in answer.text.replace(
        "'", "&#39;"
    )
    assert "sesame" not in answer.text
