"""Names of any Call-ID, as Hypothesis makes them up."""

import pytest

pytest.importorskip("hypothesis")

from contextlib import suppress
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from receiver.core.naming import RecordingName, sidecar
from receiver.errors import InvalidName
from receiver.formats import SIDECARS
from receiver.storage.paths import NEW, is_recording, numbered, older
from support.names import as_kazoo

# The characters that RFC 3261 allows in a Call-ID, and anything else.
call_ids = st.one_of(
    st.text(alphabet="abc019-.!%*_+`'~()<>:\\\"/[]?{}@", min_size=1),
    st.binary(min_size=1).map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.text(alphabet="aZ.~%/", min_size=150, max_size=300),
).filter(lambda text: text not in (".", ".."))
extensions = st.sampled_from(["mp3", "wav", "WAV", "", *SIDECARS, "JSON"])


@given(call_ids, extensions, call_ids, extensions)
def test_two_recordings_never_share_a_file(call_id, extension, other_id, other_extension):
    name = RecordingName.parse(as_kazoo(call_id, extension))
    other = RecordingName.parse(as_kazoo(other_id, other_extension))
    same = (call_id, extension) == (other_id, other_extension)
    assert (name.filename == other.filename) is same
    assert numbered(name.filename, 1) != other.filename


@given(call_ids, extensions, call_ids, extensions)
def test_no_recording_is_named_as_what_lies_beside_another(
    call_id, extension, other_id, other_extension
):
    name = RecordingName.parse(as_kazoo(call_id, extension))
    other = RecordingName.parse(as_kazoo(other_id, other_extension))
    for number in (0, 1):
        assert is_recording(numbered(name.filename, number))
        for kind in SIDECARS:
            assert not is_recording(sidecar(numbered(name.filename, number), kind))
            assert sidecar(numbered(name.filename, number), kind) != other.filename


@given(call_ids, extensions, call_ids, extensions, st.sampled_from([*SIDECARS, "mp3", "MP3"]))
def test_no_folder_is_named_as_a_file_could_be(call_id, extension, other_id, other, kind):
    """Whatever is stored with a recording, what a sender calls a folder is none of it."""
    filename = RecordingName.parse(as_kazoo(call_id, extension)).filename
    files = [numbered(filename, number) for number in (0, 1, NEW)]
    files += [sidecar(file, kind) for file in files for kind in SIDECARS]
    names = [call_id, filename, *files, other_id, f"{other_id}.{other}", f"{other_id}.{kind}"]
    for name in names:
        encoded = quote(name.encode("utf-8", "surrogateescape"), safe="")
        with suppress(InvalidName):
            folder = RecordingName.parse(f"{encoded}/x.mp3").folder
            assert folder not in files
            assert folder != f"{filename}.{kind}"


@given(call_ids, call_ids)
def test_two_folders_never_share_one(name, other):
    folders = []
    for each in (name, other):
        encoded = quote(each.encode("utf-8", "surrogateescape"), safe="")
        with suppress(InvalidName):
            folders.append(RecordingName.parse(f"{encoded}/x.mp3").folder)
    if len(folders) == 2:
        assert (folders[0] == folders[1]) is (name == other)


@given(call_ids, extensions, call_ids, extensions)
def test_what_earlier_releases_stored_is_taken_for_no_other_recording(
    call_id, extension, other_id, other_extension
):
    name = RecordingName.parse(as_kazoo(call_id, extension)).filename
    other = RecordingName.parse(as_kazoo(other_id, other_extension)).filename
    if name != other:
        assert older(name) not in (other, older(other))


@given(call_ids, extensions)
def test_call_id_and_extension_are_read_as_they_were_sent(call_id, extension):
    name = RecordingName.parse(as_kazoo(call_id, extension))
    assert (name.call_id, name.extension) == (call_id, extension)


@pytest.mark.parametrize("folder", ["", "ACCOUNT/a%2Fb", "call_recording_a/call_recording_b"])
@given(call_ids, extensions)
def test_url_of_a_name_leads_back_to_it(folder, call_id, extension):
    name = RecordingName(folder, call_id, extension)
    assert RecordingName.parse(name.to_url()) == name


@given(st.text(alphabet="ab./%2eEF~_\\\x00\r\n*#ö", max_size=400), st.integers(1, 99999))
def test_stored_name_is_an_ordinary_visible_file_below_the_root(path, number):
    try:
        name = RecordingName.parse(path)
    except InvalidName:
        return
    for part in (
        *filter(None, name.folder.split("/")),
        name.filename,
        numbered(name.filename, number),
    ):
        assert part.isascii() and part.isprintable() and len(part) <= 255
        assert "/" not in part and not part.startswith(".")
