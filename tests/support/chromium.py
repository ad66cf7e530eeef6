"""A real browser for the tests: Debian's Chromium, driven by Playwright."""

import io
import math
import struct
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlencode

import pytest

pytest.importorskip("axe_playwright_python")
pytest.importorskip("playwright")

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

from support.needs import need
from support.receivers import Receiver
from support.waiting import wait_for

USER, SECRET = "ann", "secret"
RATE = 8000  # Hz


def tone(seconds: float = 20, pitch: float = 440) -> bytes:
    """A recording in WAV that every browser plays."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        one = [int(8000 * math.sin(2 * math.pi * pitch * n / RATE)) for n in range(RATE)]
        out.writeframes(struct.pack(f"<{RATE}h", *one) * int(seconds))
    return file.getvalue()


def send(server: Receiver, name: str, body: bytes, **told: object) -> None:
    """Store a recording as Kazoo does, with what it tells in the query."""
    mark = "?" if told else ""
    answer = server.put(f"/kzr/{name}{mark}{urlencode(told, quote_via=quote)}", body)
    assert answer.status in (200, 201), answer.text


@contextmanager
def chromium() -> Iterator[Browser]:
    program = need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"],
        )
        yield browser
        browser.close()


def reader(browser: Browser, **options: object) -> BrowserContext:
    """A window of somebody who may read."""
    return browser.new_context(
        http_credentials={"username": USER, "password": SECRET}, **{"locale": "en-GB"} | options
    )


def complaints(page: Page) -> list[str]:
    """A list that grows by what the page does wrong: errors, refusals by its policy, dialogs."""
    found: list[str] = []

    def note(message) -> None:
        if message.type in ("error", "warning"):
            found.append(f"{message.text} {message.location}")

    def dismiss(dialog) -> None:
        found.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("console", note)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("dialog", dismiss)
    return found


def faults(page: Page, *rules: str) -> list[str]:
    """The serious and critical faults of accessibility that axe finds in the page.

    By all of its rules, or by those that are named.
    """
    page.evaluate(AXE_SCRIPT)
    # What passed is neither described nor sent here, which takes longer than looking at it.
    options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
    violations = page.evaluate("it => axe.run(it).then(all => all.violations)", options)
    return [
        f"{each['id']}: {node['html']} {node.get('failureSummary', '')}"
        for each in violations
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def play(player: Locator) -> None:
    """Play as who has only a keyboard does, and wait until it does."""
    player.press("Space")
    wait_for(lambda: player.evaluate("it => it.currentTime > 0 && !it.paused"), why="it to play")
