"""A call from its upload to its transcript on the page, with speech that a real engine hears."""

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("playwright")
pytest.importorskip("pocketsphinx")

from playwright.sync_api import BrowserContext, expect

from support.chromium import chromium, complaints, play, reader, send
from support.queues import Worker
from support.receivers import Receiver
from support.speech import SpeechServer, say
from support.waiting import wait_for

SENTENCES = ["please call the manager tomorrow morning", "the meeting is on monday at nine"]
# The engine and the voice always give the same; that these are heard is all that is asked of them.
HEARD = ("manager", "monday")
PATH = "A/U/call%2F1.wav"


@pytest.fixture(scope="module")
def call(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("speech") / "call.wav"
    say(SENTENCES, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def receiver(tmp_path_factory, call):
    """A receiver with a call that a worker had transcribed."""
    folder = tmp_path_factory.mktemp("receiver")
    with SpeechServer() as speech:
        settings = {"catalog": "yes", "readers": "ann:secret", "transcribe_url": speech.url}
        server = Receiver(folder, **settings)
        worker = Worker(folder, **settings)
        try:
            send(server, "A/U/call_recording_call%2F1.wav", call, caller_id_name="Ann", to="2000@x")
            wait_for(lambda: f"of {PATH} done" in worker.log, 60, f"a transcript: {worker.log}")
            yield server
        finally:
            worker.stop()
            server.stop()


@pytest.fixture
def context(receiver):
    with chromium() as browser:
        yield reader(browser, base_url=f"http://127.0.0.1:{receiver.port}/browse/")


def test_what_was_said_is_found(receiver, context: BrowserContext):
    for word in HEARD:
        (found,) = context.request.get(f"?format=json&text={word}").json()["recordings"]
        assert found["path"] == PATH and word in found["excerpt"]
    details = context.request.get(found["details"] + "&format=json").json()
    heard = details["transcript"].split()
    said = " ".join(SENTENCES).split()
    print(f"{sum(word in heard for word in said)} of {len(said)} words were heard")


def test_from_a_search_to_the_words(receiver, context: BrowserContext):
    page = context.new_page()
    wrong = complaints(page)
    page.goto("")
    page.get_by_role("searchbox").fill("monday")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".said mark")).to_have_text("monday")
    page.get_by_role("link", name="Details").click()

    first, second = page.locator(".segments li").all()
    expect(first).to_contain_text("manager")
    expect(second.locator("mark")).to_have_text("monday")
    player = page.locator("audio")
    play(player)
    expect(first).to_have_attribute("aria-current", "true")
    begin = float(second.get_attribute("data-start") or 0)
    assert begin > 3  # the first sentence takes some time
    second.get_by_role("link").click()
    assert begin <= player.evaluate("it => it.currentTime") < begin + 2  # at once
    expect(second).to_have_attribute("aria-current", "true")
    expect(first).not_to_have_attribute("aria-current", "true")
    wait_for(lambda: player.evaluate("it => it.currentTime") > begin, why="it to play there")
    assert wrong == []
