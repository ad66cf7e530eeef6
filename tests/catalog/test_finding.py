"""What people type finds what senders told, however the two are spelled, in each database."""

import json
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest

pytest.importorskip("sqlalchemy")

from receiver.catalog.catalog import Catalog
from receiver.catalog.search import Query
from receiver.catalog.words import MOST_PAIRS, folded, words_in
from support.catalogs import ACCOUNT, MAY_1, paths, recording


def finds(catalog: Catalog, asked: str, **known) -> bool:
    """Whether a search finds the one of two recordings of which this is known."""
    catalog.add([recording(1, **known), recording(2, caller_name="Wang", caller_number="5")])
    found = paths(catalog.search(Query(text=asked)))
    assert "2.mp3" not in found
    return found == ["1.mp3"]


@pytest.fixture
def one(tmp_path):
    """A catalog in SQLite, where the database makes no difference."""
    catalog = Catalog(f"sqlite:///{tmp_path}/one.sqlite")
    yield catalog
    catalog.close()


class TestNumbers:
    """A number is found in any spelling, as `erase` finds it, and by its last digits."""

    @pytest.mark.parametrize(
        "asked",
        [
            "+15551234567",
            "15551234567",
            "(555) 123-4567",
            "555 123 4567",
            "+1 555 123 4567",
            "+1 (555) 123-4567",
            "1.555.123.4567",
            "555/123 4567",
            "001 555 123 4567",
            "0 555 1234567",
            "sip:+15551234567@acme.example.com",
            "tel:+1-555-123-4567",
            '"Ann" <+15551234567>',
            "\uff0b\uff11\uff15\uff15\uff15\uff11\uff12\uff13\uff14\uff15\uff16\uff17",
            "\u0661\u0665\u0665\u0665\u0661\u0662\u0663\u0664\u0665\u0666\u0667",
            "\u202a+1\u00a0555\u2011123\u20134567\u202c",
            "4567",
            "34567",
            "123-4567",
            "1555",
            "ann 555 123 4567",
            "555 123 4567 ann",
            "ann (555) 123-4567 smith",
        ],
    )
    @pytest.mark.parametrize(
        "told", ["+15551234567", "+1 (555) 123-4567", "<sip:+15551234567@host:5060>"]
    )
    def test_spellings(self, one, asked, told):
        assert finds(one, asked, caller_number=told, caller_name="Ann Smith")

    @pytest.mark.parametrize("asked", ["555 123 4568", "bob 555 123 4567", "5551234", "12 34 56"])
    def test_other_numbers(self, one, asked):
        assert not finds(one, asked, caller_number="+15551234567", caller_name="Ann Smith")

    def test_several_numbers_in_a_row(self, catalog):
        told = {"caller_number": "1001", "callee_number": "2000"}
        assert finds(catalog, "1001 2000", **told)
        assert finds(catalog, "20 10", **told)
        assert not finds(catalog, "1001 2001", **told)

    @pytest.mark.parametrize("field", ["caller_name", "callee_number", "from_", "to"])
    def test_any_field(self, one, field):
        assert finds(one, "(555) 123-4567", **{field: "+1 555 123 4567"})

    @pytest.mark.parametrize("asked", ["4930123456", "30123457", "+49 30 123457"])
    def test_several_numbers_in_one_field(self, one, asked):
        assert finds(one, asked, callee_number="4930123456, +49 (30) 123457")

    def test_every_database(self, catalog):
        assert finds(catalog, "ann (555) 123-4567", caller_name="Ann", from_="+15551234567@x")


class TestLetters:
    """Letters are found by what they look like, also those that Unicode does not decompose."""

    @pytest.mark.parametrize(
        ("told", "asked"),
        [
            ("Łukasz", "lukasz"),
            ("Søren", "soren"),
            ("Đorđe", "dorde"),
            ("Straße", "STRASSE"),
            ("Ægir", "aegir"),
            ("Œuvre", "oeuvre"),
            ("Þór", "thor"),
            ("Guðrún", "gudrun"),
            ("Işık", "isik"),
            ("İnci", "inci"),
            ("Ħamrun", "hamrun"),
            ("Ŧoivo", "toivo"),
            ("Kŋ́", "kn"),
            ("Əliyev", "eliyev"),
            ("Ɓala", "bala"),
            ("Ǥuo", "guo"),
            ("Müller", "muller"),
            ("Mu\u0308ller", "MÜLLER"),
            ("ﬁnn", "finn"),
            ("Ａｎｎ", "ann"),
            ("O’Brien", "o'brien"),
            ("O'Brien", "o’brien"),
            ("Smith–Jones", "smith-jones"),
            ("\u202bAnn\u202c", "ann"),
            ("Ҡазан", "казан"),
            ("ёлка", "елка"),
            ("أحمد", "احمد"),
            ("علی", "علي"),
            ("Ελλάδα", "ελλαδα"),
            ("ΣΟΦΟΣ", "σοφος"),
        ],
    )
    def test_spellings(self, one, told, asked):
        assert finds(one, asked, caller_name=told)
        assert finds(one, told, caller_name=asked)

    def test_every_database(self, catalog):
        for told, asked in (("Łukasz", "lukasz"), ("Søren Straße", "soren strasse")):
            assert finds(catalog, asked, caller_name=told)

    def test_long_texts_take_no_long_time(self):
        assert len(list(words_in("Łukasz æ 解約 " * 20_000))) == 20_000 * 5


class TestScriptsWithoutSpaces:
    """Words are found inside of sentences that have no spaces."""

    @pytest.mark.parametrize(
        ("said", "asked", "found"),
        [
            ("先月の契約を解約したいのですが。", "解約", True),
            ("先月の契約を解約したいのですが。", "解約したい", True),
            ("先月の契約を解約したいのですが。", "約", True),
            ("先月の契約を解約したいのですが。", "のですが", True),
            ("先月の契約を解約したいのですが。", "が", True),
            ("先月の契約を解約したいのですが。", "約束", False),
            ("カタカナのサポートセンター", "サポート", True),
            ("ｶﾀｶﾅのｻﾎﾟｰﾄ", "サポート", True),
            ("我想取消我的订阅，谢谢", "取消", True),
            ("我想取消我的订阅，谢谢", "订阅", True),
            ("我想取消我的订阅，谢谢", "订 取消", True),
            ("我想取消我的订阅，谢谢", "退款", False),
            ("iPhoneを解約したい", "iphone", True),
            ("iPhoneを解約したい", "phone", False),
            ("iPhoneを解約したい", "iPhoneを解約", True),
            ("ต้องการยกเลิกสัญญา", "ยกเลิก", True),
            ("ต้องการยกเลิกสัญญา", "คืนเงิน", False),
            ("ខ្ញុំចង់លុបចោលកិច្ចសន្យា", "លុបចោល", True),
            ("ຂ້ອຍຕ້ອງການຍົກເລີກ", "ຍົກເລີກ", True),
            ("စာချုပ်ကိုဖျက်သိမ်းချင်ပါတယ်", "ဖျက်သိမ်း", True),
            ("고객센터로연결", "센터", True),
            ("𠮷野家に電話", "𠮷野", True),
            ("王小明", "小明", True),
        ],
    )
    def test_parts_of_sentences(self, one, said, asked, found):
        assert finds(one, asked, transcript=said) is found
        assert finds(one, asked, caller_name=said) is found

    def test_every_database(self, catalog):
        said = "先月の契約を解約したいのですが。我想取消我的订阅。ต้องการยกเลิกสัญญา"
        for asked in ("解約", "約を解", "取消 订阅", "ยกเลิก", said):
            assert finds(catalog, asked, transcript=said)
        assert not finds(catalog, "退款", transcript=said)

    def test_pairs_that_many_recordings_have(self, catalog, monkeypatch):
        monkeypatch.setattr("receiver.catalog.search.RARE", 3)
        catalog.add(recording(n, transcript="契約を解約" if n % 2 else "契約") for n in range(30))
        assert len(paths(catalog.search(Query(text="契約を解約")))) == 15

    def test_long_search_is_no_error(self, catalog):
        """Of a long word not all pairs are looked for."""
        said = "".join(chr(0x4E00 + n) for n in range(200))
        assert finds(catalog, said, transcript=said)
        assert MOST_PAIRS < 100

    def test_names_are_found_however_long_the_transcript_is(self, one):
        said = "".join(chr(0x4E00 + n * 7 % 20_000) for n in range(30_000))
        said += " " + " ".join(f"word{n}" for n in range(3000))
        call_id = "a" * 60 + "@10.0.0.1"
        assert finds(one, call_id, transcript=said, call_id=call_id, caller_name="Ann")
        assert finds(one, "ann", transcript=said, call_id=call_id, caller_name="Ann")

    def test_an_hour_of_speech_is_found_to_its_end(self, one):
        """About 15,000 characters, and 10,000 words."""
        said = "".join(chr(0x4E00 + n * n % 1500) for n in range(15_000)) + "解約"
        assert finds(one, "解約", transcript=said)
        said = " ".join(f"w{n * n % 2500}" for n in range(10_000)) + " refund"
        assert finds(one, "refund", transcript=said)

    def test_folding_twice_changes_nothing(self):
        for number in (*range(0xD800), *range(0xE000, 0x30000)):
            plain = folded(chr(number))
            assert folded(plain) == plain, hex(number)


class TestFilters:
    """Recordings are filtered by account, direction, format, and shortest duration."""

    def fill(self, catalog: Catalog) -> None:
        catalog.add(
            recording(
                n,
                path=f"{n}.{'wav' if n % 5 else 'MP3'}",
                extension="wav" if n % 5 else "MP3",
                account=ACCOUNT if n % 2 else "Acme",
                direction=("inbound", "outbound", "")[n % 3],
                duration=float(n),
                caller_name=f"Ann{n % 4}",
            )
            for n in range(60)
        )

    @pytest.mark.parametrize("rare", [0, 10, 5000])
    @pytest.mark.parametrize(
        ("query", "wanted"),
        [
            (Query(account=ACCOUNT), lambda n: n % 2),
            (Query(account="Acme"), lambda n: n % 2 == 0),
            (Query(account="Acm"), lambda n: False),
            (Query(account="nobody's"), lambda n: False),
            (Query(direction="outbound"), lambda n: n % 3 == 1),
            (Query(extension="mp3"), lambda n: n % 5 == 0),
            (Query(extension="MP3", shortest=30), lambda n: n % 5 == 0 and n >= 30),
            (Query(shortest=50), lambda n: n >= 50),
            (Query(shortest=59), lambda n: n == 59),
            (Query(shortest=60), lambda n: False),
            (
                Query(text="ann1", account=ACCOUNT, direction="inbound", shortest=20),
                lambda n: n % 4 == 1 and n % 2 and n % 3 == 0 and n >= 20,
            ),
        ],
    )
    def test_filters(self, catalog, monkeypatch, query, wanted, rare):
        monkeypatch.setattr("receiver.catalog.search.RARE", rare)
        self.fill(catalog)
        found = [int(path.partition(".")[0]) for path in paths(catalog.search(query))]
        assert found == [n for n in reversed(range(60)) if wanted(n)][:50]

    def test_what_can_be_chosen(self, catalog):
        assert catalog.values("account", 10) == []
        self.fill(catalog)
        assert sorted(catalog.values("account", 10)) == sorted([ACCOUNT, "Acme"])
        assert catalog.values("direction", 10) == ["inbound", "outbound"]
        assert catalog.values("extension", 10) == ["mp3", "wav"]
        assert len(catalog.values("account", 1)) == 1
        catalog.remove(f"{n}.wav" for n in range(60))
        catalog.remove(f"{n}.MP3" for n in range(60) if n % 2)
        assert catalog.values("account", 10) == ["Acme"]

    def test_no_text_passes_for_a_filter(self, one):
        one.add([recording(1, caller_name="\x1faAcme \x1fdinbound", account="Other")])
        assert paths(one.search(Query(account="Acme"))) == []
        assert one.values("account", 10) == ["Other"]

    @pytest.mark.parametrize("account", ["x" * 255, "a b", "a\x1f", " a", "é" * 100])
    def test_any_account(self, catalog, account):
        catalog.add([recording(1, account=account), recording(2, account="a")])
        assert "1.mp3" in paths(catalog.search(Query(account=account)))
        assert len(catalog.values("account", 10)) in (1, 2)


class TestTimes:
    """Days are those of one time zone, whatever zone a catalog was made in."""

    def test_days_of_the_call_or_of_its_reception(self, catalog):
        day = 24 * 60 * 60
        catalog.add(recording(n, received=MAY_1 + 3 * day, began=MAY_1 + n * day) for n in range(3))
        may = [date(2026, 5, n) for n in range(1, 6)]
        assert paths(catalog.search(Query(since=may[1], until=may[1]))) == ["1.mp3"]
        assert paths(catalog.search(Query(since=may[3], until=may[3]))) == []
        received = Query(since=may[3], until=may[3], time="received")
        assert len(paths(catalog.search(received))) == 3
        assert paths(catalog.search(Query(sort="oldest"))) == ["0.mp3", "1.mp3", "2.mp3"]
        counts = {day: count for day, (count, _) in catalog.days(may[0], may[4]).items()}
        assert counts == {may[0]: 1, may[1]: 1, may[2]: 1}
        assert list(catalog.days(may[0], may[4], "received")) == [may[3]]

    @pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Los_Angeles", "Asia/Tokyo"])
    def test_chart_and_filter_agree(self, url, zone):
        """Recordings of every hour, over the day on which clocks change in Europe."""
        zone = ZoneInfo(zone)
        first = datetime(2026, 10, 23, tzinfo=ZoneInfo("UTC")).timestamp()
        catalog = Catalog(url)  # of the system's zone
        catalog.add(recording(n, received=first + n * 3600) for n in range(96))
        catalog.close()
        catalog = Catalog(url, zone)
        days = catalog.days(date(2026, 10, 22), date(2026, 10, 28))
        for day, (count, _) in days.items():
            found = catalog.search(Query(since=day, until=day, limit=100)).recordings
            assert len(found) == count
            assert {datetime.fromtimestamp(each.began, zone).date() for each in found} == {day}
        assert sum(count for count, _ in days.values()) == 96
        if str(zone) == "Europe/Berlin":
            assert days[date(2026, 10, 25)][0] == 25
        catalog.close()


class TestPlaces:
    """A place in the order that no page gave out is refused before a database sees it."""

    GARBAGE = (
        "",
        "x",
        "[]",
        "{}",
        "null",
        "[1]",
        "[1,2,3]",
        "[true,1]",
        "[false,1]",
        "[null,1]",
        '["1",1]',
        '["",1]',
        "[[1],1]",
        "[{},1]",
        "[1,true]",
        '[1,"1"]',
        "[1,1.0]",
        "[1,null]",
        "[NaN,1]",
        "[Infinity,1]",
        "[-Infinity,1]",
        "[1e999,1]",
        "[1,1e3]",
        "[1,9223372036854775808]",
        "[9223372036854775808,1]",
        "[" + "9" * 5000 + ",1]",
        "[" * 5000,
        '["\\u0000",1]',
        '["\\ud800",1]',
    )

    @pytest.mark.parametrize("sort", ["newest", "oldest", "longest", "largest", "caller"])
    def test_garbage(self, catalog, sort):
        catalog.add([recording(1)])
        texts = ('["1",1]', '["",1]') if sort == "caller" else ()
        more = () if sort != "largest" else ("[1.5,1]", "[1e3,1]")
        for place in (*self.GARBAGE[1:], *more):
            for side in ("after", "before"):
                if place in texts:
                    catalog.search(Query(sort=sort, **{side: place}))
                    continue
                with pytest.raises(ValueError, match="there is no such page"):
                    catalog.search(Query(sort=sort, **{side: place}))

    def test_extremes_are_no_error(self, catalog):
        catalog.add([recording(1)])
        for sort in ("newest", "longest", "largest"):
            for value in (0, -1, (1 << 63) - 1, -(1 << 63)):
                place = json.dumps([value, value])
                catalog.search(Query(sort=sort, after=place))
        catalog.search(Query(after="[1.7e308, 1]"))
        catalog.search(Query(sort="caller", after='["\U0001f600", 1]'))
