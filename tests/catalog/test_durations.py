"""How long a recording is: what its bytes can hold, whatever its header or its sender claims."""

import io
import json
import struct
import wave

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("tinytag")

from receiver.catalog.description import describe
from receiver.catalog.durations import measured_duration
from receiver.core.naming import RecordingName
from support.storages import publish

RATE = 8000


def seconds(data: bytes) -> float:
    return measured_duration(io.BytesIO(data), len(data))


def wav(length: float, *, claimed: int | None = None, riff: bytes = b"RIFF") -> bytes:
    """A WAV of 16 bits; `claimed` is what its header says of its data."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(bytes(int(RATE * 2 * length)))
    data = bytearray(riff + file.getvalue()[4:])
    if claimed is not None:
        data[40:44] = struct.pack("<I", claimed)
        data[4:8] = struct.pack("<I", min(claimed + 36, 0xFFFFFFFF))
    return bytes(data)


def wav_of(
    kind: int, rate: int, per_second: int, align: int, audio: int, before: bytes = b""
) -> bytes:
    """A WAV of any format, of `audio` bytes."""
    fmt = struct.pack("<HHIIHH", kind, 1, rate, per_second, align, 8)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + before
    chunks += b"data" + struct.pack("<I", 0xFFFFFFFF) + bytes(audio)
    return b"RIFF\xff\xff\xff\xffWAVE" + chunks


def mp3(frames: int, xing: bytes = b"") -> bytes:
    """Frames of 32 kbit/s, 8 kHz (MPEG 2.5, layer III): 72 ms and 288 bytes each."""
    head = b"\xff\xe3\x48\xc4"
    first = [(head + bytes(9 + 4 - 4) + xing).ljust(288, b"\0")] if xing else []
    return b"".join(first + [head.ljust(288, b"\0")] * frames)


def xing(frames: int, size: int, name: bytes = b"Xing") -> bytes:
    return name + struct.pack(">III", 3, frames, size)


class TestWave:
    @pytest.mark.parametrize(
        "claimed", [160_000, 0, 0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x80000000, 160_001]
    )
    def test_claims_longer_than_the_bytes(self, claimed):
        assert seconds(wav(10, claimed=claimed)) == 10

    @pytest.mark.parametrize("riff", [b"RF64", b"BW64"])
    def test_large_ones(self, riff):
        assert seconds(wav(10, claimed=0xFFFFFFFF, riff=riff)) == 10

    def test_what_follows_is_no_audio(self):
        assert seconds(wav(10) + b"LIST" + struct.pack("<I", 40_000) + bytes(40_000)) == 10

    @pytest.mark.parametrize(
        ("kind", "rate", "per_second", "align", "expected"),
        [
            (1, 8000, 8000, 1, 10),
            (1, 8000, 1, 1, 10),  # a rate of bytes that is wrong
            (1, 8000, 8000, 0, 10),  # no size of a sample
            (6, 8000, 8000, 1, 10),  # A-law
            (7, 8000, 8000, 1, 10),  # μ-law
            (0xFFFE, 8000, 8000, 1, 10),
            (49, 8000, 1625, 65, 80_000 / 1625),  # GSM
            (17, 8000, 4055, 256, 80_000 / 4055),  # ADPCM
            (1, 0, 0, 0, 0),
            (1, 1, 1, 1, 0),
            (49, 8000, 1, 65, 0),
        ],
    )
    def test_formats(self, kind, rate, per_second, align, expected):
        found = seconds(wav_of(kind, rate, per_second, align, 80_000))
        assert found == pytest.approx(expected, abs=0.001)

    def test_chunks_before_the_audio(self):
        before = b"LIST" + struct.pack("<I", 5) + bytes(6) + b"fact" + struct.pack("<II", 4, 99)
        assert seconds(wav_of(7, 8000, 8000, 1, 80_000, before)) == 10

    @pytest.mark.parametrize(
        "data",
        [
            b"RIFF\xff\xff\xff\xffWAVE",
            wav(10)[:44],
            wav(10)[:30],
            b"RIFF\0\0\0\0WAVE" + b"x" * 8 * 100_000,
            b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 100_000,
            b"RIFF\0\0\0\0WAVEdata\xff\xff\xff\xff" + bytes(1000),
        ],
    )
    def test_what_holds_none(self, data):
        assert seconds(data) == 0


class TestMP3:
    def test_honest_claims(self):
        assert seconds(mp3(100)) == pytest.approx(7.2, abs=0.1)
        assert seconds(mp3(100, xing(100, 100 * 288 + 288))) == pytest.approx(7.2, abs=0.1)

    @pytest.mark.parametrize("name", [b"Xing", b"Info"])
    @pytest.mark.parametrize(
        ("frames", "size"),
        [
            (0x7FFFFFFF, 0x7FFFFFFF),
            (0x7FFFFFFF, 100 * 288),
            (1_000_000, 288_000_000),
            (10_000, 100 * 288),
            (10, 10 * 288),  # a header written while the call went on
            (0, 0),
            (0xFFFFFFFF, 0xFFFFFFFF),
        ],
    )
    def test_claims_that_the_bytes_do_not_hold(self, name, frames, size):
        assert seconds(mp3(100, xing(frames, size, name))) == pytest.approx(7.2, abs=0.2)

    def test_claims_of_vbri(self):
        tag = b"VBRI" + bytes(6) + struct.pack(">II", 100 * 288, 0x7FFFFFFF)
        assert seconds(mp3(100, tag)) == pytest.approx(7.2, abs=0.2)


class TestOthers:
    def test_flac_and_ogg(self):
        info = bytearray(34)
        info[10:18] = struct.pack(">Q", (8000 << 44) | (15 << 36) | 0xFFFFFFFFF)
        flac = b"fLaC\x80\0\0\x22" + bytes(info) + bytes(10_000)
        assert seconds(flac) == 0
        page = b"OggS\0\2" + struct.pack("<qIII", 1 << 60, 1, 0, 0) + b"\x01\x13"
        opus = page + b"OpusHead\x01\x01" + struct.pack("<HIhB", 0, 8000, 0, 0) + bytes(10_000)
        assert seconds(opus) == 0

    def test_aiff(self):
        comm = struct.pack(">hLh", 1, 0x7FFFFFFF, 16) + b"\x40\x0b\xfa\0\0\0\0\0\0\0"
        body = b"COMM" + struct.pack(">I", 18) + comm
        body += b"SSND" + struct.pack(">I", 160_008) + bytes(160_008)
        aiff = b"FORM" + struct.pack(">I", 4 + len(body)) + b"AIFF" + body
        assert seconds(aiff) == pytest.approx(10, abs=0.01)

    @pytest.mark.parametrize(
        "part", [b"\xff\xfa", b"\xff\xfb\x10", b"OggS\0", b"ID3", b"fLaC", b"\0"]
    )
    def test_little_of_a_file_is_read(self, part):
        class Counted(io.BytesIO):
            reads = 0

            def read(self, *length):
                Counted.reads += 1
                return super().read(*length)

        data = part * (6_000_000 // len(part))
        assert measured_duration(Counted(data), len(data)) >= 0
        assert Counted.reads < 1_100_000


class TestTold:
    """What a sender tells is believed where the recording can be as long."""

    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            ({"duration_ms": 12_340}, 12.34),
            ({"duration": 12}, 12),
            ({"duration_ms": 9e11}, 10),
            ({"duration": 253_401_999_999}, 10),
            ({"duration": -5}, 10),
            ({"duration": "nan"}, 10),
            ({}, 10),
        ],
    )
    def test_metadata(self, storage, told, expected):
        data = wav(10, claimed=0xFFFFFFFF)
        publish(storage, data, RecordingName("", "x", "wav"), metadata=json.dumps(told).encode())
        (listed,) = storage.scan()
        assert describe(storage, listed).duration == expected
