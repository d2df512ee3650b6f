"""The browser verifies by itself: a true entry, a false one, and a server that lies about it."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from common.settings import RunSettings
from tests.browser.conftest import Window
from tests.browser.scene import Scene, found_scene
from tests.browser.serving import Dashboard, dashboard

Told = dict[str, Any]


def verify(page: Page, address: str, index: int) -> str:
    page.goto(f"{address}/ledger/entries/{index}")
    page.get_by_role("button", name="Verify").click()
    verdict = page.locator(".verdict")
    expect(verdict).not_to_be_empty()
    return str(verdict.text_content())


def test_entries_are_verified_in_the_page(window: Window, served: Dashboard, scene: Scene) -> None:
    page = window()
    for index in (0, 1, 40, 127, 128, 196):
        assert verify(page, served.address, index) == "This entry is in the ledger that the server signed."
        assert page.locator(".steps li.done").count() == 5
    leaf = page.locator(".steps code").first.text_content()
    with sqlite3.connect(scene.home.database) as db:
        ((kept,),) = db.execute('SELECT hash FROM ledger_entries WHERE "index" = 196').fetchall()
    assert leaf == kept.hex()


def changed_entry(told: Told) -> None:
    told["entry"] = base64.b64encode(base64.b64decode(told["entry"]).replace(b"train", b"Train")).decode()


def other_place(told: Told) -> None:
    told["index"] += 1


def changed_proof(told: Told) -> None:
    told["proof"][3] = "00" * 32


def short_proof(told: Told) -> None:
    told["proof"].pop()


def long_proof(told: Told) -> None:
    told["proof"].append("00" * 32)


def other_root(told: Told) -> None:
    lines = told["checkpoint"].split("\n")
    lines[2] = base64.b64encode(bytes(32)).decode()
    told["checkpoint"] = "\n".join(lines)


def other_size(told: Told) -> None:
    lines = told["checkpoint"].split("\n")
    lines[1] = str(int(lines[1]) + 1)
    told["checkpoint"] = "\n".join(lines)


def other_key(told: Told) -> None:
    told["key"] = "11" * 32


def no_signature(told: Told) -> None:
    told["checkpoint"] = told["checkpoint"].split("\n\n")[0] + "\n\n"


def nonsense(told: Told) -> None:
    told["checkpoint"] = "nothing"


LIES: tuple[Callable[[Told], None], ...] = (
    changed_entry, other_place, changed_proof, short_proof, long_proof, other_root, other_size, other_key, no_signature,
    nonsense,
)  # fmt: skip


def test_a_server_that_lies_is_caught_by_the_page(window: Window, served: Dashboard) -> None:
    page = window()
    lie: list[Callable[[Told], None]] = [changed_entry]

    def answer(route: Route) -> None:
        told = route.fetch().json()
        lie[0](told)
        route.fulfill(body=json.dumps(told), content_type="application/json")

    page.route("**/*.json", answer)
    for one in LIES:
        lie[0] = one
        assert verify(page, served.address, 40).startswith("It does not hold."), one.__name__
        assert page.locator(".verdict.bad").count() == 1


def test_a_browser_without_ed25519_says_what_it_did_not_check(window: Window, served: Dashboard) -> None:
    page = window()
    page.add_init_script("crypto.subtle.importKey = () => Promise.reject(new Error('not here'))")
    assert "This browser cannot check Ed25519" in verify(page, served.address, 40)


def test_a_browser_without_webcrypto_says_so(window: Window, served: Dashboard) -> None:
    page = window()
    page.add_init_script("Object.defineProperty(crypto, 'subtle', { value: undefined })")
    assert "This browser has no WebCrypto here" in verify(page, served.address, 40)


@pytest.fixture
def small(tmp_path: Path) -> Scene:
    scene = found_scene(tmp_path)
    scene.story.start("20261126-143000-e84b", ["bellini"], RunSettings())
    scene.write()
    return scene


def test_a_tampered_ledger_is_shown_as_such_while_somebody_looks(chromium: Browser, small: Scene) -> None:
    with dashboard("--home", str(small.home.root)) as served:
        page = chromium.new_page(locale="en")
        page.goto(served.fresh_link())
        page.wait_for_url("**/")
        expect(page.get_by_text("The ledger holds.")).to_be_visible()
        with sqlite3.connect(small.home.database) as db:
            db.execute("DROP TRIGGER ledger_entries_unchanged")
            db.execute("UPDATE ledger_entries SET entry = CAST(entry || ' ' AS BLOB) WHERE \"index\" = 7")
        alarm = page.get_by_role("alert")
        expect(alarm).to_contain_text("This ledger does not hold from entry")
        expect(alarm).to_contain_text("entry 7 is not what was written")
        for path in ("/runs", "/ledger", "/members/site/lotto", "/ledger/entries/7", "/nothing"):
            page.goto(served.address + path)
            expect(alarm).to_be_visible()
        assert verify(page, served.address, 7).startswith("It does not hold.")
        page.context.close()
