"""The mechanism of differential privacy: clipping bounds, noise of the stated size, epsilon that is a bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import kstest, norm

from common.errors import PrivacyError
from security.accounting import Steps, epsilon_of, multiplier_for, rdp_epsilon_of, would_exceed
from security.clipping import Clipped, clip_and_sum, nothing
from security.noise import NoiseSource, SecureNoise, SeededNoise, add_noise

BOUND = 0.5


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


# One test for each line of the table in `clip_and_sum`.


def test_a_row_of_zeros_adds_nothing() -> None:
    assert clip_and_sum(rows([0.0, 0.0]), BOUND).total.tolist() == [0.0, 0.0]


def test_a_row_within_the_bound_is_added_as_it_is() -> None:
    assert clip_and_sum(rows([0.3, 0.4 - 1e-3]), BOUND).total.tolist() == pytest.approx([0.3, 0.399], rel=1e-5)


def test_a_row_over_the_bound_is_scaled_to_it() -> None:
    total = clip_and_sum(rows([30.0, 40.0]), BOUND).total
    assert total.tolist() == pytest.approx([0.3, 0.4], rel=2e-5)
    assert float(torch.linalg.vector_norm(total.double())) <= BOUND


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_adds_nothing_and_spoils_no_other(bad: float) -> None:
    assert clip_and_sum(rows([bad, 1.0], [0.1, 0.2]), BOUND).total.tolist() == pytest.approx([0.1, 0.2])


def test_no_row_at_all_adds_nothing() -> None:
    assert clip_and_sum(torch.empty(0, 3), BOUND).total.tolist() == nothing(3, BOUND).total.tolist() == [0.0] * 3


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_bound_is_refused(bound: float) -> None:
    with pytest.raises(PrivacyError, match="a clip bound is a positive number"):
        clip_and_sum(rows([1.0]), bound)


def test_sums_under_different_bounds_do_not_add() -> None:
    with pytest.raises(PrivacyError, match="different bounds"):
        nothing(2, 1.0) + nothing(2, 2.0)


@example(units=np.array([[3.3978466e38]], np.float32), bound=0.015625, at=0)  # its factor is no normal float32
@given(
    units=arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.floats(width=32)),
    bound=st.floats(1e-4, 1e3),
    at=st.integers(0, 4),
)
@settings(max_examples=200)
def test_adding_or_removing_one_unit_changes_the_sum_by_at_most_the_bound(
    units: NDArray[np.float32], bound: float, at: int
) -> None:
    whole = torch.from_numpy(units)
    at %= len(whole)
    one = clip_and_sum(whole[at : at + 1], bound).total.double()
    assert bool(torch.isfinite(one).all())
    assert float(torch.linalg.vector_norm(one)) <= bound
    rest = clip_and_sum(torch.cat([whole[:at], whole[at + 1 :]]), bound)
    changed = clip_and_sum(whole, bound).total.double() - rest.total.double()
    rounding = 1e-14 * bound * len(whole)
    assert float(torch.linalg.vector_norm(changed - one)) <= rounding


def test_with_or_without_one_unit_a_thousand_others_add_the_same() -> None:
    """In float32 the others' sum rounds by what it is with the one, and that is some 1e-5 of the bound."""
    units = torch.randn(1000, 300, generator=torch.Generator().manual_seed(0))
    one = clip_and_sum(units[:1], BOUND).total.double()
    changed = clip_and_sum(units, BOUND).total.double() - clip_and_sum(units[1:], BOUND).total.double()
    assert float(torch.linalg.vector_norm(changed - one)) <= 1e-12 * BOUND


def test_a_wide_row_is_summed_in_all_its_columns() -> None:
    units = torch.randn(3, 2**16 + 7, generator=torch.Generator().manual_seed(0))
    norms = torch.linalg.vector_norm(units.double(), dim=1, keepdim=True)
    expected = (units.double() * (BOUND / norms)).sum(0)
    assert torch.allclose(clip_and_sum(units, BOUND).total, expected, rtol=2e-5, atol=1e-7)


# One test for each line of the table in `add_noise`.


@pytest.mark.parametrize("source", [SecureNoise(), SeededNoise(3)], ids=["secure", "seeded"])
def test_noise_is_normal_of_the_stated_size_and_of_no_other(source: NoiseSource) -> None:
    clipped, multiplier = Clipped(torch.zeros(30_000), 0.25), 1.7
    noised = add_noise(clipped, multiplier, source)
    assert noised.deviation == pytest.approx(1.7 * 0.25)
    drawn = noised.total.numpy()
    assert kstest(drawn, norm(scale=noised.deviation).cdf).pvalue > 1e-4
    for factor in (2 / 3, 3 / 2):
        assert kstest(drawn, norm(scale=noised.deviation * factor).cdf).pvalue < 1e-9
    half = len(drawn) // 2
    assert abs(float(np.corrcoef(drawn[:half], drawn[half:])[0, 1])) < 0.05, "the draws are not independent"


def test_noise_is_the_same_whatever_is_in_the_sum() -> None:
    """The first line of the table: released less the sum is the noise, of one size and independent of the sum."""
    chance = torch.Generator().manual_seed(0)
    for total in (torch.randn(30_000, generator=chance), torch.full((30_000,), 1e3), torch.zeros(30_000)):
        noise = (add_noise(Clipped(total, 0.5), 2.0, SecureNoise()).total - total).double().numpy()
        assert kstest(noise, norm(scale=1.0).cdf).pvalue > 1e-5
        if total.std() > 0:
            assert abs(float(np.corrcoef(noise, total.numpy())[0, 1])) < 0.05


def test_the_sum_over_no_unit_is_noised_like_any_other() -> None:
    released = add_noise(nothing(30_000, 0.5), 2.0, SecureNoise())
    assert kstest(released.total.numpy(), norm(scale=1.0).cdf).pvalue > 1e-5


@pytest.mark.parametrize(("bound", "multiplier"), [(0.5, 2.0), (1.0, 2.0), (0.5, 4.0)])
def test_noise_grows_with_the_bound_and_with_the_multiplier(bound: float, multiplier: float) -> None:
    noise = SeededNoise(7).normals(1000) * bound * multiplier
    released = add_noise(nothing(1000, bound), multiplier, SeededNoise(7))
    assert np.allclose(released.total.numpy(), noise, rtol=1e-6)
    assert released.deviation == bound * multiplier


def test_asked_again_noise_is_drawn_anew_and_the_sum_is_left_as_it_was() -> None:
    clipped, source = clip_and_sum(torch.ones(3, 50), 1.0), SeededNoise(1)
    before = clipped.total.clone()
    first, second = (add_noise(clipped, 1.0, source).total for _ in range(2))
    assert (first != second).all()
    assert torch.equal(clipped.total, before)
    assert first.shape == before.shape
    assert first.dtype == torch.float32


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_sum_without_a_bound_is_not_released(bound: float) -> None:
    with pytest.raises(PrivacyError, match="a clip bound is a positive number"):
        add_noise(Clipped(torch.zeros(2), bound), 1.0, SeededNoise(0))


def test_secure_noise_is_never_the_same_twice_and_has_tails() -> None:
    assert not np.array_equal(SecureNoise().normals(100), SecureNoise().normals(100))
    drawn = SecureNoise().normals(200_000)
    assert drawn.shape == (200_000,)
    assert 3.8 < np.abs(drawn).max() < 8
    assert SecureNoise().normals(0).shape == (0,)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan, math.inf])
def test_noise_of_no_size_is_refused(multiplier: float) -> None:
    with pytest.raises(PrivacyError, match="a noise multiplier is a positive number"):
        add_noise(nothing(1, 1.0), multiplier, SeededNoise(0))


# Accounting.


def exact_epsilon(multiplier: float, count: int, delta: float) -> float:
    """Balle and Wang (2018, arXiv 1805.06530), theorem 8: full batches compose to one Gaussian mechanism."""
    mu = math.sqrt(count) / multiplier
    low, high = 0.0, 500.0
    for _ in range(200):
        middle = (low + high) / 2
        spent = norm.cdf(mu / 2 - middle / mu) - math.exp(middle) * norm.cdf(-mu / 2 - middle / mu)
        low, high = (middle, high) if spent > delta else (low, middle)
    return high


@pytest.mark.parametrize(
    ("multiplier", "count", "delta"), [(10, 50, 1e-4), (5, 50, 1e-3), (20, 20, 1e-6), (2, 1, 1e-5)]
)
def test_of_full_batches_the_reported_epsilon_is_a_bound_and_a_close_one(
    multiplier: float, count: int, delta: float
) -> None:
    exact = exact_epsilon(multiplier, count, delta)
    assert exact <= epsilon_of([Steps(multiplier, 1.0, count)], delta) <= exact + 0.03


# Figures of dp-accounting's privacy loss distributions: (multiplier, rate, steps, delta, epsilon).
PLD = [(1.0, 0.064, 300, 1e-4, 6.493), (2.0, 512 / 5000, 200, 1e-5, 3.450), (9.8, 4096 / 60000, 2197, 1e-5, 1.251)]


@pytest.mark.parametrize(("multiplier", "rate", "count", "delta", "expected"), PLD)
def test_of_poisson_samples_the_reported_epsilon_agrees_with_another_accountant(
    multiplier: float, rate: float, count: int, delta: float, expected: float
) -> None:
    steps = [Steps(multiplier, rate, count)]
    assert expected - 1e-3 <= epsilon_of(steps, delta) <= expected + 0.03
    assert 1.05 * expected < rdp_epsilon_of(steps, delta) < 1.2 * expected


def test_nothing_costs_nothing_and_the_order_of_steps_does_not_matter() -> None:
    assert epsilon_of([], 1e-5) == 0.0
    one, other = Steps(3.0, 0.2, 20), Steps(5.0, 1.0, 10)
    both = epsilon_of([one, other], 1e-5)
    assert epsilon_of([other, one], 1e-5) == pytest.approx(both, abs=1e-6)
    assert both > max(epsilon_of([one], 1e-5), epsilon_of([other], 1e-5))
    assert epsilon_of([Steps(3.0, 0.2, 8), Steps(3.0, 0.2, 12)], 1e-5) == epsilon_of([one], 1e-5)


@given(epsilon=st.floats(0.2, 20), rate=st.floats(0.05, 1.0), count=st.integers(1, 200), exponent=st.integers(3, 7))
@settings(max_examples=8, deadline=None)
def test_the_calibrated_noise_keeps_within_the_epsilon_and_is_hardly_more_than_needed(
    epsilon: float, rate: float, count: int, exponent: int
) -> None:
    delta = 10.0**-exponent
    multiplier = multiplier_for(epsilon, delta, rate, count)
    spent = epsilon_of([Steps(multiplier, rate, count)], delta)
    assert spent <= epsilon
    assert epsilon_of([Steps(multiplier * 0.98, rate, count)], delta) > epsilon - 0.05 * max(1.0, epsilon)


def test_one_step_more_and_a_smaller_delta_cost_more() -> None:
    cost = epsilon_of([Steps(3.0, 0.2, 20)], 1e-5)
    assert cost < epsilon_of([Steps(3.0, 0.2, 21)], 1e-5)
    assert cost < epsilon_of([Steps(3.0, 0.2, 20)], 1e-6)


def test_where_there_is_next_to_no_noise_no_bound_is_made_up() -> None:
    bare = Steps(0.05, 1.0, 10)
    with pytest.raises(PrivacyError, match="no finite bound"):
        epsilon_of([bare], 1e-5)
    assert would_exceed([], bare, 1e6, 1e-5)


def test_noise_for_an_epsilon_that_is_shared_with_other_steps_leaves_room_for_them() -> None:
    other = Steps(7.0, 1.0, 1)
    multiplier = multiplier_for(2.0, 1e-5, 0.5, 12, [other])
    assert 1.9 < epsilon_of([other, Steps(multiplier, 0.5, 12)], 1e-5) <= 2.0
    assert multiplier > multiplier_for(2.0, 1e-5, 0.5, 12)
    with pytest.raises(PrivacyError, match="nothing is left of this epsilon"):
        multiplier_for(0.4, 1e-5, 0.5, 12, [other])


def test_a_step_that_would_carry_the_whole_over_the_budget_is_seen_before_it_is_made() -> None:
    step = Steps(multiplier_for(3.0, 1e-5, 0.5, 40), 0.5, 20)
    assert not would_exceed([step], step, 3.0, 1e-5)
    assert would_exceed([step, step], Steps(step.multiplier, 0.5, 1), 3.0, 1e-5)
    assert would_exceed([], step, math.nan, 1e-5), "what cannot be compared is too much"
    assert would_exceed([], step, 3.0, 0.0), "what cannot be accounted for is too much"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Steps(0.0, 0.5, 1), lambda: Steps(math.nan, 0.5, 1), lambda: Steps(1.0, 0.0, 1),
        lambda: Steps(1.0, 1.1, 1), lambda: Steps(1.0, math.nan, 1), lambda: Steps(1.0, 0.5, 0),
        lambda: multiplier_for(0.0, 1e-5, 0.5, 1), lambda: multiplier_for(math.nan, 1e-5, 0.5, 1),
        lambda: multiplier_for(-1.0, 1e-5, 0.5, 1), lambda: epsilon_of([Steps(1.0, 0.5, 1)], 0.0),
        lambda: epsilon_of([Steps(1.0, 0.5, 1)], math.nan), lambda: epsilon_of([Steps(1.0, 0.5, 1)], 1.0),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(PrivacyError):
        wrong()
