"""Lower bounds of epsilon, from an attack: how private a run of training at the most was, whatever was claimed.

:mod:`security.accounting` says from a proof how much a run leaks at the most. Here is the other side: somebody guesses
for each of many canaries whether it was in the data, by a score that is higher when it was; who guesses too well for
the claimed epsilon has refuted the claim. Two ways:

* **By guesses** (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846, theorem 5.2): needs nothing but fair coins that do
  not depend on each other. It is far from tight: a thousand canaries, all guessed right, show an epsilon of 5.8.
* **By the fit of a Gaussian** (as in Andrew et al. 2023, arXiv 2302.03098): how far the scores of the canaries that
  were in lie from those of the others, in standard deviations, and the exact curve of the Gaussian mechanism (Balle and
  Wang 2018, arXiv 1805.06530). Close to the truth, but it takes the noise for Gaussian.

Both hold at a stated confidence. A lower bound under the claim does not prove the claim; one over it refutes it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, norm

from common.errors import PrivacyError

_MOST = 1e6
"""An epsilon beyond which two no longer differ for anybody."""


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the exact epsilon of telling N(mu, 1) from N(0, 1) (Balle and Wang 2018, theorem 8).

    Args:
        mu: Distance in standard deviations; what is not over 0 costs nothing.
        delta: In (0, 1).

    Raises:
        PrivacyError: Delta is out of its range.
    """
    _check(delta)
    if not mu > 0 or _gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    # Without its second term the curve ends here: the true epsilon is less.
    most = mu**2 / 2 - mu * float(norm.ppf(delta))
    return most if most > _MOST else float(brentq(lambda e: _gaussian_delta(mu, e) - delta, 0.0, most))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return the distance of two normals that costs ``epsilon``: the inverse of :func:`gaussian_epsilon`.

    Raises:
        PrivacyError: A number is out of its range.
    """
    _check(delta)
    if not 0 < epsilon < _MOST:
        raise PrivacyError("an epsilon is a positive number", got=epsilon)
    return float(brentq(lambda mu: _gaussian_delta(mu, epsilon) - delta, 1e-12, 10 + 2 * math.sqrt(2 * epsilon)))


def epsilon_by_guesses(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """Return what epsilon so many right guesses show (Steinke, Nasr and Jagielski 2023, theorem 5.2).

    Args:
        canaries: Each was in or out by a fair coin of its own.
        guesses: How many were guessed at. It must not have been chosen after a look at which guesses are right.
        right: How many guesses were right.
        delta: In (0, 1). It counts ``canaries`` times, so it should be far below one over their number.
        confidence: In (0, 1); with this chance the true epsilon is not below what is returned.

    Raises:
        PrivacyError: A number is out of its range.
    """
    _check(delta)
    _check(confidence)
    if not 0 <= right <= guesses <= canaries:
        raise PrivacyError("right guesses, guesses and canaries do not fit", got=f"{right}, {guesses}, {canaries}")
    low, high = 0.0, 30.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        refuted = _chance_of_guesses(canaries, guesses, right, middle, delta) < 1 - confidence
        low, high = (middle, high) if refuted else (low, middle)
    return low


def epsilon_by_scores(
    scores: NDArray[np.float64], present: NDArray[np.bool_], delta: float, confidence: float
) -> float:
    """Return what epsilon the scores show of a mechanism that adds Gaussian noise to what it clipped.

    The deviation of the noise is read off the canaries that were out. Those that were in vary by more: by how often
    they were sampled and, where clipping is broken, by their lengths. What one of them adds at the most is more than
    what they add in the mean, so the mean is on the safe side. The distance is lowered by its standard error (by the
    delta method) to where it lies with the wanted confidence.

    Args:
        scores: One for each canary, shape ``(m,)``.
        present: Which were in, shape ``(m,)``; at least two were and two were not.
        delta: In (0, 1).
        confidence: In (0, 1).

    Raises:
        PrivacyError: A number is out of its range or a score is not finite.
    """
    _check(confidence)
    inside, outside = scores[present], scores[~present]
    if min(len(inside), len(outside)) < 2 or not np.isfinite(scores).all():
        raise PrivacyError("nothing can be told from these scores", got=f"{len(inside)} in, {len(outside)} out")
    apart = float(inside.mean() - outside.mean())
    noise = max(float(outside.std(ddof=1)), 1e-12 * abs(apart), 1e-300)
    mu, spread = apart / noise, float(inside.std(ddof=1)) / noise
    error = math.sqrt(spread**2 / len(inside) + 1 / len(outside) + mu**2 / (2 * (len(outside) - 1)))
    return gaussian_epsilon(mu - float(norm.ppf(confidence)) * error, delta)


def right_guesses(scores: NDArray[np.float64], present: NDArray[np.bool_], guesses: int) -> int:
    """Guess the highest scores in and as many of the lowest out, and return how many guesses are right.

    Args:
        scores: Shape ``(m,)``.
        present: Shape ``(m,)``.
        guesses: Even, at most m.
    """
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    return int((~present[order[:half]]).sum() + present[order[len(order) - half :]].sum())


def guesses_to_make(canaries: int, claimed: float, delta: float, confidence: float) -> int:
    """Return how many guesses show the most if the claim is just true: chosen from the claim, before any score is seen.

    Raises:
        PrivacyError: A number is out of its range.
    """
    mu = gaussian_mu(claimed, delta)
    best, most = 2, -1.0
    for threshold in np.linspace(0.0, 3.0, 31):
        hit, miss = float(norm.sf(threshold - mu / 2)), float(norm.sf(threshold + mu / 2))
        guesses = 2 * int(canaries * (hit + miss) / 2)
        shown = epsilon_by_guesses(canaries, guesses, int(guesses * hit / (hit + miss)), delta, confidence)
        best, most = (guesses, shown) if guesses and shown > most else (best, most)
    return best


def _gaussian_delta(mu: float, epsilon: float) -> float:
    first = norm.cdf(mu / 2 - epsilon / mu)
    return float(first - np.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)))


def _chance_of_guesses(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return a bound of the chance of so many right guesses or more under (epsilon, delta)."""
    each = 1 / (1 + math.exp(-epsilon))
    # What delta adds: the largest of P[right > X >= right - i] / i over i.
    fewer = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, each))
    slope = float((fewer / np.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, float(binom.sf(right - 1, guesses, each)) + 2 * canaries * delta * slope)


def _check(chance: float) -> None:
    if not 0 < chance < 1:
        raise PrivacyError("a delta and a confidence lie in (0, 1)", got=chance)
