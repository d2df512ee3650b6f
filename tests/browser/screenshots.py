"""Takes the pictures of the dashboard that the documents show: ``python -m tests.browser.screenshots``.

With a folder it takes every page there: light, dark, narrow and in Spanish.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, FloatRect, Page

from tests.browser.scene import GOING, PRIVATE, PUBLIC, Scene, full_scene
from tests.browser.serving import Dashboard, browser, dashboard

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {
    "federation": "/", "runs": "/runs", "private": f"/runs/{PRIVATE}", "public": f"/runs/{PUBLIC}",
    "going": f"/runs/{GOING}", "round": f"/runs/{PRIVATE}/rounds/4", "site": "/members/site/lotto",
    "ledger": "/ledger", "entry": "/ledger/entries/40", "checkpoint": "/ledger/checkpoints/48", "missing": "/nothing",
}  # fmt: skip


def main() -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        scene = full_scene(Path(folder))
        with dashboard("--home", str(scene.home.root)) as served, browser() as chromium:
            if len(sys.argv) > 1:
                _every_page(chromium, served, Path(sys.argv[1]))
            else:
                _documents(chromium, served, scene)


def _documents(chromium: Browser, served: Dashboard, scene: Scene) -> None:
    page = _page(chromium, served.fresh_link(), 1280, 1500)
    page.goto(f"{served.address}/runs/{PRIVATE}")
    page.screenshot(path=DOCS / "dashboard.png")
    index = scene.members.roster.version + 30
    page.goto(f"{served.address}/ledger/entries/{index}")
    page.get_by_role("button", name="Verify").click()
    page.locator(".verdict.good").wait_for()
    box = page.locator("#proof").bounding_box()
    assert box
    clip = FloatRect(x=0, y=box["y"] + 1, width=1280, height=box["height"] + 40)
    page.screenshot(path=DOCS / "dashboard-verify.png", full_page=True, clip=clip)


def _every_page(chromium: Browser, served: Dashboard, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, width, scheme, language in (
        ("light", 1280, "light", "en"), ("dark", 1280, "dark", "en"), ("narrow", 320, "light", "es"),
    ):  # fmt: skip
        page = _page(chromium, served.fresh_link(), width, 900, "dark" if scheme == "dark" else "light", language)
        for about, path in PAGES.items():
            page.goto(served.address + path)
            page.wait_for_load_state("load")
            page.screenshot(path=folder / f"{about}-{name}.png", full_page=True)
        page.context.close()


def _page(
    chromium: Browser,
    link: str,
    width: int,
    height: int,
    scheme: Literal["light", "dark"] = "light",
    language: str = "en",
) -> Page:
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, locale=language, reduced_motion="reduce",
        device_scale_factor=1,
    )  # fmt: skip
    page = context.new_page()
    page.goto(link)
    page.wait_for_url("**/")
    page.locator(".seal.holds").wait_for()
    return page


if __name__ == "__main__":
    main()
