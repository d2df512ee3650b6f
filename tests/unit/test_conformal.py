"""Conformal p-values keep what they promise, and what cannot be promised is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from security.conformal import (
    DetectorError,
    check_rate,
    least_rate,
    p_values,
    rejected,
    scores_needed,
    worst_rate,
)

FINITE = st.floats(-1e6, 1e6)


def test_a_p_value_counts_the_honest_scores_that_are_at_least_as_high() -> None:
    calibration = np.array([3.0, 1.0, 2.0, 2.0])
    scores = np.array([0.0, 1.5, 2.0, 3.0, 3.1, np.inf])
    assert p_values(calibration, scores).tolist() == [1.0, 0.8, 0.8, 0.4, 0.2, 0.2]


def test_without_calibration_nothing_is_strange() -> None:
    assert p_values(np.empty(0), np.array([1e9])).tolist() == [1.0]


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize(("count", "alpha"), [(9, 0.1), (99, 0.01), (99, 0.05), (150, 0.02)])
def test_honest_updates_are_rejected_no_more_often_than_stated(count: int, alpha: float, *, discrete: bool) -> None:
    chance, trials = np.random.default_rng(20261123), 20_000
    drawn = chance.standard_normal((trials, count + 1))
    drawn = np.round(drawn) if discrete else drawn  # scores that tie must not break the promise
    hits = sum(bool(p_values(row[1:], row[:1])[0] <= alpha) for row in drawn)
    assert binomtest(hits, trials, alpha, alternative="greater").pvalue > 1e-6
    if not discrete:
        exact = np.floor(alpha * (count + 1)) / (count + 1)
        assert binomtest(hits, trials, exact).pvalue > 1e-6, "nor much less often"


@given(st.lists(FINITE, max_size=30), st.lists(FINITE, min_size=2, max_size=10))
def test_stranger_is_never_likelier(calibration: list[float], scores: list[float]) -> None:
    ordered = np.sort(np.array(scores))
    p = p_values(np.array(calibration), ordered)
    assert (np.diff(p) <= 0).all()
    assert (p >= 1 / (len(calibration) + 1)).all()
    assert (p <= 1).all()


def test_a_score_that_is_no_number_is_no_verdict() -> None:
    with pytest.raises(DetectorError, match="not a number"):
        p_values(np.array([1.0]), np.array([np.nan]))
    with pytest.raises(DetectorError, match="not a number"):
        p_values(np.array([np.nan, 1.0]), np.array([1.0]))


def test_a_rate_that_the_calibration_cannot_resolve_is_refused_with_the_least_that_can_be_had() -> None:
    check_rate(0.01, 99)
    with pytest.raises(DetectorError, match=r"expected at least 0\.0101.*simulate until there are 99") as told:
        check_rate(0.01, 98)
    assert "got 0.01 with 98" in str(told.value)
    check_rate(0.01, 1199, "round", 12)
    with pytest.raises(DetectorError, match="until there are 1199"):
        check_rate(0.01, 1198, "round", 12)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_rate_outside_0_and_1_is_refused(alpha: float) -> None:
    with pytest.raises(DetectorError):
        check_rate(alpha, 1000)
    with pytest.raises(DetectorError):
        rejected(np.array([0.5]), alpha)


@given(st.integers(1, 500).map(lambda k: k / 1000), st.integers(1, 40), st.sampled_from(["update", "round"]))
def test_as_many_scores_as_are_needed_are_enough_and_one_fewer_is_not(alpha: float, sites: int, promise: str) -> None:
    needed = scores_needed(alpha, promise, sites)  # type: ignore[arg-type]
    check_rate(alpha, needed, promise, sites)  # type: ignore[arg-type]
    if needed:
        with pytest.raises(DetectorError):
            check_rate(alpha, needed - 1, promise, sites)  # type: ignore[arg-type]


def test_least_rates() -> None:
    assert least_rate(99) == 0.01
    assert least_rate(99, "round", 5) == 0.05
    assert least_rate(99, "update", 5) == 0.01


def test_by_update_each_p_value_stands_alone() -> None:
    assert rejected(np.array([0.01, 0.0101, 0.001]), 0.01).tolist() == [True, False, True]


def test_by_round_holm_decides() -> None:
    # Sorted: .01 * 4 <= .05, .015 * 3 <= .05, .03 * 2 > .05: the last two stay, though .04 * 1 would have passed.
    p = np.array([0.03, 0.01, 0.04, 0.015])
    assert rejected(p, 0.05, "round").tolist() == [False, True, False, True]
    assert rejected(np.array([0.2, 0.3]), 0.05, "round").tolist() == [False, False]
    assert rejected(np.array([0.01, 0.02]), 0.05, "round").tolist() == [True, True]


def test_by_round_all_honest_rounds_mostly_go_by_without_any_rejection() -> None:
    chance, trials, sites, alpha = np.random.default_rng(7), 4000, 10, 0.1
    hits = 0
    for _ in range(trials):
        drawn = chance.standard_normal(199 + sites)
        hits += bool(rejected(p_values(drawn[sites:], drawn[:sites]), alpha, "round").any())
    assert binomtest(hits, trials, alpha, alternative="greater").pvalue > 1e-6
    assert hits > 0, "a test that never rejects promises nothing"


def test_the_worst_rate_is_the_one_that_bad_luck_seldom_exceeds() -> None:
    bound = worst_rate(299, 0.01)
    assert 0.01 < bound < 0.03
    # Rejected are scores over the third highest of 299: a share of x or more has that with this chance.
    assert binom.cdf(2, 299, bound) == pytest.approx(0.05, abs=1e-9)
    assert worst_rate(50, 0.01) == 0.0, "a calibration that cannot reject never rejects"
