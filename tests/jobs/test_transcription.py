"""Work after storing: transcripts, against a real engine, and what lies beside a recording."""

import json
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("pocketsphinx")
pytest.importorskip("sqlalchemy")

from receiver.catalog.search import Query
from receiver.core.naming import RecordingName
from receiver.errors import NotStored
from receiver.jobs import transcription
from receiver.jobs.event import Event, JobFailed
from receiver.jobs.files import CHUNK
from receiver.storage.paths import numbered
from support.hooks import AUDIO, PATH, read, store, work
from support.needs import need
from support.speech import PAUSE, SpeechServer, say
from support.storages import NAME
from support.web import reply, serving

SENTENCES = [
    "the meeting is on monday at nine in the morning",
    "please call me back as soon as possible",
    "i would like to speak with the manager about my bill",
]


def transcribe(storage, url: str, event: Event, catalog=None, **settings: str) -> str:
    return work("transcription", storage, catalog, TRANSCRIBE_URL=url, **settings)(event)


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


@pytest.fixture(scope="module")
def call(tmp_path_factory) -> bytes:
    """A recording of the sentences."""
    path = tmp_path_factory.mktemp("speech") / "call.wav"
    say(SENTENCES, path)
    return path.read_bytes()


class TestTranscription:
    def test_speech_is_transcribed_with_its_times(self, storage, catalog, call):
        event = store(storage, call, RecordingName("ACCOUNT", "abc", "wav"))
        with SpeechServer() as server:
            noted = transcribe(storage, server.url, event, catalog, TRANSCRIBE_KEY="sk-1")
        (upload,) = server.uploads
        assert upload.authorization == "Bearer sk-1"
        assert upload.fields == {"model": "whisper-1", "response_format": "verbose_json"}
        assert (upload.filename, upload.content_type) == ("recording.wav", "audio/x-wav")
        assert upload.size == len(call)

        text = read(storage, "ACCOUNT/abc.wav.txt").decode()
        assert text.endswith("\n") and noted == f"{len(text.split())} words"
        said = " ".join(SENTENCES).split()
        assert sum(word in text.split() for word in said) >= 0.9 * len(said), text

        head, *cues = read(storage, "ACCOUNT/abc.wav.vtt").decode().split("\n\n")
        assert head == "WEBVTT" and len(cues) == len(SENTENCES)
        times = [cue.splitlines()[0].split(" --> ") for cue in cues]
        begins = [seconds(begin) for begin, _ in times]
        ends = [seconds(end) for _, end in times]
        for end, begin in zip(ends, begins[1:], strict=False):
            assert PAUSE - 0.5 < begin - end < PAUSE + 0.5
        assert " ".join(cue.splitlines()[1] for cue in cues) == text.strip()

        assert catalog.get("ACCOUNT/abc.wav").transcript == text
        (found,) = catalog.search(Query("manager monday")).recordings
        assert found.path == "ACCOUNT/abc.wav"

    def test_a_server_without_times_gives_the_text(self, storage, call):
        event = store(storage, call, RecordingName("", "abc", "wav"))
        with SpeechServer(plain=True) as server:
            transcribe(storage, server.url, event, TRANSCRIBE_MODEL="small")
        assert server.uploads[0].fields["model"] == "small"
        assert server.uploads[0].authorization is None
        assert b"monday" in read(storage, "abc.wav.txt")
        with pytest.raises(NotStored):
            storage.open("abc.wav.vtt")

    def test_silence_is_not_tried_again(self, storage, tmp_path):
        path = tmp_path / "silence.wav"
        command = [need("sox"), "-n", "-r", "8000", "-b", "16", str(path), "trim", "0", "2"]
        subprocess.run(command, check=True)
        event = store(storage, path.read_bytes(), RecordingName("", "abc", "wav"))
        with SpeechServer() as server:
            assert transcribe(storage, server.url, event) == "nothing is said in it"
        assert len(server.uploads) == 1
        with pytest.raises(NotStored):
            storage.open("abc.wav.txt")

    @pytest.mark.parametrize("extension", ["pdf", "tif", "txt", "json"])
    def test_what_is_no_audio_is_not_sent(self, storage, extension):
        event = store(storage, AUDIO, RecordingName("", "abc", extension))
        with serving() as server:
            url = f"http://{server.authority}/"
            assert transcribe(storage, url, event) == "it is no audio"
            empty = store(storage, b"", RecordingName("", "empty", "mp3"))
            assert transcribe(storage, url, empty) == "it is no audio"
        assert not server.requests

    @pytest.mark.parametrize(("start", "name"), [(b"RIFF", "wav"), (b"ID3\3", "mp3")])
    def test_a_recording_without_an_extension_is_sent_whole_with_one(self, storage, start, name):
        event = store(storage, start + AUDIO, RecordingName("", "abc", ""))
        answer = partial(reply, status=200, body=b'{"text": "hi"}')
        with serving(answer) as server:
            transcribe(storage, f"http://{server.authority}/", event)
        (request,) = server.requests
        assert f'filename="recording.{name}"'.encode() in request.body
        assert b"\r\n\r\n" + start + AUDIO + b"\r\n--" in request.body
        assert read(storage, "abc~~.txt") == b"hi\n"

    def test_it_is_never_whole_in_memory(self, storage, monkeypatch):
        event = store(storage, b"x" * 5_000_000)
        sizes = []
        parts = transcription._parts

        def note(*args):
            for part in parts(*args):
                sizes.append(len(part))
                yield part

        monkeypatch.setattr(transcription, "_parts", note)
        answer = partial(reply, status=200, body=b'{"text": "hi"}')
        with serving(answer) as server:
            transcribe(storage, f"http://{server.authority}/", event)
        assert sum(sizes) == len(server.requests[0].body) > 5_000_000
        assert max(sizes) <= CHUNK

    @pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"text": 1}', b'"text"', b"{}"])
    def test_an_answer_that_is_no_transcript_is_tried_again(self, storage, answer):
        event = store(storage)
        with serving(lambda handler: reply(handler, 200, answer)) as server:
            with pytest.raises(JobFailed, match="something else than a transcript"):
                transcribe(storage, f"http://{server.authority}/", event)
        with pytest.raises(NotStored):
            storage.open(f"{PATH}.txt")

    def test_a_server_that_fails_is_tried_again(self, storage):
        event = store(storage)
        with serving(lambda handler: reply(handler, 500, b"no model")) as server:
            with pytest.raises(JobFailed, match="it answered 500: no model"):
                transcribe(storage, f"http://{server.authority}/", event)

    def test_texts_cannot_break_the_times(self, storage):
        event = store(storage)
        segments = [
            {"start": 3600, "end": 3661.0005, "text": " last "},
            {"start": 0, "end": 0, "text": "a --> b\n\n00:00:01.000 <b>&amp;</b>"},
            {"start": 1.5, "end": 2.25, "text": "  "},
        ]
        body = json.dumps({"text": " a\ud800 ", "segments": segments}).encode()
        with serving(lambda handler: reply(handler, 200, body)) as server:
            transcribe(storage, f"http://{server.authority}/", event)
        assert read(storage, f"{PATH}.txt") == b"a?\n"
        assert read(storage, f"{PATH}.vtt").decode() == (
            "WEBVTT\n\n"
            "00:00:00.000 --> 00:00:00.001\n"
            "a --&gt; b 00:00:01.000 &lt;b&gt;&amp;amp;&lt;/b&gt;\n\n"
            "01:00:00.000 --> 01:01:01.000\nlast\n"
        )

    @pytest.mark.parametrize(
        "segments",
        [
            None,
            [],
            "text",
            [1],
            [{"start": 0, "text": "a"}],
            [{"start": None, "end": 1, "text": "a"}],
            [{"start": 0, "end": float("nan"), "text": "a"}],
            [{"start": 0, "end": float("inf"), "text": "a"}],
            [{"start": -1, "end": 1, "text": "a"}],
            [{"start": 2, "end": 1, "text": "a"}],
            [{"start": 0, "end": 1, "text": 5}],
            {"start": 0},
        ],
    )
    def test_times_that_cannot_be_used_cost_no_text(self, storage, segments):
        event = store(storage)
        body = json.dumps({"text": "a", "segments": segments}).encode()
        with serving(lambda handler: reply(handler, 200, body)) as server:
            transcribe(storage, f"http://{server.authority}/", event)
        assert read(storage, f"{PATH}.txt") == b"a\n"
        with pytest.raises(NotStored):
            storage.open(f"{PATH}.vtt")


class TestAttached:
    """What work leaves beside a recording in a directory."""

    def test_files_lie_beside_the_recording_and_go_with_it(self, storage, tmp_path):
        event = store(storage)
        body = b'{"text": "hi", "segments": [{"start": 0, "end": 1, "text": "hi"}]}'
        with serving(lambda handler: reply(handler, 200, body)) as server:
            transcribe(storage, f"http://{server.authority}/", event)
        work("checksum", storage, CHECKSUMS="yes")(event)
        folder = tmp_path / "recordings" / NAME.folder
        beside = [f"{NAME.filename}{ending}" for ending in ("", ".json", ".txt", ".vtt")]
        assert sorted(os.listdir(folder)) == beside
        assert [listed.path for listed in storage.scan()] == [PATH]

        store(storage, b"newer", metadata=b"")
        kept = Path(numbered(PATH, 1)).name
        moved = [f"{kept}{ending}" for ending in ("", ".json", ".txt", ".vtt")]
        assert sorted(os.listdir(folder)) == sorted([NAME.filename, *moved])
        storage.delete(numbered(PATH, 1))
        assert os.listdir(folder) == [NAME.filename]

    def test_nothing_is_attached_to_other_bytes(self, storage):
        event = store(storage)
        store(storage, b"newer", metadata=b"")
        with pytest.raises(NotStored):
            storage.attach(PATH, "txt", b"hi\n", event.etag)
        with pytest.raises(NotStored):
            storage.open(f"{PATH}.txt")
