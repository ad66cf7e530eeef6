"""Multipart and base64: the recording is what the sender had, whatever the form around it."""

import base64
import os

import pytest

from receiver.errors import IncompleteBody
from receiver.senders.forms import READ_SIZE, boundary
from support.forms import TELLS, TYPE, B, extract, form, read
from support.memory import MIB, peak
from support.receivers import Receiver

AUDIO = b"ID3\x03" + bytes(range(256)) * 1000

FILE = (
    f'\r\n--{B}\r\ncontent-disposition: form-data; name="file"; filename="a.mp3"\r\n'.encode()
    + b"content-type: audio/mpeg\r\n\r\n"
    + AUDIO
)
FILE_HEAD = FILE[: FILE.index(b"\r\n\r\n")]
END = f"\r\n--{B}--\r\n".encode()


def field(name: str, value: bytes) -> bytes:
    """A text field as curl and browsers send it."""
    head = f'\r\n--{B}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return head.encode() + value


def post(receiver: Receiver, body: bytes, b: str = B, **kwargs):
    headers = {"Content-Type": TYPE + b}
    return receiver.request("POST", "/kzr/A/D/X.mp3", body, headers=headers, **kwargs)


class TestServer:
    @pytest.mark.parametrize("content", [b"", b"0", AUDIO, b"\r\n--" + B.encode()[:-1] + b"\r\n"])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_content_is_the_recording_and_json_its_metadata(self, worker, content, chunked):
        assert post(worker, form(content), chunked=chunked).status == 201
        assert worker.stored() == {"A/D/X.mp3": content}
        assert worker.metadata("A/D/X.mp3") == TELLS

    def test_end_of_a_form_may_fall_anywhere_between_two_reads(self, receiver):
        rest = len(form(b""))
        for size in range(READ_SIZE - rest - 5, READ_SIZE - rest + len(B) + 10):
            content = AUDIO[:size]
            assert post(receiver, form(content)).status in (200, 201)
            assert (receiver.storage / "A/D/X.mp3").read_bytes() == content

    @pytest.mark.parametrize("size", [0, 1, 2, 3, 100_000, 65536 * 3 + 1])
    def test_base64_is_decoded(self, receiver, size):
        audio = b"ID3" + os.urandom(size)
        assert post(receiver, form(base64.b64encode(audio))).status == 201
        assert receiver.stored() == {"A/D/X.mp3": audio}

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"audio",
            form(AUDIO)[:-1],
            form(AUDIO)[:-2],
            form(AUDIO)[: len(AUDIO) // 2],
            form(AUDIO, b"{"),
            form(AUDIO, b"[]"),
            form(AUDIO, b"\xff"),
            form(AUDIO, b"[" * 60_000),
            form(AUDIO, {"long": "x" * 70_000}),
            f"\r\n--{B}--".encode(),
            form(AUDIO)[:-2] + form(AUDIO),
        ],
    )
    def test_malformed_form_stores_nothing(self, worker, body):
        answer = post(worker, body)
        assert answer.status == 400, answer.text
        assert answer.line
        assert worker.stored() == {}

    @pytest.mark.parametrize("before", [0, 1, 2, 3])
    def test_text_fields_are_metadata_wherever_they_are(self, worker, before):
        fields = [field("call_id", b"abc"), field("from", "Jörg".encode()), field("to", b"M\xf6")]
        body = b"".join([*fields[:before], FILE, *fields[before:], END])
        assert post(worker, body).status == 201
        assert worker.stored() == {"A/D/X.mp3": AUDIO}
        assert worker.metadata("A/D/X.mp3") == {"call_id": "abc", "from": "Jörg", "to": "Mö"}

    def test_text_fields_stand_beside_a_json_document(self, worker):
        assert post(worker, field("to", b"1") + form(AUDIO)).status == 201
        assert worker.metadata("A/D/X.mp3") == TELLS | {"to": "1"}

    def test_text_fields_are_bounded_and_hold_no_token(self, worker):
        fields = [field(name, b"secret") for name in ("token", "Recording")]
        fields += [field(f"n{n}", b"v" * 10_000) for n in range(100)]
        assert post(worker, b"".join([*fields, FILE, END])).status == 201
        assert worker.metadata("A/D/X.mp3") == {f"n{n}": "v" * 1024 for n in range(64)}

    @pytest.mark.parametrize(
        ("body", "line"),
        [
            (b"x" * 9000, "what is before its first part is longer than 8192 bytes"),
            (b"\r\n" * 5000 + FILE, "what is before its first part is longer than 8192 bytes"),
            (FILE_HEAD + b"a" * 9000, "a part's head is longer than 8192 bytes"),
            (FILE_HEAD + b"\r\na: b" * 2000 + END, "a part's head is longer than 8192 bytes"),
            (field("n" * 9000, b"") + FILE, "a part's head is longer than 8192 bytes"),
            (FILE + END + b"x" * 9000, "what follows its last part is longer than 8192 bytes"),
            (field("a", b"") * 300 + FILE, "it has more than 256 parts"),
            (field("a", bytes(1_100_000)) + FILE, "its text fields are longer than 1048576 bytes"),
        ],
    )
    def test_what_is_around_a_recording_is_bounded(self, worker, body, line):
        answer = post(worker, body + FILE + END)
        assert (answer.status, answer.line) == (400, f"the multipart body is broken: {line}")
        assert worker.stored() == {}

    @pytest.mark.parametrize(
        "begin", [b"", FILE[: FILE.index(b"form-data")], FILE_HEAD, FILE + END, field("a", b"")]
    )
    def test_64_mib_in_a_form_that_are_no_recording_cost_less_than_2_mib(self, start, begin):
        receiver = start("--threads=1")
        (process,) = receiver.workers
        post(receiver, form(AUDIO))
        before = peak(process)
        answer = post(receiver, begin + b"x" * 64 * MIB)
        assert answer.status == 400, answer.text
        assert peak(process) - before < 2 * MIB
        assert list(receiver.stored()) == ["A/D/X.mp3"]

    @pytest.mark.parametrize(
        "body",
        [
            lambda: field("file", b"ID3 audio") + END,
            lambda: field("a", b"1") + field("b", b"2") + END,
            lambda: field("a", b"") + END,
        ],
    )
    def test_form_of_text_alone_is_refused_with_what_is_missing(self, worker, body):
        answer = post(worker, body())
        assert answer.status == 400
        assert answer.line.startswith("the multipart body holds no recording: send it as a part")
        assert worker.stored() == {}

    def test_two_files_are_still_refused(self, worker):
        answer = post(worker, field("a", b"1") + FILE + FILE + END)
        assert (answer.status, "more than one recording" in answer.line) == (400, True)

    def test_json_after_a_json_document_is_the_recording(self, worker):
        part = f'\r\n--{B}\r\ncontent-disposition: form-data; name="a"\r\n'.encode()
        part += b"content-type: application/json\r\n\r\n"
        assert post(worker, part + b'{"to": "1"}' + part + b"[]" + END).status == 201
        assert worker.stored() == {"A/D/X.mp3": b"[]"}
        assert worker.metadata("A/D/X.mp3") == {"to": "1"}

    def test_deep_json_stores_nothing_and_ordinary_json_can_be_read(self, worker):
        deep = b'{"a": ' + b"[" * 900 + b"0, " * 20_000 + b"0" + b"]" * 900 + b"}"
        assert post(worker, form(AUDIO, deep)).line.endswith("nested more than 64 levels deep")
        assert worker.stored() == {}
        flat = {"a": [[[[[0] * 10] * 10] * 10] * 5]}
        assert post(worker, form(AUDIO, flat)).status == 201
        assert worker.metadata("A/D/X.mp3") == flat

    def test_cut_form_stores_nothing(self, worker):
        head = f"POST /kzr/X.mp3 HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}{B}\r\n"
        data = f"{head}Content-Length: {len(form(AUDIO)) + 100}\r\n\r\n".encode() + form(AUDIO)
        assert worker.raw(data, end=True).status == 400
        assert worker.stored() == {}

    def test_form_that_is_cut_after_its_last_boundary_stores_nothing(self, worker):
        """What its sender counted did not arrive: nothing says that it was not the recording."""
        head = f"POST /kzr/X.mp3 HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}{B}\r\n"
        tail = b"\r\n" + bytes(300_000)
        size = len(form(AUDIO)) + len(tail) + 1
        data = f"{head}Content-Length: {size}\r\n\r\n".encode() + form(AUDIO) + tail
        assert worker.raw(data, end=True).status == 400
        assert worker.stored() == {}

    def test_disk_that_fails_is_no_broken_form(self, start):
        receiver = start(min_free="1000T")
        assert post(receiver, form(AUDIO)).status == 507

    def test_256_mib_of_base64_cost_less_than_8_mib(self, start):
        receiver = start("--threads=1", max_bytes="2G")
        (worker,) = receiver.workers
        assert post(receiver, form(base64.b64encode(AUDIO))).status == 201
        before = peak(worker)
        start_, end = form(b"SPLIT").split(b"SPLIT")
        piece = base64.b64encode(b"ID3" + bytes(range(253)) * 3 + b"xyz") * 1024
        piece = piece[: MIB // 4 * 4]
        times = 256 * MIB // len(piece)
        size = len(start_) + len(piece) * times + len(end)
        with receiver.connect() as sock:
            sock.settimeout(600)
            head = f"POST /kzr/Y.mp3 HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE}{B}\r\n"
            sock.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode() + start_)
            for _ in range(times):
                sock.sendall(piece)
            sock.sendall(end)
            assert sock.recv(20).startswith(b"HTTP/1.1 201")
        assert (receiver.storage / "Y.mp3").stat().st_size == len(piece) * times // 4 * 3
        print(f"{(peak(worker) - before) / MIB:.1f} MiB more")
        assert peak(worker) - before < 8 * MIB


class TestBase64:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"abc",  # no multiple of four
            b"RIFFabcd",  # the start of a recording that happens to be in the alphabet
            b"ID3AID3A",
            b"abcd\n",
            b"ab=d",
            b"=abc",
            b"abc-",
        ],
    )
    def test_what_may_be_a_recording_is_left_as_it_is(self, content):
        assert extract(content) == content

    @pytest.mark.parametrize(
        "start", [b"ID3\x03", b"RIFF\x00\x01", b"\xff\xfb\x90", b"OggS", b"\x00"]
    )
    def test_encoded_recording_is_decoded(self, start):
        for size in range(5):
            assert extract(base64.b64encode(start + bytes(size))) == start + bytes(size)

    def test_padding_inside_is_no_base64(self):
        content = b"QUJD" * 20_000 + b"QQ==" + b"QUJD" * 20_000
        assert extract(content) == content


def test_form_that_ends_anywhere_else_is_broken():
    whole = form(b"ID3 audio")
    for end in range(len(whole)):
        with pytest.raises(IncompleteBody):
            read(whole[:end])
    for tail in (b"\r\n", b"\r\nepilogue", b" ", b"-"):
        assert read(whole + tail) == b"ID3 audio"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("multipart/form-data; boundary=a+b/c_d-e", b"a+b/c_d-e"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        ("multipart/form-data", None),
        ("audio/mpeg", None),
        ("", None),
    ],
)
def test_boundary_is_read_as_kazoo_writes_it(content_type, expected):
    assert boundary(content_type) == expected
