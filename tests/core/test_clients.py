"""The senders themselves: curl, as whose library FreeSWITCH sends, and Erlang's httpc, as Kazoo."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from support.needs import need
from support.paths import PROJECT, TESTS
from support.receivers import Receiver

AUDIO = os.urandom(300_000)
# Kazoo's kz_http ends in this call of httpc.
ERLANG = """
    inets:start(),
    {ok, Body} = file:read_file("%(file)s"),
    Put = fun(URL, Headers) ->
        {ok, {{_, Status, _}, _, Text}} = httpc:request(
            put, {URL, Headers, "audio/mpeg", Body}, [{timeout, 60000}], [{body_format, binary}]),
        io:format("~p ~s", [Status, Text])
    end,
    [Put("%(url)s", [%(headers)s]) || _ <- lists:seq(1, %(times)d)],
    halt().
"""


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    path = tmp_path / "audio.mp3"
    path.write_bytes(AUDIO)
    return path


def httpc(audio: Path, url: str, headers: str = "", times: int = 1) -> list[tuple[int, str]]:
    code = ERLANG % {"file": audio, "url": url, "headers": headers, "times": times}
    command = [need("erl"), "-noshell", "-noinput", "-eval", code]
    printed = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True
    ).stdout
    return [(int(line[:3]), line[4:]) for line in printed.splitlines()]


def curl(*options: str | Path) -> tuple[int, str]:
    command = [need("curl"), "-sS", "-w", "%{http_code}", *options]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return int(printed[-3:]), printed[:-3]


class TestHttpc:
    def test_recording_arrives(self, receiver: Receiver, audio):
        url = f"http://127.0.0.1:{receiver.port}/kzr/call_recording_a%2Fb%4010.0.0.1..mp3?from=x"
        assert httpc(audio, url) == [(201, "created: a%2Fb@10.0.0.1.mp3, 300000 bytes")]
        assert receiver.stored() == {"a%2Fb@10.0.0.1.mp3": AUDIO}

    def test_retry_is_told_apart(self, receiver: Receiver, audio):
        url = f"http://127.0.0.1:{receiver.port}/kzr/call_recording_X..mp3"
        assert [status for status, _ in httpc(audio, url, times=3)] == [201, 200, 200]

    def test_refusal_is_seen_though_the_body_is_unwanted(self, start, audio):
        """Without draining, httpc sees a closed connection in place of every second status."""
        receiver = start(writers="kazoo:secret", max_bytes="200K")
        url = f"http://127.0.0.1:{receiver.port}/kzr/call_recording_X..mp3"
        line = "credentials are missing: put user:secret@ into the URL"
        assert httpc(audio, url, times=20) == [(401, line)] * 20
        header = '{"authorization", "Basic a2F6b286c2VjcmV0"}'
        line = "the recording is larger than KZR_MAX_BYTES (204800 bytes)"
        assert httpc(audio, url, header, times=20) == [(413, line)] * 20


@pytest.fixture
def back_end(start) -> Receiver:
    """A receiver that Kazoo may write to and read from."""
    return start(writers="kazoo:secret", readers="kazoo:secret")


class TestKazoo:
    """Kazoo's requests by Erlang's own client, which refuses only raw UTF-8 (see test_wire)."""

    def test_all_that_is_stored_is_read_back_the_same(self, back_end, audio):
        script = TESTS / "support" / "kazoo.escript"
        printed = subprocess.run(
            [need("escript"), script, str(back_end.port), audio],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        results = dict(line.split("|", 1) for line in printed.splitlines())
        assert len(results) == 12
        assert {name: result for name, result in results.items() if result != "201|200|true"} == {}
        assert back_end.metadata("plain@10.0.0.1.mp3")["caller_id_name"] == "Alice Smith"


class TestCurl:
    def test_recording_arrives_as_freeswitch_sends_it(self, receiver: Receiver, audio):
        audio.write_bytes(large := os.urandom(3_000_000))
        url = f"http://127.0.0.1:{receiver.port}/kzr/call_recording_abc@10.0.0.1.mp3"
        status, text = curl("-L", "-A", "freeswitch-http-cache/1.0", "-T", audio, url)
        assert (status, text) == (201, "created: abc@10.0.0.1.mp3, 3000000 bytes\n")
        assert receiver.stored() == {"abc@10.0.0.1.mp3": large}

    def test_recording_is_read_back(self, back_end, audio):
        url = f"http://kazoo:secret@127.0.0.1:{back_end.port}/kzr/call_recording_a@10.0.0.1.mp3"
        audio.write_bytes(os.urandom(1_500_000))
        assert curl("-L", "-A", "freeswitch-http-cache/1.0", "-T", audio, url)[0] == 201
        assert curl("-o", audio.with_suffix(".back"), url)[0] == 200
        assert audio.with_suffix(".back").read_bytes() == audio.read_bytes()

    def test_chunked_upload(self, receiver: Receiver, audio):
        url = f"http://127.0.0.1:{receiver.port}/kzr/call_recording_X.mp3"
        assert curl("-H", "Transfer-Encoding: chunked", "-T", audio, url)[0] == 201
        assert receiver.stored() == {"X.mp3": AUDIO}

    def test_credentials_in_the_url(self, start, audio):
        receiver = start(writers="kazoo:secret")
        url = f"kazoo:secret@127.0.0.1:{receiver.port}/kzr/call_recording_X.mp3"
        assert curl("-T", audio, f"http://{url}")[0] == 201


def test_readme_shows_callflows_that_are_json():
    readme = "".join((PROJECT / name).read_text() for name in ("README.md", "receiver/README.md"))
    blocks = [block.split("```")[0] for block in readme.split("```json\n")[1:]]
    modules = {json.loads(block).get("module") for block in blocks}
    assert {"record_call", "record_caller", None} == modules
