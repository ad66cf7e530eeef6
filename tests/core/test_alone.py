"""The core by itself, as receiver/core/README.md prints it: the example's client loses nothing."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clients import Client
from support.paths import PROJECT
from support.ports import free_port
from support.python import environ_with_only
from support.waiting import wait_for

RECEIVER = PROJECT / "receiver"
README = RECEIVER / "core" / "README.md"
TARGET = "/kzr/call_recording_abc123%4010.0.0.1.mp3"
AUDIO = b"audio" * 5000


class Alone(Client):
    """The printed program under Flask's own server."""

    def __init__(self, folder: Path) -> None:
        printed = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        (folder / "alone.py").write_text(printed[1])
        shutil.copytree(RECEIVER / "core", folder / "receiver" / "core")
        for name in ("__init__", "errors", "formats", "parts"):
            shutil.copy(RECEIVER / f"{name}.py", folder / "receiver")
        self.stored = folder / "recordings"
        self.stored.mkdir()
        self.port = free_port()
        flask = [sys.executable, "-S", "-m", "flask", "--app", "alone", "run"]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*flask, f"--port={self.port}"],
                cwd=folder,
                env=environ_with_only(folder),
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: "Running on" in (folder / "log").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Iterator[Alone]:
    server = Alone(tmp_path_factory.mktemp("alone"))
    yield server
    server.process.terminate()
    server.process.wait()


def test_recording_is_stored_as_the_example_names_it(alone):
    answer = alone.put(TARGET, AUDIO)
    assert answer.status == 201
    assert answer.text == "created: abc123@10.0.0.1.mp3, 25000 bytes\n"
    assert (alone.stored / "abc123@10.0.0.1.mp3").read_bytes() == AUDIO


def test_same_bytes_again_are_a_retry(alone):
    alone.put(TARGET, AUDIO)
    answer = alone.put(TARGET, AUDIO)
    assert (answer.status, answer.text[:10]) == (200, "identical:")


def test_other_bytes_under_the_name_are_refused_and_lose_nothing(alone):
    alone.put(TARGET, AUDIO)
    answer = alone.put(TARGET, b"another call")
    assert answer.status == 409
    assert answer.line.startswith("another recording is stored as abc123@10.0.0.1.mp3")
    assert (alone.stored / "abc123@10.0.0.1.mp3").read_bytes() == AUDIO


def test_body_that_broke_off_is_not_stored(alone):
    head = b"PUT /kzr/call_recording_cut.mp3 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    assert alone.raw(head + b"part", end=True).status == 400
    assert not (alone.stored / "cut.mp3").exists()


def test_folder_and_slash_in_a_call_id_are_stored(alone):
    assert alone.put("/kzr/ACCOUNT/call_recording_a%2Fb..wav", AUDIO).status == 201
    assert (alone.stored / "ACCOUNT" / "a%2Fb.wav").read_bytes() == AUDIO


def test_url_without_a_name_says_what_to_send(alone):
    answer = alone.put("/kzr/", AUDIO)
    assert answer.status == 400 and "send call_recording_CALL_ID.EXT" in answer.line


def test_core_is_short_enough_to_print():
    lines = [
        line
        for path in sorted((RECEIVER / "core").glob("*.py"))
        for line in path.read_text().splitlines()
        if line.strip()
    ]
    assert len(lines) < 520
