"""Chromium's audio element plays, seeks and resumes, from every storage and in every server."""

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Browser, Locator, Page

from support.chromium import chromium, tone
from support.clients import Client
from support.reading import USER, new_name, put
from support.waiting import wait_for

SECONDS = 300
FRAME = bytes.fromhex("fffb90c4") + bytes(413)  # 1152 samples of silence: MPEG 1, layer 3, 44.1 kHz
AUDIO = {
    "wav": tone(SECONDS),
    "mp3": FRAME * (SECONDS * 44_100 // 1152 + 1),
}


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser, server: Client):
    user, _, secret = USER.partition(":")
    context = browser.new_context(http_credentials={"username": user, "password": secret})
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/healthz")  # a page from the same server
    yield page
    context.close()


def load(page: Page, target: str) -> Locator:
    page.evaluate(
        """target => {
            document.body.replaceChildren();
            const player = document.createElement("audio");
            player.controls = true;
            player.src = target;
            document.body.append(player);
        }""",
        target,
    )
    player = page.locator("audio")
    wait_for(lambda: player.evaluate("it => it.duration > 0 || it.error"), why="it to be loaded")
    assert player.evaluate("it => it.error && it.error.message") is None
    return player


def plays_from(player: Locator, seconds: float) -> None:
    player.evaluate("it => it.play()")
    wait_for(
        lambda: player.evaluate(
            "(it, from) => it.error || !it.paused && it.currentTime > from + 0.1", seconds
        ),
        why=f"it to play from {seconds} s",
    )
    assert player.evaluate("it => it.error && it.error.message") is None
    assert player.evaluate("it => it.currentTime") < seconds + 60


@pytest.mark.parametrize("extension", list(AUDIO))
def test_it_plays_seeks_and_resumes(server: Client, page: Page, extension):
    seen: list[int] = []
    page.on("response", lambda answer: seen.append(answer.status))
    target = f"/kzr/call_recording_{new_name()}.{extension}"
    put(server, target, AUDIO[extension])
    player = load(page, target)
    assert abs(player.evaluate("it => it.duration") - SECONDS) < 2
    plays_from(player, 0)
    for place in (250, 10):
        player.evaluate("(it, place) => { it.currentTime = place }", place)
        plays_from(player, place)
    player.evaluate("it => it.pause()")
    place = player.evaluate("it => it.currentTime")
    plays_from(player, place)
    assert 206 in seen and not {status for status in seen if status >= 400} - {401}


@pytest.mark.parametrize("extension", list(AUDIO))
def test_what_the_browser_has_kept_is_played_only_while_it_is_true(server, page, extension):
    target = f"/kzr/call_recording_{new_name()}.{extension}"
    half = AUDIO[extension][: len(AUDIO[extension]) // 2]
    put(server, target, AUDIO[extension])
    for _ in range(2):  # the second time it may be in the cache
        player = load(page, target)
        assert abs(player.evaluate("it => it.duration") - SECONDS) < 2
        plays_from(player, 0)
        page.reload()
    if extension == "wav":
        half = tone(SECONDS // 2)
    put(server, target, half)
    player = load(page, target)
    assert abs(player.evaluate("it => it.duration") - SECONDS / 2) < 2
    plays_from(player, 0)
    player.evaluate("it => { it.currentTime = 140 }")
    plays_from(player, 140)
