"""Each rule on numbers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from common.errors import AggregationError
from common.settings import RobustSettings, RuleName
from server.robust import Updates, aggregate
from server.robust.geometry import lowest, squared_distances
from server.robust.krum import scores
from server.robust.nnm import mixing
from tests.unit.robust.rounds import EVERY, ROBUST, RULES, held, line, outcome, settings


def number(rule: RuleName, *values: float, hostile: int = 1, mix: bool = False, centre: float | None = None) -> float:
    start = None if centre is None else np.array([centre], np.float32)
    return float(outcome(line(*values), settings(rule, mix, hostile), start).update[0])


def test_the_mean_weighs_all_alike() -> None:
    assert number("mean", 1, 2, 9) == 4


def test_the_median_is_in_the_middle_of_each_coordinate() -> None:
    rows = np.array([[1, 30, -1], [2, 10, 0], [9, 20, 0]], np.float32)
    assert outcome(rows, settings("median", False, 1)).update.tolist() == [2, 20, 0]
    assert number("median", 7, 1, 100, 3) == 5


def test_the_trimmed_mean_leaves_out_as_many_at_each_end_as_may_be_hostile() -> None:
    assert number("trimmed_mean", 1e6, 1, 2, 6, -50, hostile=1) == 3
    assert number("trimmed_mean", 1e6, 1, 2, 6, -50, hostile=2) == 2
    assert number("trimmed_mean", 1, 2, 6, hostile=0) == 3


def test_the_geometric_median_of_four_corners_is_where_their_diagonals_cross() -> None:
    corners = np.array([[0, 0], [6, 0], [4, 4], [0, 3]], np.float32)
    assert outcome(corners, settings("geometric_median", False, 1)).update == pytest.approx([2, 2], abs=1e-5)


def test_the_geometric_median_on_a_line_is_the_median() -> None:
    assert number("geometric_median", 0, 1, 10) == pytest.approx(1, abs=1e-4)
    assert number("geometric_median", 3, 3, 3, 1e6, 2e6, hostile=2) == pytest.approx(3, abs=1e-4)
    assert number("geometric_median", 2, 3, 3, 4, 1e6, 2e6, 3e6, hostile=3) == pytest.approx(4, abs=1e-4)


def test_multi_krum_averages_those_with_the_nearest_neighbours() -> None:
    with held(line(0, 1, 2, 3, 100)) as updates:
        found = scores(squared_distances(updates.gram()), 4)[np.argsort(updates.order)]
    assert found.tolist() == [14, 6, 6, 14, 98**2 + 99**2 + 97**2]
    assert number("multi_krum", 0, 1, 2, 3, 100) == 1.5
    assert number("multi_krum", 50, 0, 1, 2, 60, 3, 4, hostile=2) == 2


def test_centred_clipping_cuts_each_difference_from_where_it_stands() -> None:
    def clipped(steps: int, radius: float | None = 3.0, centre: float | None = None) -> float:
        chosen = settings("centred_clipping", False, 1, clip_radius=radius, clip_steps=steps)
        start = None if centre is None else np.array([centre], np.float32)
        return float(outcome(line(1, 2, 9), chosen, start).update[0])

    assert clipped(1) == 2  # (1 + 2 + 3) / 3
    assert clipped(2) == pytest.approx(2 + (-1 + 0 + 3) / 3)
    assert clipped(1, centre=10) == pytest.approx(10 + (-3 - 3 - 1) / 3)
    assert clipped(1, radius=None) == pytest.approx((1 + 2 + 2) / 3)


def test_mixing_replaces_each_by_the_mean_of_its_nearest() -> None:
    with held(line(3, 0, 1)) as updates:
        by_adding = np.argsort(updates.order)
        mix = mixing(updates.gram(), 1)[np.ix_(by_adding, by_adding)]
    assert mix.tolist() == [[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0.5, 0.5]]
    assert number("multi_krum", 3, 0, 1, 10, 30, mix=True) == pytest.approx(3.5)
    assert number("median", 3, 0, 1, mix=True) == 0.5
    assert number("trimmed_mean", 3, 0, 1, mix=True) == 0.5


def test_shares_are_told_in_the_order_of_adding() -> None:
    found = outcome(line(50, 0, 1, 2, 60, 3, 4), settings("multi_krum", False, 2)).shares
    assert found is not None
    assert found.tolist() == pytest.approx([0, 0.2, 0.2, 0.2, 0, 0.2, 0.2])
    assert outcome(line(1, 2, 3), settings("median", False, 1)).shares is None


@pytest.mark.parametrize(("rule", "mix"), EVERY)
def test_one_update_alone_is_the_result(rule: RuleName, mix: bool) -> None:
    if rule == "multi_krum":
        with pytest.raises(AggregationError, match="at least 3 updates"):
            number(rule, 5, hostile=0, mix=mix)
    else:
        assert number(rule, 5, hostile=0, mix=mix) == 5


@pytest.mark.parametrize(("rule", "mix"), EVERY)
@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -3e38])
def test_equal_updates_give_what_they_are(rule: RuleName, mix: bool, value: float) -> None:
    assert number(rule, *[value] * 5, mix=mix) == pytest.approx(np.float32(value), rel=1e-6)


@pytest.mark.parametrize(("rule", "mix"), ROBUST)
def test_too_many_hostile_sites_for_a_rule_are_refused(rule: RuleName, mix: bool) -> None:
    chosen = settings(rule, mix, 2)
    assert chosen.fewest == (7 if rule == "multi_krum" else 5)
    outcome(line(*range(chosen.fewest)), chosen)
    with pytest.raises(
        AggregationError, match=f"too few updates for the rule {rule}.*at least {chosen.fewest} updates"
    ):
        outcome(line(*range(chosen.fewest - 1)), chosen)


@pytest.mark.parametrize(("rule", "mix"), EVERY)
def test_no_update_has_no_aggregate(rule: RuleName, mix: bool) -> None:
    with Updates(3, 1) as updates, pytest.raises(AggregationError, match="got 0 updates"):
        aggregate(updates, settings(rule, mix, 0))


def test_equal_updates_that_compete_for_the_last_places_share_them() -> None:
    assert lowest(np.array([[0, 1, 1, 3.0], [5, 5, 5, 5], [2, 0, 2 + 1e-12, 3]]), 2).tolist() == [
        [0.5, 0.25, 0.25, 0],
        [0.25, 0.25, 0.25, 0.25],
        [0.25, 0.5, 0.25, 0],
    ]
    # -100 and 100 are equally far from the others, and either may be the fourth that is averaged.
    assert number("multi_krum", -100, -1, 0, 1, 100, hostile=1) == pytest.approx(0)


def test_options_of_another_rule_and_an_undefended_mean_are_refused() -> None:
    for rule in RULES:
        if rule != "centred_clipping":
            with pytest.raises(ValidationError, match="clip_radius"):
                RobustSettings(rule=rule, hostile=0, clip_radius=1.0)
    for mix in (False, True):
        with pytest.raises(ValidationError, match="withstands no hostile update"):
            RobustSettings(rule="mean", mixing=mix, hostile=1)
    with pytest.raises(ValidationError):
        RobustSettings(rule="krum", hostile=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("centre", [np.zeros(2, np.float32), np.array([np.nan], np.float32)])
def test_a_centre_that_does_not_fit_is_refused(centre: np.ndarray) -> None:
    with pytest.raises(AggregationError, match="the centre does not fit"):
        outcome(line(1, 2, 3), settings("centred_clipping", False, 1), centre)
