"""Split-conformal p-values: from "how strange" to "how often would an honest update look at least so strange".

A detector's score has no unit. Held against the scores of n honest updates that the detector did not learn from, it
gets one: ``p = (1 + how many of them score at least as high) / (n + 1)`` (Vovk, Gammerman and Shafer, 2005; Bates et
al., arXiv 2104.08279, for outliers). If the honest update under test could have been any of the n + 1, then
``P(p <= alpha) <= alpha`` for every alpha, whatever the detector and whatever the distribution.

**What is promised, with many sites and many rounds.**

* ``update``, the default: an update is rejected when ``p <= alpha``. Of all honest updates at most the share alpha is
  rejected, in expectation. Expectations add up however the updates hang together, so this needs no correction, neither
  for the sites of a round nor for the rounds of a run. What it does not say is that a round, or a run, goes by without
  any false rejection.
* ``round``: the chance that a round rejects any honest update at all is at most alpha (Holm, 1979, which asks nothing
  of how the p-values hang together). With m sites the least p-value must be below alpha / m, so it takes m times as
  many calibration scores.

**One calibration serves many rounds**, so its luck does: the share of honest updates that it rejects is fixed when it
is drawn. Over the draw that share follows a beta distribution (Vovk, 2012), and :func:`worst_rate` says how bad it can
be. The promises above are about its mean.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from common.errors import BottegaError

Promise: TypeAlias = Literal["update", "round"]
"""What a false-rejection rate is a rate of; see the module's own words."""

Scores: TypeAlias = NDArray[np.float64]

_ROUNDING = 1e-12


class DetectorError(BottegaError):
    """The detector cannot learn, judge or be restored."""

    advice = (
        "No update was judged by it. The run's settings say whether the round goes on without; see docs/settings.md."
    )


def p_values(calibration: Scores, scores: Scores) -> Scores:
    """Return a p-value for each score.

    Args:
        calibration: Scores of honest updates that the detector did not learn from, float64 ``[n]``; higher is stranger.
        scores: Of the updates under test, float64 ``[m]``. Infinity is stranger than everything.

    Returns:
        float64 ``[m]``, each at least ``1 / (n + 1)`` and at most 1. Ties count against rejection.

    Raises:
        DetectorError: A score is NaN, or a calibration score is not finite.
    """
    if np.isnan(scores).any() or not np.isfinite(calibration).all():
        raise DetectorError("a score of the detector is not a number", expected="finite scores")
    at_least = len(calibration) - np.searchsorted(np.sort(calibration), scores, side="left")
    return np.asarray((1.0 + at_least) / (len(calibration) + 1.0))


def least_rate(calibrated: int, promise: Promise = "update", sites: int = 1) -> float:
    """Return the least false-rejection rate that so many calibration scores can tell from none at all.

    Args:
        calibrated: How many calibration scores there are.
        promise: Of what the rate is.
        sites: How many updates a round has; of no effect under ``update``.
    """
    return _tests(promise, sites) / (calibrated + 1)


def scores_needed(alpha: float, promise: Promise = "update", sites: int = 1) -> int:
    """Return how many calibration scores it takes to reject at ``alpha``; see :func:`least_rate`.

    Raises:
        DetectorError: Alpha is not between 0 and 1.
    """
    _check_share(alpha)
    return max(0, math.ceil(_tests(promise, sites) / alpha - 1 - _ROUNDING))


def check_rate(alpha: float, calibrated: int, promise: Promise = "update", sites: int = 1) -> None:
    """Refuse a false-rejection rate that the calibration cannot resolve: nothing would ever be rejected.

    Raises:
        DetectorError: Alpha is not between 0 and 1, or below :func:`least_rate`.
    """
    _check_share(alpha)
    least = least_rate(calibrated, promise, sites)
    if alpha < least * (1 - _ROUNDING):
        raise DetectorError(
            "the calibration cannot resolve so low a false-rejection rate",
            got=f"{alpha:g} with {calibrated} calibration scores",
            expected=f"at least {least:.3g}",
            advice=f"Ask for {least:.3g} or more, or simulate until there are {scores_needed(alpha, promise, sites)} "
            "calibration scores.",
        )


def rejected(p: Scores, alpha: float, promise: Promise = "update") -> NDArray[np.bool_]:
    """Return which updates of one round are rejected.

    Args:
        p: p-values of all updates of the round, float64 ``[m]``.
        alpha: The false-rejection rate.
        promise: Of what it is the rate.

    Raises:
        DetectorError: Alpha is not between 0 and 1.
    """
    _check_share(alpha)
    if promise == "update":
        return np.asarray(p <= alpha)
    order = np.argsort(p, kind="stable")
    passed = p[order] * np.arange(len(p), 0, -1) <= alpha * (1 + _ROUNDING)
    out = np.zeros(len(p), bool)
    out[order[: int(np.argmin(passed)) if not passed.all() else len(p)]] = True
    return out


def worst_rate(calibrated: int, alpha: float, confidence: float = 0.95) -> float:
    """Return a bound on the share of honest updates that this one calibration rejects in all rounds that it serves.

    Args:
        calibrated: How many calibration scores there are.
        alpha: The false-rejection rate asked for, under the promise ``update``.
        confidence: The chance, over the draw of the calibration, that the bound holds.

    Raises:
        DetectorError: Alpha or the confidence is not between 0 and 1.
    """
    _check_share(alpha)
    _check_share(confidence)
    above = math.floor(alpha * (calibrated + 1) * (1 + _ROUNDING))
    return float(beta.ppf(confidence, above, calibrated + 1 - above)) if above else 0.0


def _tests(promise: Promise, sites: int) -> int:
    return max(1, sites) if promise == "round" else 1


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise DetectorError("a rate will not do", got=share, expected="a number between 0 and 1")
