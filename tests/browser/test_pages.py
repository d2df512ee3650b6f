"""Every page in a real browser: what it says, how it is got to, and that it stays usable for everybody."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Window
from tests.browser.scene import FEDERATION, GOING, PRIVATE, PUBLIC, SITES, Scene
from tests.browser.serving import Dashboard

PAGES = (
    "/", "/runs", f"/runs/{PRIVATE}", f"/runs/{PUBLIC}", f"/runs/{GOING}", f"/runs/{PRIVATE}/rounds/4",
    "/members/site/lotto", "/members/operator/anna", "/ledger", "/ledger/entries/40", "/nothing",
)  # fmt: skip

CONTRAST = """() => {
  const parse = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return found.length > 3 ? found : [...found, 1];
  };
  const linear = (part) => { const v = part / 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
  const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const bad = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.getClientRects().length || one.closest(".hidden, svg, .skip, noscript")) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground(one))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push(`${one.tagName}.${one.className}: ${ratio.toFixed(2)} ${one.textContent.slice(0, 30)}`);
  }
  return bad;
}"""
"""Returns what stands out too little from its ground (WCAG 2.2, 1.4.3, level AA)."""


def test_the_federation_is_the_first_page(window: Window) -> None:
    page = window()
    expect(page).to_have_title(f"{FEDERATION} · bottega")
    expect(page.get_by_role("heading", level=1)).to_have_text(FEDERATION)
    expect(page.get_by_role("table", name="Members of the federation")).to_contain_text("vandal")
    vandal = page.get_by_role("row").filter(has_text="vandal")
    expect(vandal).to_contain_text("revoked")
    expect(page.get_by_text("Round 4 of 8: 2 of 5 sites have answered.")).to_be_visible()
    expect(page.get_by_text("The ledger holds.")).to_be_visible()
    page.get_by_role("link", name="lotto", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("lotto")


def test_runs_lead_to_a_run_and_a_run_to_its_rounds(window: Window) -> None:
    page = window()
    page.get_by_role("navigation", name="Rooms").get_by_role("link", name="Runs").click()
    expect(page.get_by_role("row")).to_have_count(4)
    page.get_by_role("link", name=PRIVATE).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(PRIVATE)
    expect(page.get_by_text("This run is private, so the sites tell no loss.")).to_be_visible()
    matrix = page.get_by_role("table", name="Verdict on each site's answer in each round")
    assert matrix.get_by_role("row").count() == len(SITES) + 1
    matrix.get_by_role("row").filter(has_text="lotto").get_by_role("link", name="refused").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Round 4")
    expect(page.get_by_text("no answer by the round's deadline")).to_be_visible()
    page.get_by_role("link", name="Round 5 →").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Round 5")
    expect(page.get_by_role("row").filter(has_text="carpaccio")).to_contain_text("cut down")


def test_charts_have_their_numbers_as_tables(window: Window, served: Dashboard) -> None:
    page = window()
    page.goto(f"{served.address}/runs/{PUBLIC}")
    expect(page.get_by_role("img", name="Loss by round and site")).to_be_visible()
    page.locator("#loss").get_by_text("The same as a table").click()
    table = page.get_by_role("table", name="Loss by round and site")
    expect(table).to_be_visible()
    assert table.get_by_role("row").count() == len(SITES)
    expect(page.get_by_role("img", name="p-values by round and site")).to_be_visible()
    page.goto(f"{served.address}/runs/{PRIVATE}")
    assert page.locator("#strangeness .cross").count() == 6
    assert page.locator("#epsilon svg").count() == len(SITES)


def test_pictures_are_leafed_through_by_a_slider(window: Window, served: Dashboard) -> None:
    page = window()
    page.goto(f"{served.address}/runs/{PRIVATE}")
    slider = page.get_by_role("slider", name="Round")
    shown = page.locator("#pictures figure:visible")
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text("Round 8")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(shown).to_contain_text("Round 7")
    page.keyboard.press("Home")
    expect(shown).to_contain_text("Round 1")
    expect(slider).to_have_attribute("aria-valuetext", "Round 1")
    assert shown.locator("img").evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 100


def test_the_ledger_is_read_page_by_page(window: Window, served: Dashboard, scene: Scene) -> None:
    page = window()
    page.goto(f"{served.address}/ledger")
    entries = page.locator("#lines li")
    expect(entries).to_have_count(100)
    page.get_by_role("link", name="Earlier →").click()
    first = int(str(entries.first.locator("a").get_attribute("href")).rsplit("/", 1)[1])
    page.get_by_label("Kind").select_option(label="revoked")
    page.get_by_label("Up to entry").fill("")
    page.get_by_role("button", name="Show").click()
    expect(entries).to_have_count(1)
    expect(entries.first).to_contain_text("vandal was revoked: sent noise for a month")
    assert 90 < first < 120
    page.goto(f"{served.address}/ledger")
    page.locator("#checkpoints tbody a").first.click()
    expect(page.get_by_text("Signed by the server's key.")).to_be_visible()
    assert page.locator("#witnesses tbody tr").count() == len(SITES) - 1


def test_everything_can_be_reached_by_keys(window: Window, served: Dashboard) -> None:
    page = window()
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"
    page.goto(f"{served.address}/ledger/entries/40")
    button = page.get_by_role("button", name="Verify")
    for _ in range(40):
        page.keyboard.press("Tab")
        if button.evaluate("one => one === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.locator(".verdict.good")).to_be_visible()
    expect(button).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_on_their_ground(window: Window, served: Dashboard, scheme: str) -> None:
    page = window(color_scheme=scheme)
    grounds = set()
    for path in PAGES:
        page.goto(served.address + path)
        assert page.evaluate(CONTRAST) == [], path
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 1
    brightness = sum(int(part) for part in grounds.pop()[4:-1].split(","))
    assert brightness > 600 if scheme == "light" else brightness < 150


@pytest.mark.parametrize("language", ["en", "es"])
def test_nothing_is_wider_than_a_small_telephone(window: Window, served: Dashboard, language: str) -> None:
    page = window(viewport={"width": 320, "height": 640}, locale=language)
    for path in PAGES:
        page.goto(served.address + path)
        for one in page.locator("details").all():
            one.evaluate("details => { details.open = true; }")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, path


def test_the_pages_speak_spanish(window: Window, served: Dashboard) -> None:
    page = window(locale="es-ES")
    expect(page.locator("html")).to_have_attribute("lang", "es")
    expect(page.get_by_role("heading", name="Miembros")).to_be_visible()
    page.get_by_role("link", name="English").click()
    expect(page.get_by_role("heading", name="Members")).to_be_visible()
    page.goto(f"{served.address}/runs/{PRIVATE}?window=1")
    page.get_by_role("link", name="Español").click()
    assert page.url.endswith(f"/runs/{PRIVATE}?window=1")
    expect(page.get_by_role("heading", name="Veredictos")).to_be_visible()


def test_pages_read_the_same_without_javascript(window: Window, served: Dashboard) -> None:
    page = window(java_script_enabled=False)
    expect(page.get_by_role("heading", level=1)).to_have_text(FEDERATION)
    page.goto(f"{served.address}/runs/{PRIVATE}")
    assert page.locator("#pictures img:visible").count() == 8
    assert page.get_by_role("slider").count() == 0
    expect(page.get_by_role("img", name="p-values by round and site")).to_be_visible()
    page.locator("#strangeness summary").click()
    expect(page.get_by_role("table", name="p-values by round and site")).to_be_visible()
    page.goto(f"{served.address}/ledger/entries/40")
    assert page.get_by_role("button", name="Verify").count() == 0
    expect(page.get_by_text("This takes JavaScript.")).to_be_visible()
    page.get_by_text("All hashes").click()
    expect(page.get_by_role("table", name="From the entry up to the root")).to_be_visible()


def test_landmarks_headings_and_tables_are_named(window: Window, served: Dashboard) -> None:
    page = window()
    for path in PAGES:
        page.goto(served.address + path)
        assert page.get_by_role("banner").count() == 1
        assert page.get_by_role("main").count() == 1
        assert page.get_by_role("contentinfo").count() == 1
        assert page.get_by_role("heading", level=1).count() == 1
        assert _unnamed(page) == [], path


def _unnamed(page: Page) -> list[str]:
    found: list[str] = page.evaluate(
        """() => {
          const named = (one) => one.getAttribute("aria-label") || one.getAttribute("aria-labelledby");
          return [
            ...[...document.querySelectorAll("table")].filter((one) => !one.caption || !one.caption.textContent.trim()),
            ...[...document.querySelectorAll("section, nav, [role=region], [role=img]")].filter((one) => !named(one)),
            ...[...document.querySelectorAll("img")].filter((one) => !one.alt),
            ...[...document.querySelectorAll("[aria-labelledby]")]
              .filter((one) => !document.getElementById(one.getAttribute("aria-labelledby"))),
            ...[...document.querySelectorAll("a, button")].filter((one) => !one.textContent.trim()),
          ].map((one) => one.outerHTML.slice(0, 80));
        }"""
    )
    return found
