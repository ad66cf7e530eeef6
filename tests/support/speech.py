"""Speech as a telephone carries it, and a server that transcribes it with a real engine.

flite says it in a voice that was made of a person's own recordings, and pocketsphinx, which was
made independently of it, has to understand it.
"""

import json
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from werkzeug import Request, Response
from werkzeug.serving import make_server

from support.needs import need

ENGINE_RATE = 16000  # of pocketsphinx's model
PAUSE = 1.5  # seconds between two sentences


def say(sentences: list[str], path: Path) -> None:
    """Write sentences, with a pause after each, as a recording with 8000 samples a second."""
    parts = []
    for number, sentence in enumerate(sentences):
        part = path.with_name(f"sentence-{number}.wav")
        subprocess.run([need("flite"), "-voice", "rms", "-t", sentence, "-o", part], check=True)
        parts += [str(part)]
    padded = [f"|{need('sox')} -D {part} -p pad 0 {PAUSE}" for part in parts]
    subprocess.run(
        [need("sox"), "-D", *padded, "-r", "8000", "-b", "16", "-c", "1", path], check=True
    )


@dataclass
class Upload:
    """What a client sent."""

    authorization: str | None
    fields: dict[str, str]
    filename: str
    content_type: str
    size: int


class SpeechServer:
    """`/v1/audio/transcriptions` with pocketsphinx; a context manager.

    It keeps what was sent as `uploads`. With `plain`, it answers as those do that know of no
    `response_format`.
    """

    def __init__(self, *, plain: bool = False) -> None:
        self.uploads: list[Upload] = []
        self._plain = plain
        self._server = make_server("127.0.0.1", 0, self._answer)
        self.url = f"http://127.0.0.1:{self._server.port}/v1/audio/transcriptions"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "SpeechServer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ, start_response):
        with Request(environ) as request:
            if request.path != "/v1/audio/transcriptions" or request.method != "POST":
                return Response(status=404)(environ, start_response)
            answer = self._transcribe(request)
        response = Response(json.dumps(answer), mimetype="application/json")
        return response(environ, start_response)

    def _transcribe(self, request: Request) -> dict[str, object]:
        file = request.files["file"]
        with NamedTemporaryFile(suffix=Path(file.filename or "").suffix) as copy:
            file.save(copy.name)
            upload = Upload(
                request.headers.get("Authorization"),
                request.form.to_dict(),
                file.filename or "",
                file.content_type,
                Path(copy.name).stat().st_size,
            )
            self.uploads.append(upload)
            segments = transcribe(copy.name)
        text = "".join(each["text"] for each in segments).strip()
        if self._plain or upload.fields.get("response_format") != "verbose_json":
            return {"text": text}
        return {"task": "transcribe", "language": "english", "text": text, "segments": segments}


def transcribe(path: str) -> list[dict]:
    """What pocketsphinx understands of an audio file, in segments between pauses."""
    from pocketsphinx import Decoder, Segmenter

    command = [need("sox"), "-D", path, "-r", str(ENGINE_RATE), "-c", "1", "-b", "16"]
    command += ["-e", "signed", "-t", "raw", "-"]
    found = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sox:
        for part in Segmenter(sample_rate=ENGINE_RATE).segment(sox.stdout):
            decoder = Decoder(samprate=ENGINE_RATE, loglevel="FATAL")
            decoder.start_utt()
            decoder.process_raw(part.pcm, full_utt=True)
            decoder.end_utt()
            if decoder.hyp() and decoder.hyp().hypstr:
                text = decoder.hyp().hypstr
                found.append({"start": part.start_time, "end": part.end_time, "text": f" {text}"})
    return [{"id": number, **each} for number, each in enumerate(found)]
