"""What the catalog is told of a recording."""

import json
import os
import time
import wave
from datetime import datetime

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("tinytag")

from receiver.catalog.description import Description, describe
from receiver.core.naming import RecordingName, sidecar
from support.catalogs import ACCOUNT, TOLD
from support.storages import publish


class TestDescription:
    """What is known of a recording comes from its metadata, its path and its audio."""

    NAME = RecordingName("A", "abc@10.0.0.1", "mp3")

    def describe(self, storage, told=None, data=b"audio", name=NAME) -> Description:
        metadata = json.dumps(told).encode() if told is not None else b""
        publish(storage, data, name, metadata=metadata)
        (listed,) = [each for each in storage.scan() if each.path == str(name)]
        return describe(storage, listed)

    def test_query_of_kazoo_is_understood(self, storage):
        found = self.describe(storage, TOLD)
        assert (found.caller_name, found.caller_number) == ("Jörg & 李", "1001")
        assert (found.callee_name, found.callee_number) == ("Bob", "+14155550100")
        assert (found.from_, found.to) == (TOLD["from"], TOLD["to"])
        assert (found.account, found.call_id) == (ACCOUNT, "abc123@10.0.0.1")
        assert (found.cdr_id, found.interaction_id) == (TOLD["cdr_id"], TOLD["interaction_id"])
        assert (found.path, found.folder, found.size) == ("A/abc@10.0.0.1.mp3", "A", 5)

    def test_form_of_kazoo_is_understood(self, storage):
        told = {
            "start": 63868001222,
            "duration": 12,
            "duration_ms": 12340,
            "custom_channel_vars": {"Account-ID": ACCOUNT},
        }
        found = self.describe(storage, told)
        assert (found.duration, found.account) == (12.34, ACCOUNT)
        assert datetime.fromtimestamp(found.start).year == 2023

    @pytest.mark.parametrize(
        ("told", "seconds_before"),
        [
            ({"start": -600}, 600),
            ({"start": -600, "interaction_id": -300}, 600),
            ({"interaction_id": -300}, 300),
            ({"interaction_id": "63868000000-7a1b2c3d"}, 0),  # of years ago
            ({"interaction_id": 900}, 0),
            ({"interaction_id": "nonsense"}, 0),
            ({"start": "never"}, 0),
            ({}, 0),
        ],
    )
    def test_call_began_when_the_sender_tells_or_when_it_was_received(
        self, storage, told, seconds_before
    ):
        now = int(time.time()) + 62_167_219_200  # as Kazoo counts
        for name in told:
            if isinstance(told[name], int):
                seconds = now + told[name]
                told = told | {name: f"{seconds}-7a" if name == "interaction_id" else seconds}
        found = self.describe(storage, told)
        assert found.received - found.began == pytest.approx(seconds_before, abs=60)
        if not seconds_before:
            assert found.began == found.received

    @pytest.mark.parametrize(
        ("told", "direction"),
        [
            ({"direction": "inbound"}, "inbound"),
            ({"direction": "Outbound"}, "outbound"),
            ({"direction": "sideways"}, ""),
            ({"direction": ["inbound"]}, ""),
            ({}, ""),
        ],
    )
    def test_direction(self, storage, told, direction):
        assert self.describe(storage, told).direction == direction

    def test_path_tells_what_the_metadata_does_not(self, storage):
        found = self.describe(storage, name=RecordingName(f"{ACCOUNT}/x", "a/b@c", "wav"))
        assert (found.account, found.call_id) == (ACCOUNT, "a/b@c")

    def test_audio_tells_its_own_duration(self, storage, tmp_path):
        with wave.open(str(tmp_path / "x.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(16000 * 3))
        data = (tmp_path / "x.wav").read_bytes()
        assert self.describe(storage, data=data).duration == 3

    @pytest.mark.parametrize("data", [b"", b"ID3", os.urandom(1000), b"RIFF\xff\xff\xff\xffWAVE"])
    def test_what_is_no_audio_has_no_duration(self, storage, data):
        assert self.describe(storage, data=data).duration == 0

    @pytest.mark.parametrize("told", [b"[1]", b"{", b"\xff", b"[" * 100_000])
    def test_broken_metadata_tells_nothing(self, storage, told):
        publish(storage, b"audio", self.NAME, metadata=told)
        (listed,) = storage.scan()
        assert describe(storage, listed).caller_name == ""

    def test_every_database_takes_what_senders_may_tell(self, catalog, storage):
        told = {
            "caller_id_name": "a\0b\ud800c" + "x" * 1000,
            "caller_id_number": ["list"],
            "start": "never",
            "duration": 1e300,
            "custom_channel_vars": {"Account-ID": {"a": 1}},
        }
        found = self.describe(storage, told)
        catalog.add([found])
        assert catalog.get(found.path) == found
        assert found.caller_name.startswith("ab?cx")
        assert (len(found.caller_name), found.start, found.duration) == (255, 0, 0)

    def test_transcript_is_that_beside_the_recording(self, storage):
        publish(storage, b"audio", self.NAME)
        (storage.root / "A" / sidecar(self.NAME.filename, "txt")).write_text(
            "I would like a refund."
        )
        (listed,) = storage.scan()
        assert describe(storage, listed).transcript == "I would like a refund."
