"""One federation, one dashboard and one browser for all tests of a module; a fresh window for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request

from tests.browser.scene import Scene, full_scene
from tests.browser.serving import CHROMIUM, NO_CHROMIUM, Dashboard, browser, dashboard

Window = Callable[..., Page]
"""Opens a window that has been let in; takes what Playwright's ``new_context`` takes."""


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return full_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def served(scene: Scene) -> Iterator[Dashboard]:
    with dashboard("--home", str(scene.home.root)) as running:
        yield running


@pytest.fixture
def window(chromium: Browser, served: Dashboard) -> Iterator[Window]:
    """Open windows; at the end none of them has asked another host for anything, nor had anything to complain of."""
    opened: list[Page] = []
    asked: list[str] = []
    told: list[str] = []

    def open_one(**options: Any) -> Page:  # noqa: ANN401 (Playwright's)
        context = chromium.new_context(**{"locale": "en", "viewport": {"width": 1280, "height": 900}, **options})
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: asked.append(_host(request)))
        page.on("console", lambda message: told.append(_said(message)))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(served.fresh_link())
        page.wait_for_url("**/")
        opened.append(page)
        return page

    yield open_one
    for page in opened:
        page.context.close()
    assert set(asked) <= {urlsplit(served.address).netloc}
    assert [words for words in told if words] == []


def _host(request: Request) -> str:
    return urlsplit(request.url).netloc


def _said(message: ConsoleMessage) -> str:
    if message.type not in {"error", "warning"} or message.location["url"].endswith("/nothing"):
        return ""
    return f"{message.text} ({message.location['url']})"
