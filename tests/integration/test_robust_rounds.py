"""Rounds under a robust rule: an update that passes every check and is hostile all the same moves little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import SettingsError
from common.settings import AggregationSettings, RobustSettings, RunSettings, parse
from server import pulling, rounds
from tests.integration.federation import SCHEMA, SETTINGS, Federation, Way, a_delta

SITES = ("anna", "bruno", "carla", "dora")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds here take fractions of a second, and so may the last sites."""
    monkeypatch.setattr(rounds, "GRACE_S", 0.4)
    monkeypatch.setattr(pulling, "POLL_S", 0.01)


def settings(robust: RobustSettings | None) -> RunSettings:
    chosen = AggregationSettings(norm_bound=1e6, refresh_every=0, robust=robust or False)
    return SETTINGS.model_copy(update={"quorum": robust.fewest if robust else 3, "aggregation": chosen})


def moved(root: Path, robust: RobustSettings | None) -> np.ndarray:
    """Return B after a round in which mallory's update is admitted, a thousand times as large as an honest one."""
    federation = Federation(root, (*SITES, "mallory"), settings(robust))
    federation.sites["mallory"].behave(Way.HUGE)
    federation.play()
    assert set(federation.checks().values()) == {"admitted"}
    assert federation.outcome() == "aggregated"
    return federation.state().adapter.b


def honest() -> np.ndarray:
    start = np.zeros(SCHEMA.numel("B"), np.float32)
    return np.stack([a_delta(name, 1, start) for name in SITES])


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "geometric_median", "multi_krum", "centred_clipping"])
def test_a_huge_update_moves_a_robust_rule_no_farther_than_honest_ones_do(rule: str, tmp_path: Path) -> None:
    robust = RobustSettings(rule=rule, hostile=1, mixing=False)  # type: ignore[arg-type]
    spread = np.linalg.norm(honest() - honest().mean(0), axis=1).max()
    assert np.linalg.norm(moved(tmp_path, robust) - honest().mean(0)) < 1.5 * spread


def test_the_mean_is_carried_away(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    assert np.linalg.norm(moved(tmp_path, None) - honest().mean(0)) > 20 * np.linalg.norm(honest(), axis=1).max()


def test_nothing_of_an_update_stays_on_the_disk(tmp_path: Path) -> None:
    robust = RobustSettings(rule="median", hostile=1)
    moved(tmp_path, robust)
    assert not [file for file in tmp_path.rglob("*") if "spool" in file.parts and file.is_file()]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"lora": {"method": "both"}, "quorum": 3}, "compares updates of one factor"),
        ({"site_privacy": {}, "detector": False, "quorum": 3}, "leave one of the two out"),
        ({"quorum": 2}, "needs `quorum` of 3 or more"),
    ],
    ids=["both factors", "site privacy", "too small a quorum"],
)
def test_settings_that_a_robust_rule_cannot_serve_are_refused_before_the_run_starts(
    wrong: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(RunSettings, {"aggregation": {"robust": {"hostile": 1}}, **wrong}, "run.toml")
    assert words in str(caught.value.expected)
