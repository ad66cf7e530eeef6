"""What is told about a recording: from the query or a form's JSON, bounded, without secrets."""

import json

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


def test_bytes_that_are_no_utf8_are_replaced():
    assert metadata.from_query("from=%ff\xfe") == {"from": "\ufffd\ufffd"}


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
    assert json.loads(receiver.files()["X~.json"]) == {"call_id": "Y"}
    assert receiver.files()["X.json"] == b"other"
