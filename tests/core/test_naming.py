"""From the URL to the stored name: what Kazoo's Call-IDs become, and what is refused."""

import hashlib

import pytest

from receiver.core.naming import LONGEST_FILENAME, RecordingName, sidecar
from receiver.errors import InvalidName
from receiver.formats import FORMATS, SIDECARS, format_of
from receiver.storage.paths import (
    call_id_of,
    extension_of,
    folder_of,
    is_recording,
    numbered,
    older,
    original,
    url_of,
)
from support.names import as_kazoo


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("call_recording_abc123%4010.0.0.1.mp3", "abc123@10.0.0.1.mp3"),
        ("call_recording_abc123@10.0.0.1..mp3", "abc123@10.0.0.1.mp3"),
        ("call_recording_abc...mp3", "abc..mp3"),
        ("call_recording_abc123%4010.0.0.1.", "abc123@10.0.0.1~"),
        ("call_recording_abc123%4010.0.0.1", "abc123@10.0.0.1~"),
        ("call_recording_abc@sip.example.com.", "abc@sip.example.com~"),
        ("call_recording_abc.mp3.", "abc%2Emp3~"),
        ("call_recording_abc.WAV", "abc.WAV"),
        ("call_recording_abc..Mp3", "abc.Mp3"),
        ("call_recording_abc.p\u017f", "abc.p%C5%BF~"),
        ("ACCOUNT", "ACCOUNT~"),
        ("ACCOUNT/DOC/NAME", "ACCOUNT/DOC/NAME~"),
        ("x.mp3/y.mp3", "x%2Emp3/y.mp3"),
        ("sip.example.com.AU/X.mp3.json/y.mp3", "sip.example.com%2EAU/X.mp3%2Ejson/y.mp3"),
        ("X~1.mp3/y.mp3", "X%7E1%2Emp3/y.mp3"),
        ("mp3/.mp3/y.mp3", "mp3/%2Emp3/y.mp3"),
        ("call_recording_abc.mp3..hold", "abc%2Emp3.hold"),
        ("recordings/call_recording_X.mp3", "recordings/X.mp3"),
        ("ACCOUNT/USER/call_recording_X.wav", "ACCOUNT/USER/X.wav"),
        ("voicemail/ACCOUNT/BOX/call_recording_X.mp3", "voicemail/ACCOUNT/BOX/X.mp3"),
        ("a//b///call_recording_X.mp3", "a/b/X.mp3"),
        ("call_recording_a/b/call_recording_c.mp3", "a%2Fb%2Fcall_recording_c.mp3"),
        ("call_recording_a%2Fb.mp3", "a%2Fb.mp3"),
        ("call_recording_a%252Fb.mp3", "a%252Fb.mp3"),
        ("call_recording_50%..mp3", "50%25.mp3"),
        ("call_recording_../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd~"),
        ("call_recording_%2e%2e%2f%2e%2e%2fx.mp3", "%2E.%2F..%2Fx.mp3"),
        ("call_recording_a%00b%0d%0ac.mp3", "a%00b%0D%0Ac.mp3"),
        ("call_recording_J%C3%B6rg.mp3", "J%C3%B6rg.mp3"),
        ("call_recording_%ff%fe.mp3", "%FF%FE.mp3"),
        ("call_recording_a~1.mp3", "a%7E1.mp3"),
        ("call_recording_a\\b.mp3", "a%5Cb.mp3"),
        ("call_recording_a#b.mp3", "a%23b.mp3"),
        ("abc123@10.0.0.1.mp3", "abc123@10.0.0.1.mp3"),
        ("ACCOUNT/DOC/NAME.mp3", "ACCOUNT/DOC/NAME.mp3"),
        ("ACCOUNT%2FDOC/NAME.mp3", "ACCOUNT%2FDOC/NAME.mp3"),
        (".htaccess", "%2Ehtaccess~"),
        (".incoming/x.mp3", "%2Eincoming/x.mp3"),
    ],
)
def test_url_path_becomes_stored_path(path, stored):
    assert str(RecordingName.parse(path)) == stored


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "no recording name"),
        ("call_recording_", "no recording name"),
        ("folder/", "no recording name"),
        ("..", "'..' segment"),
        ("../x.mp3", "'..' segment"),
        ("%2e%2e/x.mp3", "'..' segment"),
        ("a/./call_recording_x.mp3", "'..' segment"),
        ("a/" * 17 + "x.mp3", "folders"),
        ("a" * 241 + "/x.mp3", "too long"),
        (("a" * 100 + "/") * 7 + "x.mp3", "too long"),
    ],
)
def test_refusal_says_why(path, reason):
    with pytest.raises(InvalidName, match=reason) as refusal:
        RecordingName.parse(path)
    assert "\n" not in refusal.value.description


@pytest.mark.parametrize("extension", ["mp3", "MP3", "", *SIDECARS, "JSON"])
@pytest.mark.parametrize("kind", SIDECARS)
def test_call_id_that_ends_as_what_lies_beside_a_recording_does_is_another_name(extension, kind):
    name = RecordingName("", "abc", extension)
    for call_id in (name.filename, f"{name.filename}~", f"{name.filename}.{kind}"):
        for ending in ("", kind):
            other = RecordingName.parse(as_kazoo(call_id, ending))
            assert other.filename != sidecar(name.filename, kind)
            assert is_recording(other.filename)


def test_names_that_differ_in_case_are_two_recordings():
    paths = ["x.WAV", "x.wav", "X.wav", "x.Wav", "x.WAV.", "x..WAV.json", "x..wav.JSON"]
    assert len({str(RecordingName.parse(path)) for path in paths}) == len(paths)


@pytest.mark.parametrize("extension", ["WAV", "Mp3", "TIFF", "JSON"])
def test_format_is_known_in_any_case(extension):
    assert format_of(extension) is FORMATS[extension.lower()]
    for number in (0, 1):
        path = numbered(f"A/x.{extension}", number)
        assert extension_of(path) == extension
        assert original(path) == f"A/x.{extension}"
        assert call_id_of(path) == "x"


@pytest.mark.parametrize(
    ("path", "before"),
    [
        ("A/x.mp3", "A/x.mp3"),
        ("A/x~", "A/x"),
        ("A/x~~1", "A/x~~1"),
        ("example.com%2Eau/x.mp3", "example.com.au/x.mp3"),
        ("a%2Emp3/b%2EWAV/x%2Emp3~", "a.mp3/b.WAV/x%2Emp3"),
        ("%2Emp3/%2Ex%2Emp3/x.mp3", "%2Emp3/%2Ex.mp3/x.mp3"),
    ],
)
def test_path_of_earlier_releases_is_known(path, before):
    assert older(path) == before
    assert folder_of(before) == folder_of(path) == path.rpartition("/")[0]


@pytest.mark.parametrize(
    "path",
    [
        "A/x.mp3",
        "x@h..mp3",
        "x@h.~",
        "A/x~",
        "A/x",
        "x%2Emp3~",
        "x%2Emp3",
        "x.WAV",
        "call_recording_x.mp3",
        "example.com%2Eau/x.mp3",
        "example.com.au/x.mp3",
        "a%2Fb%7E%2Emp3.json",
    ],
)
def test_stored_recording_has_a_url_that_finds_it(path):
    found = str(RecordingName.parse(url_of(path)))
    assert path in (found, older(found))


@pytest.mark.parametrize("path", ["A/x~1.mp3", "x~~1", "x~1", "a b/x.mp3", "x~" + "0" * 64])
def test_what_no_url_leads_to_has_none(path):
    assert url_of(path) is None


def test_long_call_id_ends_in_its_sha256():
    call_id = "a/" * 200
    name = RecordingName.parse(f"call_recording_{call_id}..mp3")
    digest = hashlib.sha256(call_id.encode()).hexdigest()
    assert name.filename == "a%2F" * 42 + f"a~{digest}.mp3"
    assert len(name.filename) <= LONGEST_FILENAME
    assert numbered(name.filename, 1) == "a%2F" * 42 + f"a~{digest}~1.mp3"
