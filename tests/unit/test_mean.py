"""The weighted mean: exact, and the same bytes whatever the order."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import AggregationError
from common.quantise import Flat
from server.mean import GROUP, MOST_UPDATES, WeightedMean, capped_weight

Update = tuple[int, Flat]

values = st.floats(-100, 100, width=32)
updates_of_three = st.lists(
    st.tuples(st.integers(1, 1000), st.lists(values, min_size=3, max_size=3).map(lambda v: np.array(v, np.float32))),
    min_size=1,
    max_size=12,
)


def fresh(numel: int = 3) -> WeightedMean:
    return WeightedMean(numel, largest_weight=1000, largest_value=100.0)


def mean_of(updates: list[Update]) -> Flat:
    mean = fresh(updates[0][1].size)
    mean.add_all(updates)
    return mean.mean()


def test_weights_count() -> None:
    a, b = np.array([1, 0, -2], np.float32), np.array([5, 0, 2], np.float32)
    assert mean_of([(1, a), (3, b)]).tolist() == [4.0, 0.0, 1.0]
    assert mean_of([(10, a), (10, b)]).tolist() == [3.0, 0.0, 0.0]


def test_one_update_is_its_own_mean() -> None:
    update = np.array([0.1, -99.9, 2.0**-20], np.float32)
    assert mean_of([(7, update)]).tobytes() == update.tobytes()


@given(updates_of_three, st.randoms(use_true_random=False))
def test_the_order_and_the_grouping_never_show(updates: list[Update], random: object) -> None:
    shuffled = updates.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one_by_one = fresh()
    for weight, flat in shuffled:
        one_by_one.add(weight, flat)
    assert one_by_one.mean().tobytes() == mean_of(updates).tobytes()


@pytest.mark.parametrize("numel", [1, 7, 1001, 40_000])
def test_the_order_never_shows_in_long_vectors_nor_in_how_the_loops_are_cut(numel: int) -> None:
    chance = np.random.default_rng(1)
    updates = [(int(chance.integers(1, 1000)), chance.standard_normal(numel).astype(np.float32)) for _ in range(11)]
    whole = mean_of(updates)
    assert mean_of(updates[::-1]).tobytes() == whole.tobytes()
    cut = np.concatenate([mean_of([(w, flat[i : i + 1]) for w, flat in updates]) for i in range(min(numel, 7))])
    assert cut.tobytes() == whole[:7].tobytes()


@given(updates_of_three)
def test_the_mean_is_within_half_a_unit_an_update_of_the_exact_one(updates: list[Update]) -> None:
    total = sum(weight for weight, _ in updates)
    bound = Fraction(fresh().unit) * len(updates) / (2 * total)
    for i, got in enumerate(mean_of(updates).tolist()):
        exact = sum((Fraction(float(flat[i])) * weight for weight, flat in updates), Fraction(0)) / total
        assert abs(Fraction(got) - exact) <= bound + Fraction(float(np.spacing(np.float32(abs(float(exact)))))) / 2


def test_the_unit_for_the_usual_bounds_is_below_the_last_place_of_usual_updates() -> None:
    assert fresh().unit == 2.0**-33
    assert fresh().unit < np.spacing(np.float32(2e-3))


def test_4095_of_the_largest_updates_fit_and_no_more() -> None:
    mean = fresh(1)
    largest = np.array([100], np.float32)
    mean.add_all((1000, largest) for _ in range(MOST_UPDATES))
    assert mean.mean().tolist() == [100.0]
    with pytest.raises(AggregationError, match="too many updates"):
        mean.add(1, largest)
    assert mean.count == MOST_UPDATES
    assert mean.mean().tolist() == [100.0]


def test_4095_of_the_largest_values_that_pass_do_not_overflow() -> None:
    mean = fresh(1)
    largest = np.array([2.0**51 * mean.unit / 1000 * (1 - 2.0**-20)], np.float32)
    assert largest > 200
    mean.add_all((1000, -largest) for _ in range(MOST_UPDATES))
    assert mean.mean().tolist() == (-largest).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -500.0, 500.0])
@pytest.mark.parametrize("place", [0, 5, 999])
@pytest.mark.parametrize("count", [1, GROUP, GROUP + 2])
def test_a_bad_number_is_refused_and_leaves_no_trace(bad: float, place: int, count: int) -> None:
    chance = np.random.default_rng(0)
    good = [chance.standard_normal(1000).astype(np.float32) for _ in range(3)]
    broken = good[0].copy()
    broken[place] = bad
    mean = fresh(1000)
    mean.add_all((3, flat) for flat in good)
    before = mean.mean().tobytes()
    with pytest.raises(AggregationError, match="not finite or over the bound"):
        mean.add_all([(1000, broken)] + [(3, good[1])] * (count - 1))
    assert mean.mean().tobytes() == before
    mean.add(2, good[0])
    assert mean.mean().tobytes() == mean_of([(3, flat) for flat in good] + [(2, good[0])]).tobytes()


def test_an_update_is_not_kept_or_changed() -> None:
    flat = np.array([1, 2, 3], np.float32)
    mean = fresh()
    mean.add(1, flat)
    assert flat.tolist() == [1, 2, 3]
    flat[:] = 50
    assert mean.mean().tolist() == [1, 2, 3]


def test_read_only_updates_will_do() -> None:
    flat = np.frombuffer(np.array([1, 2, 3], "<f4").tobytes(), np.float32)
    assert mean_of([(1, flat)] * 5).tolist() == [1, 2, 3]


def test_a_round_without_updates_has_no_mean() -> None:
    with pytest.raises(AggregationError, match="without updates"):
        fresh().mean()


@pytest.mark.parametrize("weight", [0, -1, 1001])
def test_a_weight_outside_the_limits_is_refused(weight: int) -> None:
    with pytest.raises(AggregationError, match="1 to 1000"):
        fresh().add(weight, np.zeros(3, np.float32))


@pytest.mark.parametrize(
    "bad", [np.zeros(2, np.float32), np.zeros(3), np.zeros(6, np.float32)[::2], np.zeros((1, 3), np.float32)]
)
def test_an_update_of_another_length_dtype_or_layout_is_refused(bad: Flat) -> None:
    with pytest.raises(AggregationError, match="does not fit"):
        fresh().add(1, bad)


@pytest.mark.parametrize(
    ("numel", "weight", "value"),
    [(0, 1, 1.0), (1, 0, 1.0), (1, 2**29, 1.0), (1, 1, 0.0), (1, 1, math.inf), (1, 1, math.nan)],
)
def test_impossible_limits_are_refused(numel: int, weight: int, value: float) -> None:
    with pytest.raises(AggregationError, match="limits"):
        WeightedMean(numel, largest_weight=weight, largest_value=value)


def test_a_weight_is_the_examples_up_to_the_cap() -> None:
    assert [capped_weight(n, 1000) for n in (1, 999, 1000, 1001, 2**63)] == [1, 999, 1000, 1000, 1000]
    for nothing in (0, -5):
        with pytest.raises(AggregationError, match="no example"):
            capped_weight(nothing, 1000)


@settings(max_examples=50)
@given(st.integers(1, 2**28), st.floats(1e-30, 1e30))
def test_any_limits_give_means_as_good_as_float32(weight: int, value: float) -> None:
    mean = WeightedMean(2, largest_weight=weight, largest_value=value)
    flat = np.array([value * 0.99, -value / 3], np.float32)
    mean.add_all([(weight, flat)] * 5)
    np.testing.assert_allclose(mean.mean(), flat, rtol=2e-7)
