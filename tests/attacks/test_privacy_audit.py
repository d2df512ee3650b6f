"""Privacy, attacked: the real training keeps its epsilon, six broken ones are found out, the accountant is right."""

from __future__ import annotations

import functools
import math

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

import client.private_training as real
from client.privacy_audit import (
    Audit,
    audit_training,
    contributions,
    flip_coins,
    poisson_p_value,
    right_angles,
)
from common.errors import PrivacyError
from common.models import Base, LoraFactors, load_base
from common.settings import LoraSettings
from security.accounting import Steps, epsilon_of
from security.lower_bounds import (
    epsilon_by_guesses,
    epsilon_by_scores,
    gaussian_epsilon,
    gaussian_mu,
    guesses_to_make,
    right_guesses,
)
from security.noise import SeededNoise
from tests.attacks.broken_privacy import BUGS, DELTA, shuffled, stale_norms, subject_of, swapped

CANARIES, STEPS = 400, 12
FFA, BOTH = LoraSettings(rank=1), LoraSettings(rank=1, method="both")
AUDIBLE = [name for name in BUGS if name != "shuffled, not Poisson"]


@pytest.fixture(scope="module")
def own() -> Base:
    """The embedded base, for this module alone."""
    return load_base()


directions = functools.cache(right_angles)


def audit(base: Base, lora: LoraSettings, claimed: float, seed: int, rate: float = 1.0, count: int = CANARIES) -> Audit:
    subject = subject_of(base, lora, STEPS, rate, claimed)
    canaries = flip_coins(directions(count, subject.size, 1), seed)
    return audit_training(subject, canaries, SeededNoise(seed), claimed, DELTA)


# The audit of the real training.


@pytest.mark.parametrize(
    ("claimed", "rate", "count", "least"),
    [(1, 1.0, 1600, 0.1), (3, 1.0, 400, 1.2), (8, 1.0, 400, 5), (8, 0.25, 400, 2)],
)
def test_the_real_training_keeps_its_promise_and_the_audit_says_something(
    own: Base, claimed: float, rate: float, count: int, least: float
) -> None:
    shown = audit(own, FFA, claimed, seed=5, rate=rate, count=count)
    assert not shown.refuted
    assert least <= shown.bound <= claimed
    assert {one.view for one in shown.findings} == {"steps", "change"}


@pytest.mark.parametrize("name", AUDIBLE)
def test_a_seeded_bug_is_shown_to_break_even_the_loosest_promise(own: Base, name: str) -> None:
    with BUGS[name](STEPS):
        shown = audit(own, BOTH, claimed=8, seed=6)
    assert shown.bound > 8
    assert shown.refuted


def test_a_frozen_factor_that_moves_refutes_the_promise_whatever_the_scores_say(own: Base) -> None:
    put = real._set_gradients

    def moving(parameters: list[torch.nn.Parameter], flat: torch.Tensor) -> None:
        put(parameters, flat)
        with torch.no_grad():
            LoraFactors(own.unet)._pairs[0][0].add_(1e-3)

    with swapped(_set_gradients=moving):
        shown = audit(own, FFA, claimed=8, seed=5)
    assert shown.bound < 8
    assert shown.frozen_moved
    assert shown.refuted


# What an epsilon does not show is read off without noise.


def test_each_step_samples_each_canary_by_a_coin_of_its_own_and_takes_one_clip_of_it(own: Base) -> None:
    subject = subject_of(own, FFA, 48, 0.25, 3)
    added = contributions(subject, right_angles(150, subject.size, 2), SeededNoise(8), seed=8)
    sampled = added > 0.5
    assert np.allclose(added, sampled, atol=0.05), "a canary is in whole or not at all"
    assert poisson_p_value(sampled, 0.25) > 1e-3


def test_shuffled_batches_are_seen_by_how_they_sample(own: Base) -> None:
    # An audit of 500 canaries cannot tell them from Poisson samples: its bound stays under the claim.
    subject = subject_of(own, FFA, 24, 0.25, 3)
    with shuffled(24):
        added = contributions(subject, right_angles(150, subject.size, 2), SeededNoise(8), seed=8)
    assert poisson_p_value(added > 0.5, 0.25) < 1e-9


def test_a_clip_by_the_wrong_norm_is_seen_in_what_a_canary_adds(own: Base) -> None:
    subject = subject_of(own, FFA, 2, 1.0, 3)
    with stale_norms(2):
        added = contributions(subject, right_angles(150, subject.size, 2), SeededNoise(8), seed=8)
    assert added.max() > 5


def test_samplers_of_the_right_rate_and_the_wrong_law_are_told_from_the_right_one() -> None:
    chance, shape, rate = np.random.default_rng(3), (200, 60), 0.2
    fair = chance.random(shape) < rate
    fixed = chance.random(shape).argsort(axis=1) < shape[1] * rate
    same = np.repeat(chance.random((1, shape[1])) < rate, shape[0], axis=0)
    assert poisson_p_value(fair, rate) > 1e-3
    for wrong in (fixed, same, chance.random(shape) < 0.25, np.zeros(shape, bool)):
        assert poisson_p_value(wrong, rate) < 1e-9
    assert poisson_p_value(np.ones(shape, bool), 1.0) == 1.0
    assert poisson_p_value(fair, 1.0) == 0.0


def test_canaries_are_at_right_angles_and_fill_their_clips() -> None:
    directions = right_angles(40, 100, seed=1)
    assert torch.allclose(directions @ directions.T, torch.eye(40), atol=1e-5)
    canaries = flip_coins(directions, seed=1)
    norms = canaries.gradients(clip=0.5).norm(dim=1)
    assert len(norms) == canaries.present.sum() not in (0, 40)
    assert float(norms.min()) >= 0.5
    assert float(norms.max()) > 5.0
    with pytest.raises(PrivacyError, match="too few directions"):
        right_angles(101, 100, seed=1)


class Stop(Exception):  # noqa: N818 (it is no error)
    """Raised by a caller who has waited long enough."""


def test_what_the_caller_raises_after_a_step_ends_the_training(own: Base) -> None:
    subject, done = subject_of(own, FFA, 5, 1.0, 3), []

    def after(step: int) -> None:
        done.append(step)
        if step == 2:
            raise Stop

    with pytest.raises(Stop):
        real.train_privately(
            own, subject.adapter, subject.data, subject.lora, subject.settings, subject.mechanism, SeededNoise(1), after
        )
    assert done == [1, 2]
    assert not own.unet.training
    assert not any(hasattr(parameter, "grad_sample") for parameter in own.unet.parameters())


# The statistics.


@pytest.mark.parametrize("count", [50, 1000])
def test_of_all_guesses_right_the_bound_is_that_of_randomised_response(count: int) -> None:
    each = 0.05 ** (1 / count)
    assert epsilon_by_guesses(count, count, count, 1e-14, 0.95) == pytest.approx(math.log(each / (1 - each)), abs=1e-3)


def test_the_bound_by_guesses_is_where_the_theorem_puts_it() -> None:
    count, guesses, right, delta = 60, 40, 33, 1e-3
    shown = epsilon_by_guesses(count, guesses, right, delta, 0.95)
    each = 1 / (1 + math.exp(-shown))
    tail = sum(binom.pmf(k, guesses, each) for k in range(right, guesses + 1))
    most = max(sum(binom.pmf(k, guesses, each) for k in range(right - i, right)) / i for i in range(1, right + 1))
    assert tail + 2 * count * delta * most == pytest.approx(0.05, abs=1e-3)
    assert shown < epsilon_by_guesses(count, guesses, right, 1e-9, 0.95)
    assert epsilon_by_guesses(count, guesses, guesses // 2, 1e-9, 0.95) == 0.0
    assert epsilon_by_guesses(count, guesses, 0, 1e-9, 0.95) == 0.0


def test_neither_bound_is_over_the_truth_more_often_than_it_may_be() -> None:
    # Of 400 runs at 95 %, 20 may be over; more than 37 has a chance of 1e-4.
    chance, count, epsilon = np.random.default_rng(4), 300, 3.0
    mu = gaussian_mu(epsilon, DELTA)
    guesses, over, shown = guesses_to_make(count, epsilon, DELTA, 0.95), np.zeros(2, int), []
    for _ in range(400):
        present = chance.random(count) < 0.5
        scores = chance.standard_normal(count) + mu * present
        right = right_guesses(scores, present, guesses)
        both = (
            epsilon_by_guesses(count, guesses, right, DELTA, 0.95),
            epsilon_by_scores(scores, present, DELTA, 0.95),
        )
        over += np.array(both) > epsilon
        shown.append(both)
    assert (over <= 37).all()
    assert over[1] >= 5, "it would be looser than it says"
    middle = np.median(shown, axis=0)
    assert middle[0] > 0.3
    assert middle[1] > 1.5


def test_of_randomised_response_the_bound_by_guesses_is_over_the_truth_no_more_than_it_may_be() -> None:
    chance, count, epsilon = np.random.default_rng(5), 200, 1.0
    each = 1 / (1 + math.exp(-epsilon))
    drawn = [epsilon_by_guesses(count, count, int(r), 1e-12, 0.95) for r in chance.binomial(count, each, 400)]
    assert 5 <= sum(one > epsilon for one in drawn) <= 37


@given(epsilon=st.floats(0.01, 50), exponent=st.integers(2, 10))
def test_the_curve_of_the_gaussian_mechanism_goes_both_ways(epsilon: float, exponent: int) -> None:
    delta = 10.0**-exponent
    mu = gaussian_mu(epsilon, delta)
    assert gaussian_epsilon(mu, delta) == pytest.approx(epsilon, rel=1e-6)
    assert dp_accounting.get_epsilon_gaussian(1 / mu, delta) == pytest.approx(epsilon, rel=1e-3, abs=1e-6)


def test_a_difference_without_noise_shows_an_epsilon_beyond_any_claim_and_none_shows_nothing() -> None:
    present = np.arange(20) % 2 == 0
    assert epsilon_by_scores(present.astype(float), present, DELTA, 0.95) > 1e6
    assert epsilon_by_scores(np.zeros(20), present, DELTA, 0.95) == 0.0
    assert gaussian_epsilon(-1.0, DELTA) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: epsilon_by_guesses(10, 5, 6, DELTA, 0.95), lambda: epsilon_by_guesses(10, 11, 6, DELTA, 0.95),
        lambda: epsilon_by_guesses(10, 5, 5, 0.0, 0.95), lambda: epsilon_by_guesses(10, 5, 5, DELTA, 1.0),
        lambda: gaussian_mu(0.0, DELTA), lambda: gaussian_mu(math.nan, DELTA), lambda: gaussian_epsilon(1.0, math.nan),
        lambda: epsilon_by_scores(np.zeros(4), np.ones(4, bool), DELTA, 0.95),
        lambda: epsilon_by_scores(np.full(4, math.nan), np.arange(4) < 2, DELTA, 0.95),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(PrivacyError):
        wrong()


# The accountant against another one, which composes whole distributions of the privacy loss (arXiv 2207.04380).


@pytest.mark.parametrize("delta", [1e-4, 1e-6])
@pytest.mark.parametrize(
    ("multiplier", "rate", "count"),
    [(20.0, 1.0, 50), (5.0, 1.0, 10), (1.0, 0.064, 300), (2.0, 0.1, 200), (0.8, 0.02, 100), (4.0, 0.5, 40)],
)
def test_the_reported_epsilon_is_that_of_another_accountant_and_never_less(
    multiplier: float, rate: float, count: int, delta: float
) -> None:
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    other = PLDAccountant().compose(event, count).get_epsilon(delta)
    reported = epsilon_of([Steps(multiplier, rate, count)], delta)
    assert other - 1e-3 <= reported <= other + 0.02
    # What the audit reads off the mean of the scores, if it could see it exactly, is no more than that.
    assert gaussian_epsilon(rate * math.sqrt(count) / multiplier, delta) <= reported
