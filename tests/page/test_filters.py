"""Filters, days, accounts and what is noted of who saw what, over HTTP."""

import re
import time
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

pytest.importorskip("sqlalchemy")

from support.pages import (
    ANN,
    AUDIO,
    BOB,
    attach,
    audits,
    basic,
    found,
    get,
    html,
    paths,
    send,
)
from support.receivers import Receiver

GREGORIAN = 62_167_219_200
ONE, TWO = "1" * 32, "2" * 32


@pytest.fixture(scope="module")
def tokyo(tmp_path_factory):
    server = Receiver(
        tmp_path_factory.mktemp("tokyo"),
        catalog="yes",
        readers="ann:secret",
        timezone="Asia/Tokyo",
    )
    yield server
    server.stop()


class TestFilters:
    def fill(self, receiver) -> None:
        send(receiver, "a.mp3", **ANN, account_id=ONE, direction="inbound", duration=5)
        send(receiver, "b.wav", **BOB, account_id=TWO, direction="outbound", duration=65)
        send(receiver, "c.wav", **ANN, account_id=TWO)

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"account": TWO}, ["c.wav", "b.wav"]),
            ({"account": f" {TWO}\0"}, ["c.wav", "b.wav"]),
            ({"account": "2"}, []),
            ({"direction": "inbound"}, ["a.mp3"]),
            ({"extension": "wav"}, ["c.wav", "b.wav"]),
            ({"extension": "WAV", "text": "bob"}, ["b.wav"]),
            ({"shortest": 60}, ["b.wav"]),
            ({"shortest": 0}, ["c.wav", "b.wav", "a.mp3"]),
            ({"account": ONE, "direction": "outbound"}, []),
            ({"time": "received", "account": ONE}, ["a.mp3"]),
            ({"text": "(555) 0100"}, ["c.wav", "a.mp3"]),
        ],
    )
    def test_filters(self, receiver, query, expected):
        self.fill(receiver)
        assert paths(found(receiver, **query)) == expected
        text = html(receiver, "?" + "&".join(f"{name}={quote(str(query[name]))}" for name in query))
        assert ("Nothing found" in text) == (not expected)
        assert get(receiver, f"?format=csv&account={ONE}").text.count("\n") == 2

    def test_choices_are_what_there_is(self, receiver):
        self.fill(receiver)
        text = html(receiver, f"?account={ONE}&shortest=45")
        for value in (ONE, TWO, "inbound", "outbound", "mp3", "wav", "600"):
            assert re.search(rf'<option value="{value}"', text), value
        assert f'<option value="{ONE}" selected>' in text
        assert "<option selected>45</option>" in text
        assert '<details class="more" open>' in text
        assert '<details class="more">' in html(receiver)

    def test_an_account_is_told_once(self, receiver):
        send(receiver, "a.mp3", **ANN, account_id=ONE)
        send(receiver, "b.mp3", **ANN, account_id=ONE)
        text = html(receiver)
        assert text.count(ONE) == 1 and 'name="account"' not in text
        send(receiver, "c.mp3", **ANN, account_id=TWO)
        text = html(receiver)
        assert text.count('class="account" href') == 3
        assert 'class="account" href' not in html(receiver, f"?account={ONE}")

    def test_many_accounts_are_typed(self, receiver, monkeypatch, catalog):
        from support.catalogs import recording

        catalog.add(recording(n, account=f"account-{n:03}") for n in range(201))
        text = html(receiver)
        assert '<input id="account" name="account"' in text
        catalog.remove(["0.mp3"])
        assert '<select id="account" name="account"' in html(receiver)

    def test_no_metadata_at_all(self, receiver):
        send(receiver, "call_recording_abc123%4010.0.0.1.mp3")
        text = html(receiver)
        assert ">abc123@10.0.0.1</bdi>" in text
        assert 'name="account"' not in text and 'name="direction"' not in text

    def test_names_keep_their_direction_of_writing(self, receiver):
        send(receiver, "a.mp3", caller_id_name="أحمد", callee_id_name="\u202edlo")
        for query in ("", "?details=a.mp3"):
            text = html(receiver, query)
            assert re.search(r"<bdi[^>]*>أحمد</bdi>", text)
        assert 'aria-label="\u2068أحمد\u2069 to \u2068dlo\u2069"' in html(receiver)
        answer = get(receiver, "?download=a.mp3")
        assert "%E2%81%A8" not in answer.headers["Content-Disposition"]


class TestTimes:
    def test_everything_is_in_one_zone_that_is_shown(self, tokyo):
        began = datetime(2026, 3, 1, 20, 30, tzinfo=UTC).timestamp()  # in Tokyo on the second
        send(tokyo, "a.mp3", **ANN, start=int(began) + GREGORIAN)
        for query, expected in (
            ({"since": "2026-03-02", "until": "2026-03-02"}, ["a.mp3"]),
            ({"since": "2026-03-01", "until": "2026-03-01"}, []),
            ({"since": "2026-03-02", "until": "2026-03-02", "time": "received"}, []),
        ):
            assert paths(found(tokyo, **query)) == expected
        listed = found(tokyo)
        assert listed["timezone"] == "Asia/Tokyo"
        assert listed["recordings"][0]["began"] == "2026-03-02T05:30:00+09:00"
        for query in ("", "?details=a.mp3"):
            text = html(tokyo, query)
            assert "imes of Asia/Tokyo" in text
            assert 'datetime="2026-03-02T05:30:00+09:00"' in text
        assert "2026-03-02T05:30:00+09:00" in get(tokyo, "?format=csv").text
        assert (
            "2026-03-02%2005.30%20" in get(tokyo, "?download=a.mp3").headers["Content-Disposition"]
        )

    def test_chart_has_the_day_of_the_call(self, tokyo):
        now = time.time()
        send(tokyo, "b.mp3", **ANN, start=int(now) - 5 * 86400 + GREGORIAN)
        days = {each["day"]: each["recordings"] for each in found(tokyo)["days"]}
        by_reception = {
            each["day"]: each["recordings"] for each in found(tokyo, time="received")["days"]
        }
        assert sum(days.values()) == 1
        assert sum(by_reception.values()) == by_reception[max(by_reception)] == 2

    def test_systems_zone_has_its_name(self, start, monkeypatch):
        for name in ("Europe/Berlin", "UTC"):
            monkeypatch.setenv("TZ", name)
            receiver = start(catalog="yes", readers="ann:secret")
            assert found(receiver)["timezone"] == name
            receiver.stop()

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("Europe/Berlim", "UTC"),
            ("Berlin", "UTC"),
            (":Europe/Berlin", "Europe/Berlin"),
            ("XYZ-3", "XYZ"),
            ("", "UTC"),
        ],
    )
    def test_name_is_that_of_the_zone_whose_times_are_shown(self, monkeypatch, name, shown):
        from receiver.page import presentation

        monkeypatch.setattr(presentation, "zone", lambda: None)
        monkeypatch.setenv("TZ", name)
        time.tzset()
        try:
            assert presentation.zone_name() == shown
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_zone_that_nobody_knows_stops_the_start(self):
        from receiver.config import load
        from receiver.errors import SettingError

        for name in ("Europe/Berlim", "/etc/passwd", "../UTC", "CET CEST", "UTC\0"):
            with pytest.raises(SettingError, match="KZR_TIMEZONE=.*: expected a time zone such as"):
                load({"TIMEZONE": name})


class TestAudit:
    """Who saw what of a recording is told, also where it was only a part, or one of many."""

    def test_excerpts(self, receiver):
        send(receiver, "call_recording_1.mp3", **ANN)
        send(receiver, "call_recording_2.mp3", **ANN)
        attach(receiver, "1.mp3", txt="I would like a refund")
        for query in ("?text=refund", "?text=refund&format=json"):
            count = len(audits(receiver))
            assert "refund" in get(receiver, query).text
            assert audits(receiver)[count:] == [
                "user=ann action=excerpt recording=1.mp3 client=127.0.0.1"
            ]
        count = len(audits(receiver))
        for query in ("", "?text=ann", "?text=ann&format=json", "?text=nothing"):
            get(receiver, query)
        receiver.request("HEAD", "/browse/?text=refund", headers=basic("ann:secret"))
        assert audits(receiver)[count:] == []

    def test_no_name_of_a_file_forges_a_line(self, receiver, catalog):
        """Files that were put there by hand may be called anything."""
        from receiver.storage import open_storage

        name = "x\naudit user=bob action=play recording=y z.mp3"
        (receiver.storage / name).write_bytes(AUDIO)
        catalog.refresh(open_storage(str(receiver.storage), read_only=True), name)
        count = len(audits(receiver))
        assert get(receiver, f"?play={quote(name)}").status == 200
        assert audits(receiver)[count:] == [
            f"user=ann action=play recording={quote(name)} client=127.0.0.1"
        ]

    def test_exports(self, receiver):
        send(receiver, "call_recording_1.mp3", **ANN)
        count = len(audits(receiver))
        get(receiver, "?format=csv&text=J%C3%B6rg+%0Aaudit&account=x&since=2026-11-01")
        get(receiver, "?limit=1", Accept="text/csv")
        get(receiver, "?format=csv&sort=x")
        assert audits(receiver)[count:] == [
            "user=ann action=export search=?text=J%C3%B6rg+%0Aaudit&account=x&since=2026-11-01"
            "&limit=200 client=127.0.0.1",
            "user=ann action=export search=?limit=200 client=127.0.0.1",
        ]


def test_details_show_the_public_url(start):
    receiver = start(
        catalog="yes", readers="ann:secret", public_url="https://recordings.example.com/x/"
    )
    send(receiver, "A/call_recording_1.mp3", AUDIO)
    url = "https://recordings.example.com/x/kzr/A/call_recording_1.mp3"
    assert url in html(receiver, "?details=A/1.mp3")
    assert found(receiver, details="A/1.mp3")["url"] == url
