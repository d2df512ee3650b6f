"""``bottega site budget``: what was spent, by whom, and what is left, training and ballots alike."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.budget import Budget, Need
from client.budget_settings import BudgetSettings
from client.cli import site_app as app
from client.settings import SiteSettings
from client.settling import settle
from client.units import Unit
from common.paths import SiteHome
from security.accounting import Steps
from security.key_folder import open_vault

UNITS = tuple(Unit(frozenset({f"{n:064x}"}), (n,)) for n in range(30))


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """A site that trained one round on 20 drawings, and cast a ballot of 10 others."""
    place = SiteHome(tmp_path / "rossi")
    settle(place, SiteSettings(federation="b.test", name="rossi", server="127.0.0.1:1", data=str(tmp_path)))
    budget, now = Budget(place.budget, open_vault(place), BudgetSettings()), int(time.time() * 1000)
    budget.reserve(Need("r1", Steps(30.0, 1.0, 10)), 1, UNITS[:20], now)
    budget.reserve(Need("r1", Steps(9.0, 1.0, 1), work="ballot"), 2, UNITS[20:], now)
    budget.look("r1", now)
    return place


def test_the_budget_is_told_by_account_and_run_as_json(home: SiteHome) -> None:
    told = json.loads(CliRunner().invoke(app, ["budget", "--home", str(home.root), "--json"]).stdout)
    trained, held_out = told["accounts"]
    assert (told["epsilon"], trained["drawings"], held_out["drawings"]) == (10, 20, 10)
    assert trained["spent"] + trained["left"] == pytest.approx(10)
    assert (trained["side"], held_out["side"]) == ("train", "ballot")
    assert (told["looks_taken"], told["looks"]) == (1, 12)
    for account in (trained, held_out):
        assert account["spent"] > 0
        assert account["runs"] == [{"run": "r1", "rounds": 1, "epsilon": account["spent"]}]


def test_a_person_sees_a_bar_and_what_each_run_cost(home: SiteHome) -> None:
    seen = CliRunner().invoke(app, ["budget", "--home", str(home.root)])
    assert seen.exit_code == 0
    for part in (
        "20 drawings to train on",
        "10 drawings held out",
        "█",
        "of 10 spent",
        " left",
        "ballots",
        "1 of 12 taken",
    ):
        assert part in seen.stdout


def test_where_nothing_was_spent_that_is_said(tmp_path: Path) -> None:
    place = SiteHome(tmp_path / "neri")
    settle(place, SiteSettings(federation="b.test", name="neri", server="127.0.0.1:1", data=str(tmp_path)))
    assert "nothing was spent yet" in CliRunner().invoke(app, ["budget", "--home", str(place.root)]).stdout
