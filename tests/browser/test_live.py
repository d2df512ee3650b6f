"""Pages stay up to date while the ledger grows, without being asked, and lose nothing that the reader was at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from common.settings import RunSettings
from tests.browser.conftest import Window
from tests.browser.scene import GOING, SITES, Scene
from tests.browser.serving import Dashboard, dashboard

EIGHT = RunSettings(rounds=8)


def test_a_page_follows_a_run(window: Window, served: Dashboard, scene: Scene) -> None:
    page, plain = window(), window(java_script_enabled=False)
    page.goto(f"{served.address}/runs/{GOING}")
    plain.goto(f"{served.address}/runs/{GOING}")
    row = page.get_by_role("row").filter(has_text="giorgione").first
    expect(row).to_contain_text("no word")
    page.locator("#strangeness summary").click()
    page.get_by_role("link", name="tiziano").first.focus()
    scene.answer(GOING, 4, "giorgione", EIGHT, verdict="clipped", check=15, check_name="size", reason="cut to 2.5")
    scene.write()
    expect(row.get_by_role("link", name="cut down")).to_be_visible()
    news = page.get_by_role("status")
    expect(news).to_have_text("New entries: the page was brought up to date")
    expect(page.get_by_role("link", name="tiziano").first).to_be_focused()
    expect(page.get_by_role("table", name="p-values by round and site")).to_be_visible()
    expect(plain.get_by_role("row").filter(has_text="giorgione").first).to_contain_text("no word")
    plain.reload()
    expect(plain.get_by_role("row").filter(has_text="giorgione").first).to_contain_text("cut down")


def test_the_first_page_tells_how_far_the_run_is(window: Window, scene: Scene) -> None:
    page = window()
    expect(page.get_by_text("Round 4 of 8: 3 of 5 sites have answered.")).to_be_visible()
    for site in SITES[3:5]:
        scene.answer(GOING, 4, site, EIGHT)
    scene.story.close_round(GOING, 4, SITES[:5])
    scene.open(GOING, 5, SITES[:5])
    scene.write()
    expect(page.get_by_text("Round 5 of 8: 0 of 5 sites have answered.")).to_be_visible()
    expect(page.locator("#lately li").first).to_contain_text(f"Round 5 of run {GOING} was opened")
    scene.story.end(GOING, "stopped", "enough for today")
    scene.write()
    expect(page.locator("#now")).to_have_count(0)
    expect(page.locator("#lately li").first).to_contain_text("was stopped")


def test_a_page_says_when_the_server_is_gone(chromium_window: Page, going: Dashboard) -> None:
    page = chromium_window
    going.process.kill()
    going.process.wait()
    page.evaluate("refresh()")
    expect(page.get_by_role("status")).to_contain_text("The server no longer answers")


@pytest.fixture
def going(scene: Scene) -> Iterator[Dashboard]:
    with dashboard("--home", str(scene.home.root)) as running:
        yield running


@pytest.fixture
def chromium_window(request: pytest.FixtureRequest, going: Dashboard) -> Iterator[Page]:
    page: Page = request.getfixturevalue("chromium").new_page(locale="en")
    page.goto(going.fresh_link())
    page.wait_for_url("**/")
    yield page
    page.context.close()
