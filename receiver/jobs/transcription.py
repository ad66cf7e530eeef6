"""Has recordings transcribed by a server that speaks OpenAI's protocol, often a local one."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from uuid import uuid4

from ..formats import format_of
from ..parts import Parts, Recording
from ..storage.paths import extension_of
from .client import LONGEST_REASON, post
from .event import Event, JobFailed, open_recording, printable_lines
from .files import CHUNK

ANSWER_SECONDS = 600  # for sending, too
LONGEST_ANSWER = 32 * 1024 * 1024  # bytes; whole days of speech

Cue = tuple[float, float, str]  # its start and end in seconds, and what is said


class Transcription:
    """Work that stores what is said in a recording as `NAME.txt`, and with times as `NAME.vtt`.

    The server may be in a private network: its URL is the administrator's own, and the usual one
    runs beside the receiver.
    """

    def __init__(self, config: Mapping[str, Any], parts: Parts) -> None:
        self._url = config["TRANSCRIBE_URL"]
        self._key = config["TRANSCRIBE_KEY"]
        self._model = config["TRANSCRIBE_MODEL"]
        self._parts = parts

    def __call__(self, event: Event) -> str:
        storage, catalog = self._parts.storage, self._parts.catalog
        path, recording = open_recording(storage, event)
        with closing(recording):
            if not format_of(extension_of(path)).is_audio or not recording.size:
                return "it is no audio"
            answer = self._ask(path, recording)
        text = answer["text"].strip()
        if not text:
            return "nothing is said in it"
        # The text comes last: whoever finds it finds the times too.
        if cues := cues_of(answer):
            storage.attach(path, "vtt", to_vtt(cues), event.etag)
        storage.attach(path, "txt", f"{text}\n".encode("utf-8", "replace"), event.etag)
        if catalog:
            catalog.refresh(storage, path)
        return f"{len(text.split())} words"

    def _ask(self, path: str, recording: Recording) -> dict[str, Any]:
        fields = {"model": self._model, "response_format": "verbose_json"}
        boundary = uuid4().hex
        head, tail = frame(fields, extension_of(path).lower() or _guess(recording), boundary)
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + recording.size + len(tail)),
        }
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = post(
            self._url,
            headers,
            _parts(head, recording, tail),
            seconds=ANSWER_SECONDS,
            longest=LONGEST_ANSWER,
            allow_private=True,
        )
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
            shown = " ".join(printable_lines(data[:LONGEST_REASON]))
            raise JobFailed(f"it answered something else than a transcript: {shown}")
        return answer


def frame(fields: Mapping[str, str], extension: str, boundary: str) -> tuple[bytes, bytes]:
    """What comes before and after the file in a form (RFC 7578).

    The file is not told by its name: servers need its extension, and nobody there the Call-ID.
    """
    head = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
        f'filename="recording.{extension}"\r\n'
        f"Content-Type: {format_of(extension).media_type}\r\n\r\n"
    )
    return "".join(head).encode(), f"\r\n--{boundary}--\r\n".encode()


def _guess(recording: Recording) -> str:
    """The extension of a recording that has none; Kazoo's are MP3 where they are not WAV."""
    start = recording.read(4)
    recording.file.seek(0)
    return "wav" if start == b"RIFF" else "mp3"


def _parts(head: bytes, recording: Recording, tail: bytes) -> Iterator[bytes]:
    yield head
    while chunk := recording.read(CHUNK):
        yield chunk
    yield tail


def cues_of(answer: Mapping[str, Any]) -> list[Cue]:
    """What is said when, in order; nothing where a server does not tell that of everything."""
    try:
        cues = [
            (float(each["start"]), float(each["end"]), " ".join(each["text"].split()))
            for each in answer.get("segments") or []
        ]
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return []
    if not all(math.isfinite(end) and 0 <= start <= end for start, end, _ in cues):
        return []
    return sorted(cue for cue in cues if cue[2])


def to_vtt(cues: list[Cue]) -> bytes:
    """Cues as WebVTT, which has no markup of theirs in it."""
    blocks = ["WEBVTT\n"]
    for start, end, text in cues:
        begin = round(start * 1000)
        finish = max(round(end * 1000), begin + 1)  # a cue has to last
        for character, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(character, escaped)
        blocks.append(f"{_clock(begin)} --> {_clock(finish)}\n{text}\n")
    return "\n".join(blocks).encode("utf-8", "replace")


def _clock(milliseconds: int) -> str:
    seconds, fraction = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:03}"
