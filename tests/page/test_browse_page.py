"""The page to find and play recordings, in a real browser."""

import os
from datetime import date, timedelta

import pytest

pytest.importorskip("playwright")
pytest.importorskip("sqlalchemy")

from playwright.sync_api import Locator, Page, expect

from receiver.jobs.transcription import to_vtt
from support.chromium import chromium, complaints, faults, play, reader, send, tone
from support.pages import attach
from support.receivers import Receiver
from support.waiting import wait_for

HOSTILE = "<script>alert(1)</script>"
ACCENTED = "Jörg & 李"
SAID = ("Guten Tag, hier ist Jörg.", "Hallo Jörg, hier ist Bea.", "Bis bald!")
CUES = [(0.0, 4.5, SAID[0]), (4.5, 300.0, SAID[1]), (301.0, 303.0, SAID[2])]
CUES += [(310.0 + number, 311.0 + number, f"Und noch ein Satz, {number}.") for number in range(200)]
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
    attach(server, "call.wav", txt=" ".join(SAID), vtt=to_vtt(CUES).decode())
    attach(server, "0.wav", txt="Nobody knows when this is said.")
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


def segment(page: Page, number: int) -> Locator:
    return page.locator(".segments li").nth(number - 1)


def time_of(page: Page, number: int) -> Locator:
    return segment(page, number).get_by_role("link", name="Play from")


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
    expect(segment(page, 1)).to_contain_text(SAID[0])
    expect(page.get_by_role("definition").filter(has_text="+15550100").first).to_be_visible()
    page.get_by_role("link", name="Recordings", exact=True).click()
    expect(page.get_by_role("searchbox")).to_have_value("guten")
    assert callers(page) == [ACCENTED]


def test_what_is_said_is_marked_while_it_is_played(page, filled):
    page.goto(f"{address(filled)}?details=call.wav")
    marked = page.locator("[aria-current]")
    expect(marked).to_have_count(0)
    player = page.locator("audio")
    play(player)
    expect(segment(page, 1)).to_have_attribute("aria-current", "true")
    expect(segment(page, 1)).to_have_class("playing")
    player.evaluate("it => { it.currentTime = 4.3 }")
    expect(segment(page, 2)).to_have_attribute("aria-current", "true")
    expect(marked).to_have_count(1)
    player.evaluate("it => { it.currentTime = 300.5 }")  # in a pause
    wait_for(lambda: player.evaluate("it => it.currentTime > 300.6"))
    expect(segment(page, 2)).to_have_class("playing")
    player.evaluate("it => { it.currentTime = 599.8 }")
    expect(marked).to_have_count(0)


def test_times_seek_in_place(page, filled):
    page.goto(f"{address(filled)}?details=call.wav")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    time_of(page, 3).click()
    player = page.locator("audio")
    wait_for(lambda: player.evaluate("it => it.currentTime > 301.1 && !it.paused"))
    assert player.evaluate("it => it.currentTime") < 303
    expect(segment(page, 3)).to_have_attribute("aria-current", "true")
    time_of(page, 2).press("Enter")
    expect(segment(page, 2)).to_have_attribute("aria-current", "true")
    wait_for(lambda: player.evaluate("it => it.currentTime > 4.6 && it.currentTime < 9"))
    assert requests and not any("details=" in each for each in requests)
    time_of(page, 200).click()
    box = player.bounding_box()
    assert box and 0 <= box["y"] < 100  # the player stays in sight


@pytest.mark.parametrize("scripts", [True, False])
def test_times_are_links(browser, filled, scripts):
    """As they are without scripts, and in another tab."""
    context = reader(browser, java_script_enabled=scripts)
    page = context.new_page()
    page.goto(f"{address(filled)}?text=guten&details=call.wav")
    if scripts:
        with context.expect_page() as opened:
            time_of(page, 3).click(modifiers=["ControlOrMeta"])
        page = opened.value
    else:
        time_of(page, 3).click()
    page.wait_for_url("**/browse/?text=guten&details=*&at=301.000#segment-3")
    player = page.locator("audio")
    wait_for(lambda: player.evaluate("it => it.currentTime > 301"), why="it to play there")
    assert player.evaluate("it => it.currentTime") < 310
    expect(page.locator("[aria-current]")).to_have_count(1)
    expect(segment(page, 3)).to_have_attribute("aria-current", "true")
    context.close()


def test_one_plays_at_a_time(page, filled):
    page.goto(address(filled))
    first = page.get_by_label(f"{ACCENTED} to 2000", exact=True)
    play(first)
    play(page.locator("audio").nth(3))
    assert first.evaluate("it => it.paused")
    play(first)


def test_excerpts_of_what_was_found(page, filled):
    page.goto(f"{address(filled)}?text=jorg")
    expect(page.locator(".said")).to_have_text(f"Said: {SAID[0]} {SAID[1]} {SAID[2]}")
    assert page.locator(".said mark").all_inner_texts() == ["Jörg", "Jörg"]
    search(page, "said")
    page.get_by_role("link", name="Details").click()
    expect(page.locator(".transcript")).to_have_text("Nobody knows when this is said.")
    expect(page.locator(".transcript mark")).to_have_text("said")
    expect(page.locator(".segments")).to_have_count(0)


def test_markup_in_metadata_is_text(page, filled):
    page.goto(address(filled))
    assert HOSTILE in callers(page)
    search(page, HOSTILE)
    page.get_by_role("link", name=HOSTILE, exact=True).click()
    expect(page.locator("h1")).to_contain_text(f'{HOSTILE} to "><img src=x onerror=alert(2)>')
    expect(page.locator("dt", has_text=HOSTILE)).to_be_visible()
    assert page.locator("img, script:not(head > script[src^='?asset=player.js&'])").count() == 0


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
    for query in ("", "?text=jorg", "?details=call.wav", "?details=hostile.wav"):
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
    colours = ("color-contrast", "link-in-text-block")  # the rules for what the schemes differ in
    for url in (
        address(filled),
        f"{address(filled)}?since={today}&until={today}&limit=2",
        f"{address(filled)}?text=nobody",
        f"{address(filled)}?text=jorg",
        f"{address(filled)}?text=jorg&details=call.wav&at=301",
        f"{address(filled)}?details=0.wav",
        f"{address(filled)}?details=/B/twice.mp3",
        f"{address(filled)}?sort=x",
        f"{address(filled)}?details=absent",
        address(empty),
        address(broken),
    ):
        page.goto(url)
        assert faults(page, *(colours if scheme == "dark" else ())) == [], url
    context.close()


def test_filters_without_scripts(browser, filled):
    context = reader(browser, java_script_enabled=False)
    page = context.new_page()
    page.goto(address(filled))
    expect(page.locator(".tools")).to_be_hidden()
    expect(page.get_by_label("Lasts at least")).to_be_hidden()
    page.get_by_text("More filters").click()
    page.get_by_label("Lasts at least").select_option("5 min")
    page.get_by_label("Format").select_option("wav")
    page.get_by_role("button", name="Search").click()
    assert callers(page) == [ACCENTED]
    expect(page.get_by_label("Lasts at least")).to_have_value("300")
    context.close()


def rate(player: Locator) -> float:
    return player.evaluate("it => it.playbackRate")


@pytest.mark.parametrize("query", ["?text=2000", "?details=call.wav"])
def test_speed_and_ten_seconds(page, filled, query):
    page.goto(address(filled) + query)
    player = page.locator("audio")
    speed = page.get_by_label("Speed")
    assert speed.locator("option").all_inner_texts() == [
        f"{each}×" for each in ("0.75", "1", "1.25", "1.5", "1.75", "2")
    ]
    play(player)
    player.evaluate("it => { it.pause(); it.currentTime = 100 }")
    page.get_by_role("button", name="+10 s").press("Enter")
    assert player.evaluate("it => it.currentTime") == 110
    page.get_by_role("button", name="−10 s").click()
    page.keyboard.press("Shift+ArrowLeft")
    assert player.evaluate("it => it.currentTime") == 90
    player.focus()
    page.keyboard.press("Shift+ArrowRight")
    assert player.evaluate("it => it.currentTime") == 100
    speed.select_option("2")
    assert rate(player) == 2
    page.locator("h1").click()
    page.keyboard.press("Shift+ArrowUp")  # there is no more
    page.keyboard.press("Shift+ArrowDown")
    assert rate(player) == 1.75
    player.evaluate("it => { it.currentTime = 3 }")
    page.keyboard.press("Shift+ArrowLeft")
    assert player.evaluate("it => it.currentTime") == 0
    page.reload()
    expect(speed).to_have_value("1.75")
    play(player)
    assert rate(player) == 1.75
    speed.select_option("1")


def test_keys_are_left_alone_where_somebody_types(page, filled):
    page.goto(f"{address(filled)}?text=2000")
    play(page.locator("audio"))
    box = page.get_by_role("searchbox")
    box.focus()
    page.keyboard.press("End")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.type("x")
    expect(box).to_have_value("200x")


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_columns_are_wide_enough_to_read(page, browser, tmp_path, width):
    """Long names break between words where there are any, and overlap nothing."""
    server = Receiver(tmp_path, catalog="yes", readers="ann:secret")
    names = [
        "Maria-Magdalena von Hohenzollern-Sigmaringen und Partner Rechtsanwaltsgesellschaft mbH",
        "شركة الاتصالات السعودية – خدمة العملاء الدولية",
        "株式会社サンプル電話サポートセンター契約解約受付窓口",
        "x" * 200,
        "",
    ]
    for number, name in enumerate(names):
        told = {"caller_id_name": name, "callee_id_name": name} if name else {}
        send(server, f"{number}.wav", tone(1), **told, account_id=f"{number:032}")
    page.set_viewport_size({"width": width, "height": 900})
    wait_for(lambda: page.goto(address(server)) and page.locator("audio").count() == len(names))
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = page.evaluate(
        "[...document.querySelectorAll('tbody tr')].map(row => [...row.querySelectorAll("
        "'time, th bdi, td > bdi, .duration, audio, .links')].map(it => {"
        "const box = it.getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]"
        "}))"
    )
    for row in boxes:
        for at, one in enumerate(row):
            for other in row[at + 1 :]:
                apart = one[2] <= other[0] + 1 or other[2] <= one[0] + 1
                assert apart or one[3] <= other[1] + 1 or other[3] <= one[1] + 1, (one, other)
    if width > 1000:
        wide = page.locator("td.to").first.bounding_box()
        assert wide and wide["width"] > 200
    server.stop()
