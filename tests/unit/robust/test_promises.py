"""What every rule promises, whatever the updates are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.quantise import Flat
from common.settings import RuleName
from tests.unit.robust.rounds import EVERY, ROBUST, Rows, drawn, outcome, settings

# Few values, so that ties are the rule and not the exception.
tied = hnp.arrays(
    np.float32, st.tuples(st.integers(7, 9), st.integers(1, 4)), elements=st.sampled_from([-1, -0.0, 0, 1, 2])
)
any_rows = hnp.arrays(
    np.float32, st.tuples(st.integers(7, 9), st.integers(1, 4)), elements=st.floats(-100, 100, width=32)
)
rules = pytest.mark.parametrize(("rule", "mix"), EVERY)
robust_rules = pytest.mark.parametrize(("rule", "mix"), ROBUST)


@rules
@given(rows=tied | any_rows, order=st.randoms(use_true_random=False))
def test_the_order_of_sites_never_shows_not_even_in_ties(rule: RuleName, mix: bool, rows: Rows, order: object) -> None:
    shuffled = list(rows)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    chosen = settings(rule, mix, 1)
    assert outcome(shuffled, chosen).update.tobytes() == outcome(rows, chosen).update.tobytes()


@rules
@pytest.mark.parametrize("count", [6, 33])
def test_the_order_of_sites_never_shows_in_long_updates(rule: RuleName, mix: bool, count: int) -> None:
    rows = drawn(1, count, 40_000)
    chosen = settings(rule, mix, 1)
    first = outcome(rows, chosen).update.tobytes()
    assert outcome(rows[np.random.default_rng(2).permutation(count)], chosen).update.tobytes() == first


@rules
@given(seed=st.integers(0, 10_000), away=st.floats(-50, 50))
def test_updates_that_are_all_moved_move_the_result_as_much(rule: RuleName, mix: bool, seed: int, away: float) -> None:
    rows, chosen = drawn(seed, 8, 5), settings(rule, mix, 2)
    shift = np.full(5, away, np.float32)
    here = outcome(rows, chosen, np.zeros(5, np.float32)).update
    there = outcome(rows + shift, chosen, shift).update
    np.testing.assert_allclose(there, here + shift, atol=1e-3, rtol=0)


@rules
@given(rows=any_rows)
def test_each_coordinate_stays_among_those_of_the_updates_and_the_centre(rule: RuleName, mix: bool, rows: Rows) -> None:
    among = [*rows, np.zeros(rows.shape[1], np.float32)] if rule == "centred_clipping" else rows
    found = outcome(rows, settings(rule, mix, 2)).update
    assert (np.min(among, axis=0) <= found).all()
    assert (found <= np.max(among, axis=0)).all()


def farthest(rule: RuleName, mix: bool, honest: Rows, hostile: Rows) -> float:
    """Return how far the result is from the honest mean, as a multiple of the widest honest distance."""
    found = outcome([*honest, *hostile], settings(rule, mix, len(hostile))).update
    middle = honest.mean(axis=0, dtype=np.float64)
    return float(np.linalg.norm(found - middle) / np.linalg.norm(honest - middle, axis=1).max())


@robust_rules
@given(seed=st.integers(0, 10_000), size=st.sampled_from([1.0, 3.0, 1e2, 1e6, 1e18, 1e37]), together=st.booleans())
def test_hostile_updates_however_far_move_the_result_boundedly(
    rule: RuleName, mix: bool, seed: int, size: float, together: bool
) -> None:
    honest = drawn(seed, 7, 6)
    aims = np.random.default_rng(seed).uniform(-1, 1, (2, 6))
    hostile = (size * (aims[[0, 0]] if together else aims)).astype(np.float32)
    # 14 / 5 is what the geometric median promises; sqrt(6) the coordinate rules; the others are well below both.
    assert farthest(rule, mix, honest, hostile) <= 4.0


def test_the_mean_does_not_keep_that_promise() -> None:
    far = np.full((2, 6), 1e6, np.float32)
    found = outcome([*drawn(0, 7, 6), *far], settings("mean", False, 0)).update
    assert np.linalg.norm(found) > 1e5


@robust_rules
@given(seed=st.integers(0, 10_000))
def test_from_far_enough_it_matters_no_more_how_far(rule: RuleName, mix: bool, seed: int) -> None:
    honest = drawn(seed, 7, 6)

    def at(distance: float) -> Flat:
        aims = np.random.default_rng(seed).uniform(0.5, 1, (2, 6)) * distance
        return outcome([*honest, *aims.astype(np.float32)], settings(rule, mix, 2)).update

    np.testing.assert_allclose(at(1e30), at(1e15), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "geometric_median", "multi_krum"])
def test_with_mixing_and_hostile_updates_far_away_all_honest_ones_count_alike(rule: RuleName) -> None:
    honest = drawn(3, 7, 6)
    far = np.full((2, 6), 1e9, np.float32)
    found = outcome([*honest, *far], settings(rule, True, 2)).update
    np.testing.assert_allclose(found, honest.mean(axis=0), rtol=1e-4, atol=1e-4)
