"""What is told about a recording: from the query or a form's JSON, bounded, without secrets."""

import json
from urllib.parse import unquote_to_bytes

import pytest

from receiver.errors import IncompleteBody
from receiver.senders import metadata
from receiver.storage import sidecars
from support.receivers import Receiver


def test_query_is_decoded_as_kazoo_encodes_it():
    query = "from=1001%40a.b&caller_id_name=J\xc3\xb6rg%20%26%20%E6%9D%8E&to=%2B1415&plus=a+b"
    assert metadata.from_query(query) == {
        "from": "1001@a.b",
        "caller_id_name": "Jörg & 李",
        "to": "+1415",
        "plus": "a+b",
    }


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("caller_id_name=Ann+Lee", {"caller_id_name": "Ann Lee"}),
        (
            "caller_id_name=Ann+Lee&caller_id_number=+15550100",
            {"caller_id_name": "Ann Lee", "caller_id_number": "+15550100"},
        ),
        (
            "caller_id_name=Ann+%2B+Lee&callee_id_number=%2B1+555+0100",
            {"caller_id_name": "Ann + Lee", "callee_id_number": "+1 555 0100"},
        ),
        ("caller_id_name=Ann+(O'Neill)!", {"caller_id_name": "Ann (O'Neill)!"}),
        ("callee_id_number=+1+(555)+0100", {"callee_id_number": "+1 (555) 0100"}),
        ("callee_id_number=+1+555+0100", {"callee_id_number": "+1 555 0100"}),
        ("caller_id_name=J%C3%B6rg+Lee", {"caller_id_name": "Jörg Lee"}),
        ("caller_id_name=C%2B%2B", {"caller_id_name": "C++"}),
        ("caller_id_name=C++", {"caller_id_name": "C++"}),
        ("caller_id_name=+15550100", {"caller_id_name": "+15550100"}),
        ("call_id=a+b&from=a+b%40c", {"call_id": "a+b", "from": "a+b@c"}),
        # What no form encodes so is not taken for one:
        (
            "caller_id_name=AT+T&callee_id_name=Ann%20Lee",
            {"caller_id_name": "AT+T", "callee_id_name": "Ann Lee"},
        ),
        ("caller_id_name=AT+T&to=x@y", {"caller_id_name": "AT+T", "to": "x@y"}),
        ("caller_id_name=AT+T&from=sip:x", {"caller_id_name": "AT+T", "from": "sip:x"}),
        ("caller_id_name=J\xc3\xb6rg+T", {"caller_id_name": "Jörg+T"}),
    ],
)
def test_plus_is_a_space_where_a_query_is_encoded_as_forms_are(query, told):
    assert metadata.from_query(query) == told


@pytest.mark.parametrize(
    "query",
    [
        "",
        "&",
        "=",
        "=x",
        "token=abc",
        "Token=abc",
        "tok%65n=abc",
        "recording=x",
        "a=call_recording_X.mp3",
    ],
)
def test_names_and_tokens_are_no_metadata(query):
    assert metadata.from_query(query) == {}


def test_number_and_length_are_bounded():
    fields = metadata.from_query("&".join(f"n{n}=v" for n in range(1000)))
    assert len(fields) == 64
    assert metadata.from_query("n" * 1000 + "=" + "v" * 10_000) == {"n" * 64: "v" * 1024}


def test_what_a_form_tells_is_as_short_as_what_a_query_tells():
    """Anywhere in its document: a number of 16 KB cost whoever read it seconds."""
    told = {"n" * 100: "1 " * 8000, "custom": [{"m" * 100: ["1 " * 8000, 5, None]}]}
    assert metadata.from_json(json.dumps(told).encode()) == {
        "n" * 64: "1 " * 512,
        "custom": [{"m" * 64: ["1 " * 512, 5, None]}],
    }
    many = json.dumps({f"n{n}": n for n in range(1000)}).encode()
    assert metadata.from_json(many) == {f"n{n}": n for n in range(64)}


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (b"J%F6rg", "Jörg"),
        (b"J\xf6rg", "Jörg"),
        (b"J%C3%B6rg M\xfcller", "Jörg Müller"),
        (b"%80 5 %96 %93x%94", "€ 5 – “x”"),
        (b"%E4", "ä"),
        (b"caf%C3", "cafÃ"),
        (b"%E6%9D%8E%E6%9D", "李æ\ufffd"),  # 9D is no character there either
        (b"%ff\xfe", "ÿþ"),
    ],
)
def test_bytes_of_an_older_character_set_are_what_they_meant(sent, meant):
    query = (b"caller_id_name=" + sent + b"&" + sent + b"=1").decode("latin-1")
    assert metadata.from_query(query) == {"caller_id_name": meant, meant: "1"}
    data = unquote_to_bytes(sent)
    assert metadata.from_json(b'{"name": "' + data + b'"}') == {"name": meant}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_json_may_be_in_any_encoding_of_unicode(encoding):
    assert metadata.from_json('{"name": "Jörg"}'.encode(encoding)) == {"name": "Jörg"}


def nested(levels: int, inside: str = "0") -> bytes:
    return ('{"a": ' + "[" * (levels - 1) + inside + "]" * (levels - 1) + "}").encode()


def test_json_that_is_nested_too_deeply_for_some_readers_is_refused():
    zeros = ", ".join(["0"] * 28_000)
    assert metadata.from_json(nested(metadata.DEEPEST)) == json.loads(nested(metadata.DEEPEST))
    objects = b'{"a": ' * 65 + b"0" + b"}" * 65
    for data in (nested(65), nested(900, zeros), nested(20_000), objects):
        with pytest.raises(IncompleteBody, match="nested more than 64 levels deep") as refusal:
            metadata.from_json(data)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("1e400", "1e400"),
        ("-1e400", "-1e400"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("9" * 1000, "9" * 1000),
        ("9" * 5000, "9" * 1024),
        ("-" + "9" * 301, "-" + "9" * 301),
        ("0." + "1" * 1000, "0." + "1" * 1000),
        ("9" * 300, int("9" * 300)),
        ("1e308", 1e308),
        ("-1.5", -1.5),
    ],
)
def test_number_that_other_readers_do_not_take_is_kept_as_text(sent, kept):
    fields = metadata.from_json(f'{{"a": {sent}, "b": [{sent}]}}'.encode())
    assert fields == {"a": kept, "b": [kept]}
    assert strict(sidecars.to_json(fields)) == fields


def strict(data: bytes) -> dict[str, object]:
    """JSON as RFC 8259 has it: no NaN, and each name once."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    return json.loads(data, parse_constant=refuse, object_pairs_hook=once)


@pytest.mark.parametrize(
    "document",
    [
        {f"n{n}": "\0" * 150 for n in range(64)},
        {"a": [1e15] * 3000},
        {"a": [[[[[0] * 30] * 10] * 10] * 5]},
        json.loads(nested(64, ", ".join(["0"] * 20_000))),
        {"\ud800": {"\udfff": "\ud800"}},
    ],
)
def test_what_is_stored_of_a_form_can_be_read_back(document):
    sent = json.dumps(document, separators=(",", ":")).encode()
    assert len(sent) <= metadata.LONGEST_JSON
    data = sidecars.to_json(metadata.from_json(sent))
    assert len(data) < 20 * len(sent) and len(data) < sidecars.LONGEST
    assert len(sidecars.from_json(data)) == len(document)
    strict(data)


def test_last_of_two_fields_of_one_name_counts():
    assert strict(sidecars.to_json(metadata.from_json(b'{"a": 1, "a": 2}'))) == {"a": 2}
    assert metadata.from_query("a=1&a=2") == {"a": "2"}


def test_longest_query_can_be_read_back():
    query = "&".join(f"n{n}{'%00' * 64}={'%01' * 1024}" for n in range(100))
    fields = metadata.from_query(query)
    data = sidecars.to_json(fields)
    assert len(data) < sidecars.LONGEST and sidecars.from_json(data) == fields


def test_each_field_is_a_line_of_the_file():
    text = sidecars.to_json({"from": "a", "custom": {"b": [1, None]}}).decode()
    assert text == '{\n "from": "a",\n "custom": {"b": [1, null]}\n}\n'


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 60_000])
def test_json_has_to_be_an_object(data):
    with pytest.raises(IncompleteBody, match="no JSON object"):
        metadata.from_json(data)


def test_file_is_json_in_utf8():
    text = sidecars.to_json({"caller_id_name": "Jörg", "odd": "\ud800"}).decode()
    assert json.loads(text) == {"caller_id_name": "Jörg", "odd": "?"}
    assert "Jörg" in text


def test_superseded_recording_keeps_its_own(receiver: Receiver):
    for number in (1, 2):
        receiver.put(f"/kzr/call_recording_X.mp3?call_id=call{number}", b"%d" % number)
    assert receiver.metadata("X~1.mp3") == {"call_id": "call1"}
    assert receiver.metadata("X.mp3") == {"call_id": "call2"}


def test_recording_that_is_called_like_anothers_metadata_keeps_apart(receiver: Receiver):
    receiver.put("/kzr/call_recording_X.mp3?call_id=Y", b"audio")
    receiver.put("/kzr/call_recording_X.mp3.json", b"other")
    assert receiver.metadata("X.mp3") == {"call_id": "Y"}
    assert receiver.files()["X%2Emp3.json"] == b"other"


def test_recording_without_an_extension_has_its_metadata_too(receiver: Receiver):
    receiver.put("/kzr/call_recording_X.?call_id=Y", b"audio")
    receiver.put("/kzr/call_recording_X.json", b"other")
    assert json.loads(receiver.files()["X~~.json"]) == {"call_id": "Y"}
    assert receiver.files()["X.json"] == b"other"
