"""The page to find and play recordings, in a real browser."""

import os
from datetime import date, timedelta

import pytest
from chromium import chromium, complaints, faults, play, reader, send, tone
from conftest import Receiver, wait_for
from playwright.sync_api import Page, expect

HOSTILE = "<script>alert(1)</script>"
ACCENTED = "Jörg & 李"
DAY = 24 * 60 * 60  # seconds


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    server = Receiver(tmp_path_factory.mktemp("unused"), catalog="yes", readers="ann:secret")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    server = Receiver(
        tmp_path_factory.mktemp("broken"),
        catalog="sqlite:////absent/catalog.sqlite",
        readers="ann:secret",
    )
    yield server
    server.stop()


@pytest.fixture(scope="module")
def filled(tmp_path_factory, browser):
    """A receiver with eleven recordings, one of them of yesterday."""
    server = Receiver(tmp_path_factory.mktemp("used"), catalog="yes", readers="ann:secret")
    send(server, "A/call_recording_old.wav", tone(1), caller_id_name="Olga Old")
    path = server.storage / "A/old.wav"
    yesterday = path.stat().st_mtime - DAY
    os.utime(path, (yesterday, yesterday))
    send(server, "A/call_recording_old.wav", tone(1), caller_id_name="Olga Old")
    for number in range(6):
        send(server, f"call_recording_{number}.wav", tone(1), caller_id_name=f"Ann {number}")
    send(
        server,
        "call_recording_hostile.wav",
        tone(1),
        caller_id_name=HOSTILE,
        callee_id_name='"><img src=x onerror=alert(2)>',
        **{HOSTILE: HOSTILE},
    )
    for body in (b"older", b"newer"):
        send(server, "B/call_recording_twice.mp3", body, caller_id_name="Bea Both")
    (server.storage / "call.wav.txt").write_text("Guten Tag, hier ist Jörg.")
    (server.storage / "call.wav.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:05.000\nGuten Tag\n")
    send(
        server,
        "call_recording_call.wav",
        tone(600),
        caller_id_name=ACCENTED,
        caller_id_number="+15550100",
        callee_id_number="2000",
    )
    context = reader(browser)

    def count() -> int:
        answer = context.request.get(f"{address(server)}?format=json&limit=200")
        return len(answer.json()["recordings"])

    wait_for(lambda: count() == 11, why="the catalog to have all")
    context.close()
    yield server
    server.stop()


@pytest.fixture
def page(browser):
    """A page in which nothing may go wrong."""
    context = reader(browser)
    page = context.new_page()
    wrong = complaints(page)
    yield page
    context.close()
    assert wrong == []


def address(server: Receiver) -> str:
    return f"http://127.0.0.1:{server.port}/browse/"


def callers(page: Page) -> list[str]:
    return page.locator("tbody th > a").all_inner_texts()


def search(page: Page, text: str) -> None:
    page.get_by_role("searchbox").fill(text)
    page.get_by_role("button", name="Search").click()


def test_find_by_part_of_a_name_play_and_seek(page, filled):
    ranges: list[str] = []

    def note(response) -> None:
        if "play=" in response.url and response.status == 206:
            ranges.append(response.headers["content-range"])

    page.on("response", note)
    page.goto(address(filled))
    search(page, "jor")
    assert callers(page) == [ACCENTED]
    player = page.locator("audio")
    expect(player).to_have_accessible_name(f"{ACCENTED} to 2000")
    play(player)
    assert player.evaluate("it => Math.round(it.duration)") == 600
    player.evaluate("it => { it.currentTime = 500 }")
    wait_for(lambda: player.evaluate("it => it.currentTime > 500.2"), why="it to play there")
    assert any(not each.startswith("bytes 0-") for each in ranges), ranges
    audits = [line for line in filled.log.splitlines() if "audit user" in line]
    assert len([line for line in audits if "action=play recording=call.wav" in line]) == 1


def test_download_is_saved_under_a_name_that_tells(page, filled):
    page.goto(f"{address(filled)}?text=2000")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.endswith(f" {ACCENTED} to 2000.wav")


def test_details_and_back_to_the_results(page, filled):
    page.goto(f"{address(filled)}?text=guten")
    page.get_by_role("link", name="Details").click()
    expect(page).to_have_title(f"{ACCENTED} to 2000 – Recordings")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{ACCENTED} to 2000")
    expect(page.get_by_text("Guten Tag, hier ist Jörg.")).to_be_visible()
    expect(page.get_by_role("definition").filter(has_text="+15550100").first).to_be_visible()
    player = page.locator("video")
    play(player)
    wait_for(lambda: player.evaluate("it => it.textTracks[0].cues?.length == 1"))
    page.get_by_role("link", name="Recordings", exact=True).click()
    expect(page.get_by_role("searchbox")).to_have_value("guten")
    assert callers(page) == [ACCENTED]


def test_markup_in_metadata_is_text(page, filled):
    page.goto(address(filled))
    assert HOSTILE in callers(page)
    search(page, HOSTILE)
    page.get_by_role("link", name=HOSTILE, exact=True).click()
    expect(page.locator("h1")).to_contain_text(f'{HOSTILE} to "><img src=x onerror=alert(2)>')
    expect(page.locator("dt", has_text=HOSTILE)).to_be_visible()
    assert page.locator("img, script").count() == 0


def test_day_in_the_chart(page, filled):
    page.goto(address(filled))
    yesterday = date.today() - timedelta(days=1)
    name = f"{yesterday:%A} {yesterday.day} {yesterday:%B}: 1 recording, 16.0 kB"
    page.get_by_role("link", name=name).click()
    assert callers(page) == ["Olga Old"]
    expect(page.get_by_label("Since")).to_have_value(yesterday.isoformat())
    expect(page.get_by_label("Until")).to_have_value(yesterday.isoformat())


def test_pages_and_order(page, filled):
    page.goto(f"{address(filled)}?limit=4")
    page.get_by_label("Order").select_option("caller")
    page.get_by_role("button", name="Search").click()
    first = callers(page)
    assert first == [HOSTILE, "Ann 0", "Ann 1", "Ann 2"]
    page.get_by_role("link", name="Next").click()
    assert callers(page) == ["Ann 3", "Ann 4", "Ann 5", "Bea Both"]
    page.get_by_role("link", name="Previous").click()
    assert callers(page) == first


def test_keyboard_alone(page, filled):
    page.goto(address(filled))
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # over the search and the chart
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.innerText")
    assert focused == ACCENTED
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text(ACCENTED)


@pytest.mark.parametrize("width", [360, 800, 1000, 1280, 1920])
def test_nothing_sticks_out(page, filled, width):
    page.set_viewport_size({"width": width, "height": 800})
    for query in ("", "?text=call", "?details=call.wav", "?details=hostile.wav"):
        page.goto(address(filled) + query)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        right = page.evaluate(
            "Math.max(...[...document.querySelectorAll('main a, main audio, main video, td')]"
            ".map(it => it.getBoundingClientRect().right))"
        )
        assert right <= width


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(browser, filled, empty, broken, scheme, width):
    context = reader(
        browser, color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True
    )
    page = context.new_page()
    today = date.today()
    for url in (
        address(filled),
        f"{address(filled)}?since={today}&until={today}&limit=2",
        f"{address(filled)}?text=nobody",
        f"{address(filled)}?details=call.wav",
        f"{address(filled)}?details=/B/twice.mp3",
        f"{address(filled)}?sort=x",
        f"{address(filled)}?details=absent",
        address(empty),
        address(broken),
    ):
        page.goto(url)
        assert faults(page) == [], url
    context.close()
