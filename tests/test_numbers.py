"""Telephone numbers, however they are written."""

import time

import pytest

from receiver.numbers import digits_of, may_hold, texts_in

DIGITS = "4930123456"


@pytest.mark.parametrize(
    "text",
    [
        "4930123456",
        "+49/30/123456",
        "+49 (30) 123-456",
        "(+49) 30 123456",
        "+49 (0)30 123456",
        "++49.30.123456",
        "49_30_12'34'56",
        "+49\u00a030\u00a0123456",
        "+49\u202f30\u2009123456",
        "+49\u201130\u2011123456",
        "+49\u201330\u2212123456",
        "\u202a+4930123456\u202c",
        "\u200e+49 30 123456\u200f",
        "\u2066+4930123456\u2069",
        "\ufeff49\u200b30\u00ad123456",
        "\t+49 30\r\n123456\0",
        "\uff0b\uff14\uff19\uff13\uff10\uff11\uff12\uff13\uff14\uff15\uff16",
        "\u0664\u0669\u0663\u0660\u0661\u0662\u0663\u0664\u0665\u0666",
        "\u06f4\u06f9\u06f3\u06f0\u06f1\u06f2\u06f3\u06f4\u06f5\u06f6",
        "4\ufe0f\u20e39\ufe0f\u20e330123456",
        '"Bob" <4930123456>',
        '"Bob 2" <sip:4930123456@10.0.0.1:5060>;tag=7',
        "Bob <tel:+4930123456>",
        '"Doe, Bob" <sip:+4930123456@acme.example.com;user=phone>',
        '"4930123456"',
        '"Bob" 4930123456',
        "<4930123456>",
        "<sip:4930123456>",
        "sip:4930123456",
        "sip:4930123456:5060",
        "SIPS:+4930123456:5061;transport=tls",
        "sip://4930123456@acme.example.com",
        "4930123456@sip:5060",
        "sip:4930123456:password@10.0.0.1",
        "tel:+49-30-123456",
        "tel:+49-30-123456;phone-context=example.com",
        "tel:+4930123456;ext=12;isub=3",
        "%2B49%2030%20123456",
        "%252B4930123456",
        "%34%39%33%30%31%32%33%34%35%36",
        "sip%3A%2B4930123456%40acme.example.com",
        "4930123456x12",
        "+49 30 123456 ext. 12",
        "+49 30 123456 Extension 12",
        "+49 30 123456, ext 12",
        "+49 30 123456 ; ext. 12",
        "+49 30 123456 #12",
        "4930123456#",
        "+49 30 123456 ext: 12",
    ],
)
def test_a_number_is_read_however_it_is_written(text):
    assert digits_of(text) == DIGITS


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("1.555.123.4567", "15551234567"),
        ("004930123456", "004930123456"),
        ("0049 (0)30 123456", "004930123456"),
        ("(0049) (0) 30 123456", "004930123456"),
        ("4930123456, 12", ""),
        ("030 (0) 1", "03001"),
        ("10.0.0.1", ""),
        ("sip:10.0.0.1:5060", ""),
        ("sip:[2001:db8::1]:5060", ""),
        ("*97", ""),
        ("4930123456, 4930123457", ""),
        ("4930123456/4930123457", ""),
        ("<sip:4930123456@x>, <sip:4930123457@x>", ""),
        ("x12", ""),
        ("4930123456 Bob", ""),
        ("1e5", ""),
        ("\u4e00\u4e8c", ""),
        ("\udcfc", ""),
    ],
)
def test_what_is_no_single_number_is_not_taken_for_one(text, digits):
    assert digits_of(text) == digits


@pytest.mark.parametrize(
    ("text", "is_address", "expected"),
    [
        ("Bob 4930123456", False, True),
        ("49 30 12 34 5x", False, True),
        ("x1", False, True),
        ("4930123456, 4930123457", False, True),
        ("anonymous", False, False),
        ("", False, False),
        ("4930123457", False, False),
        ("*97", False, False),
        ("10.0.0.1", False, False),
        ("49.30.123.456", False, False),
        ("user_4930123456@acme", True, True),
        ("user_a1b2c3@acme", True, False),
        ("49301234xx@acme", True, True),
        ("anonymous@10.0.0.1", True, False),
        ("sip:10.0.0.1:5060", True, False),
        ("<sip:4930123456@x>, <sip:4930123457@x>", True, True),
        ("1" * 20_000, True, True),
        ("a" * 20_000, False, False),
    ],
)
def test_what_cannot_be_read_may_hold_a_number(text, is_address, expected):
    assert may_hold(text, DIGITS, is_address=is_address) is expected


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("1", ["1"]),
        (4930123456, ["4930123456"]),
        (4930123456.0, ["4930123456"]),
        (float("inf"), ["inf"]),
        (None, []),
        (True, []),
        (["1", {"a": "2"}], ["2", "1"]),
    ],
)
def test_values_of_json_have_texts(value, texts):
    assert texts_in(value) == texts


@pytest.mark.parametrize(
    "part", ["(", "sip:", "%25", '"', "<", "1 ", "\u0301\u0323", "tel:\u200e", "( 0", "x1", "@"]
)
def test_time_is_linear_in_a_text(part):
    """A text of 16 KB, and one as long as is read."""
    for length in (1000, 16_000):
        text = part * (length // len(part))
        started = time.perf_counter()
        for _ in range(10):
            digits_of(text)
            may_hold(text, DIGITS, is_address=True)
        assert time.perf_counter() - started < 0.2
