"""Lets atheris look for inputs that mislead the parsers of names and of forms.

atheris (libFuzzer for Python) changes its inputs for as long as that reaches code or branches that
no input did before. Three processes run side by side, from the inputs in tests/data/fuzz on:

- naming: a request target becomes a stored path, which must be an ordinary one below the storage,
  must lead back to the same name, and must not be mistaken for what lies beside a recording;
- forms: a body is read as a form, in pieces of a size of the input's choice. What Kazoo, urllib3
  or Python's email package make of a recording must come out as it went in, as it is or in base64,
  and cut nowhere; any other bytes must be refused, or give what Werkzeug's own form parser gives.

- told: by its first letter an input is a query, a document, a number, an address, a range with its
  conditions, a recording's audio, or a transcript. What is kept of a query or a document is as
  short as documented, and can be read back.

Anything but the documented errors, an input that takes seconds, and 1 GiB of memory are failures
too; the smallest input that libFuzzer finds for one is printed.

    python tests/proof/fuzz_parsers.py                 ten minutes
    python tests/proof/fuzz_parsers.py --minutes 0.5
    python tests/proof/fuzz_parsers.py --only forms --replay FILE
"""

import argparse
import base64
import binascii
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.policy import HTTP
from pathlib import Path
from typing import Any, BinaryIO

# This folder, the tests and the project, which need not be the one that is installed.
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[0]))

from report import tell
from urllib3 import encode_multipart_formdata
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestedRangeNotSatisfiable, RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser

from receiver.access import ClientAddress
from receiver.catalog.durations import measured_duration
from receiver.core.naming import BARE, LONGEST_FILENAME, RecordingName, sidecar
from receiver.errors import IncompleteBody, InvalidName
from receiver.formats import SIDECARS
from receiver.numbers import digits_of, may_hold, numbers_in
from receiver.page.transcript import excerpt, parse_vtt, pieces
from receiver.reading.conditions import as_date, asked_range, judge
from receiver.senders import forms, metadata
from receiver.senders.sent import SentBody
from receiver.senders.target import SentPath, _printable
from receiver.storage import sidecars
from receiver.storage.paths import call_id_of, extension_of, is_recording, numbered, original

CORPUS = Path(__file__).parent.parent / "data" / "fuzz"
LONGEST_INPUT = 4096  # bytes
PIECE = forms.READ_SIZE
BOUNDARY = b"zJmZ+L3/idrM'DM8_mTL"
CHARSETS = ("utf-8", "latin-1", "ascii")  # in which Werkzeug decodes a part without a file's name
# Run by itself, so that atheris sees what is imported.
CHILD = """
import sys
import atheris
with atheris.instrument_imports(include=["receiver", "werkzeug"]):
    import fuzz_parsers
atheris.Setup(sys.argv, fuzz_parsers.CHECKS[sys.argv.pop(1)])
atheris.Fuzz()
"""
ORDINARY = re.compile(r"[A-Za-z0-9@_+%~-][A-Za-z0-9@._+%~-]*")


def check_naming(data: bytes) -> None:
    """Take a request target, as latin-1, to the path where its recording is stored."""
    target = data.decode("latin-1")
    environ = {"RAW_URI": target, "QUERY_STRING": target.partition("?")[2]}
    SentPath(lambda environ, start_response: [])(environ, lambda *_: lambda _: None)
    path = environ["PATH_INFO"]
    assert path.isascii() and all("!" <= character <= "~" for character in path), path
    for tail in {path.removeprefix("/kzr").lstrip("/"), path.lstrip("/")}:
        try:
            name = RecordingName.parse(tail)
        except InvalidName as error:
            assert error.description.isprintable()
            continue
        check_name(name)


def check_name(name: RecordingName) -> None:
    """What is stored under the name is an ordinary file, told from all others."""
    path, filename = str(name), name.filename
    folders = name.folder.split("/") if name.folder else []
    assert path == "/".join([*folders, filename])
    assert len(filename.removesuffix(BARE)) <= LONGEST_FILENAME
    for part in (
        *folders,
        filename,
        numbered(filename, 99999),
        sidecar(numbered(filename, 99999), "json"),
    ):
        assert ORDINARY.fullmatch(part) and len(part) <= 255, part

    assert RecordingName.parse(name.to_url()) == name, name.to_url()
    assert is_recording(filename) and is_recording(numbered(filename, 1))
    assert not is_recording(numbered(filename, "new"))
    assert extension_of(path) == name.extension
    assert original(path) == path
    assert numbered(path, 0) == path
    assert numbered(path, 12) == "/".join([*folders, numbered(filename, 12)])
    assert original(numbered(path, 12)) == path
    for kind in SIDECARS:
        assert not is_recording(sidecar(name.filename, kind)) and not is_recording(
            sidecar(numbered(filename, 1), kind)
        )
        assert sidecar(path, kind) == "/".join([*folders, sidecar(name.filename, kind)])
    if "~" not in filename:  # which a long Call-ID's hash comes after
        whole = name.call_id.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        assert call_id_of(path) == whole.encode("utf-8", "replace").decode()


def check_forms(data: bytes) -> None:
    """Read a form that the first byte tells how to make; the second is the size of the pieces."""
    way, size, rest = data[:1], 4 * (1 + sum(data[1:2])), data[2:]
    if way in MAKERS:
        if BOUNDARY not in rest:
            check_made_form(MAKERS[way](rest), rest, size)
        return
    content_type, _, body = rest.partition(b"\n")
    boundary = forms.boundary(content_type.decode("latin-1")) or BOUNDARY
    decoded(body, boundary, size)
    # Where line breaks are mixed up, what Werkzeug reads depends on where the pieces end.
    ours = decoded(body, boundary, PIECE)
    theirs = by_werkzeug(body, boundary)
    if ours is not None and theirs is not None:
        assert any(is_same(ours, each) for each in theirs), f"{ours!r}, but Werkzeug: {theirs!r}"


def check_made_form(body: bytes, recording: bytes, size: int) -> None:
    """The recording comes out of its form, and not at all out of a form that was cut."""
    ours = decoded(body, BOUNDARY, size)
    assert ours in (recording, from_base64(recording)), f"not what was sent, but {ours!r}"
    assert ours == recording or not recording.startswith((b"ID3", b"RIFF", b"OggS", b"fLaC"))
    whole = len(body.rstrip(b"\r\n"))
    for end in (whole - 1, whole // 2):
        assert decoded(body[:end], BOUNDARY, size) is None, f"taken, although cut at {end}"


@contextmanager
def in_memory() -> Iterator[BinaryIO]:
    """A file as a storage opens one, but in memory."""
    with open(os.memfd_create("form"), "w+b") as file:
        yield file


def decoded(data: bytes, boundary: bytes, size: int) -> bytes | None:
    """The recording that the receiver finds in a form, None if it refuses the form."""
    forms.READ_SIZE = size
    environ = {"wsgi.input": io.BytesIO(data), "CONTENT_LENGTH": str(len(data))}
    body = forms.FormBody(SentBody(environ), boundary)
    try:
        with body.as_file(in_memory, 1024) as file:
            told = body.metadata
            assert not told or isinstance(json.loads(told), dict)
            file.seek(0)
            return file.read()
    except IncompleteBody as error:
        assert error.description
        return None


def by_werkzeug(data: bytes, boundary: bytes) -> list[bytes | str] | None:
    """All parts of a form, None if it is broken; those without a file's name as text."""
    parser = MultiPartParser(stream_factory=lambda *_, **__: io.BytesIO())
    try:
        fields, files = parser.parse(io.BytesIO(data), boundary, len(data))
    except (ValueError, RequestEntityTooLarge):
        return None
    parts: list[bytes | str] = [file.read() for each in files.listvalues() for file in each]
    return parts + [text for each in fields.listvalues() for text in each]


def is_same(ours: bytes, theirs: bytes | str) -> bool:
    if isinstance(theirs, str):
        is_text = any(ours.decode(charset, "replace") == theirs for charset in CHARSETS)
        return is_text or ours == from_base64(theirs.encode())
    return ours in (theirs, from_base64(theirs))


def from_base64(data: bytes) -> bytes | None:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        return None


def as_kazoo(recording: bytes) -> bytes:
    part = b"\r\n--%s\r\ncontent-disposition: form-data; name=%s\r\ncontent-type: %s\r\n\r\n%s"
    document = part % (BOUNDARY, b"DOC", b"application/json", b'{"call_id": "a"}')
    content = part % (BOUNDARY, b"X.mp3", b"audio/mpeg", recording)
    return document + content + b"\r\n--%s--" % BOUNDARY


def as_urllib3(recording: bytes) -> bytes:
    fields = {"file": ("X.mp3", recording, "audio/mpeg")}
    return encode_multipart_formdata(fields, BOUNDARY.decode())[0]


def as_email(recording: bytes) -> bytes:
    """By Python's email package, which is for text: in base64."""
    form = MIMEMultipart("form-data", BOUNDARY.decode(), policy=HTTP)
    part = MIMEApplication(b"", policy=HTTP)
    part.set_payload(base64.b64encode(recording).decode())
    part["Content-Disposition"] = 'form-data; name="file"; filename="X.mp3"'
    form.attach(part)
    return form.as_bytes().partition(b"\r\n\r\n")[2]


# What senders and readers tell


def check_told(data: bytes) -> None:
    try:
        PARSERS.get(data[:1], check_query)(data[1:])
    except (IncompleteBody, RequestedRangeNotSatisfiable):  # as documented
        pass


def check_fields(fields: dict[str, Any]) -> None:
    """What is stored of a query or a document is bounded, and reads back as it was."""
    assert len(fields) <= metadata.MOST_FIELDS
    waiting: list[object] = [fields]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            assert all(len(name) <= metadata.LONGEST_NAME for name in each)
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
        else:
            assert not isinstance(each, str) or len(each) <= metadata.LONGEST_VALUE
    assert len(sidecars.from_json(sidecars.to_json(fields) or b"{}")) <= len(fields)


def check_query(data: bytes) -> None:
    check_fields(metadata.from_query(_printable(data.decode("latin-1"))))


def check_document(data: bytes) -> None:
    check_fields(metadata.from_json(data))


def check_number(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert re.fullmatch("[0-9]*", digits_of(text)), text
    assert all(re.fullmatch("[0-9]+", each) for each in numbers_in(text)), text
    may_hold(text, "15550199", is_address=data[:1] == b"s")


def check_address(data: bytes) -> None:
    seen: list[str] = []
    app = ClientAddress(lambda environ, start: seen.append(environ["REMOTE_ADDR"]) or [], 1)
    for name in ("REMOTE_ADDR", "HTTP_X_FORWARDED_FOR"):
        app({name: data.decode("latin-1")}, lambda *given: lambda data: None)
        assert re.fullmatch(r"[\w.:-]*", seen.pop(), re.ASCII), data


def check_range(data: bytes) -> None:
    names = ("Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since")
    values = data.decode("latin-1").split("\n")
    headers = Headers([pair for pair in zip(names, values, strict=False) if "\r" not in pair[1]])
    modified = as_date(1e9)
    assert judge(headers, "etag", modified) in (200, 304, 412)
    found = asked_range(headers, 1000, "etag", modified, lambda: True)
    assert found is None or 0 <= found[0] < found[1] <= 1000


def check_audio(data: bytes) -> None:
    assert 0 <= measured_duration(io.BytesIO(data), len(data)) <= len(data)


def check_transcript(data: bytes) -> None:
    cues = parse_vtt(b"WEBVTT\n\n" + data)
    assert all(cue.start <= cue.end for cue in cues)
    text = " ".join(cue.text for cue in cues)
    assert "".join(piece for piece, _ in pieces(text, "a")) == text
    excerpt(text, "a")


PARSERS: dict[bytes, Callable[[bytes], None]] = {
    b"q": check_query,
    b"d": check_document,
    b"n": check_number,
    b"a": check_address,
    b"r": check_range,
    b"m": check_audio,
    b"t": check_transcript,
}
CHECKS: dict[str, Callable[[bytes], None]] = {
    "naming": check_naming,
    "forms": check_forms,
    "told": check_told,
}
MAKERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"k": as_kazoo,
    b"K": lambda recording: as_kazoo(base64.b64encode(recording)),
    b"u": as_urllib3,
    b"U": lambda recording: as_urllib3(base64.b64encode(recording)),
    b"e": as_email,
}


# The search


@dataclass
class Search:
    """One atheris, at work."""

    name: str
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")

    @property
    def status(self) -> str:
        """The latest line with figures."""
        return re.findall(r"^#\d+.*", self.output, re.M)[-1:][0] if "\n#" in self.output else "-"

    def figure(self, pattern: str) -> int:
        return int((re.findall(pattern, self.output) or ["0"])[-1])

    def failures(self) -> list[Path]:
        return sorted(self.folder.glob("found-*"))


def start(name: str, folder: Path, minutes: float, seed: int) -> Search:
    (folder / "corpus").mkdir(parents=True)
    options = [
        f"-max_total_time={max(1, round(minutes * 60))}",
        f"-max_len={LONGEST_INPUT}",
        f"-artifact_prefix={folder}/found-",
        f"-seed={seed}",
        "-timeout=5",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, name, *options, folder / "corpus", CORPUS / name],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            stdout=output,
            stderr=output,
        )
    return Search(name, process, folder)


def smallest(check: Callable[[bytes], None], data: bytes) -> tuple[bytes, str]:
    """Take away what an input does not need to fail; return it, and how it fails."""
    failure = failure_of(check, data)
    size = len(data)
    while failure and size:
        for at in range(0, len(data), size):
            less = data[:at] + data[at + size :]
            if (other := failure_of(check, less)) and other.partition(":")[0] == failure.partition(
                ":"
            )[0]:
                data, failure = less, other
                break
        else:
            size //= 2
        size = min(size, len(data))
    return data, failure


def failure_of(check: Callable[[bytes], None], data: bytes) -> str:
    try:
        check(data)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def finish(search: Search) -> bool:
    """Print what the search came to."""
    found = search.failures()
    for path in found:
        data, failure = smallest(CHECKS[search.name], path.read_bytes())
        report(f"{search.name}: {data!r}: {failure or path.name.split('-')[1]}")
    executions = search.figure(r"stat::number_of_executed_units:\s+(\d+)")
    passed = not found and search.process.returncode == 0 and executions > 0
    if not passed and not found:
        report(f"{search.name}: atheris ended with {search.process.returncode}:")
        report(search.output[-2000:])
    covered, inputs = search.figure(r"cov: (\d+)"), search.figure(r"corp: (\d+)")
    return tell(
        f"atheris on {TOLD[search.name]}",
        f"{executions} inputs run; {covered} branches reached, by {inputs} inputs; "
        f"{len(found)} failures",
        passed,
    )


TOLD = {
    "naming": "names, from the request target to the path",
    "forms": "forms and base64",
    "told": "queries, documents, numbers, addresses, ranges, audio, transcripts",
}


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="of searching (10)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**31, help="of the search")
    parser.add_argument("--only", choices=CHECKS, help="only these inputs")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="an input for --only")
    given = parser.parse_args()
    if given.replay:
        if not given.only:
            parser.error("--replay needs --only, to know what the file is for")
        CHECKS[given.only](given.replay.read_bytes())
        return 0
    if not importlib.util.find_spec("atheris"):
        sys.exit("atheris is not installed: pip install '.[test-all]' (it is for Linux on x86-64)")
    report(f"--seed {given.seed}")

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        searches = []
        for name in [given.only] if given.only else CHECKS:
            search = start(name, folder / name, given.minutes, given.seed)
            stack.callback(search.process.kill)
            searches.append(search)
        for search in searches:
            while search.process.poll() is None:
                try:
                    search.process.wait(15)
                except subprocess.TimeoutExpired:
                    for each in searches:
                        report(f"{each.name}: {each.status}")
        passed = [finish(search) for search in searches]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
