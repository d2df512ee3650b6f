"""The geometric median by the smoothed Weiszfeld algorithm (RFA, Pillutla et al., arXiv 1912.13445).

It is the point with the smallest sum of distances to all updates. Each iterate is a mean of the updates, so only its
weights are computed, from the Gram matrix, until they stand still: the result then depends neither on where the
iteration began nor on how many steps it was given. (Only where an even number of updates lies on a line are there
several such points. It is one of them, the same one for the same updates.)
"""

from __future__ import annotations

import numpy as np

from server.robust.geometry import Distances, distances_from, squared_distances
from server.robust.matrix import Gram, Shares

SMOOTHING = 1e-6
"""Distances count as at least this share of how far the most central update is from most others. It keeps the weights
finite, and fewer than half of the updates cannot make it large."""

MOST_STEPS = 2000
"""Each costs n^2 operations and brings the sum of distances down; dozens are usual."""

_STILL = 1e-12


def geometric_median(gram: Gram) -> Shares:
    """Return the shares of updates in their geometric median.

    With f of n updates hostile, f < n / 2, it is no farther from zero (or from any other point) than 2 (n - f) /
    (n - 2 f) times the farthest honest update: the triangle inequality, put into the sum that it makes smallest.

    Args:
        gram: Of the updates, n >= 1.

    Returns:
        float64 [n], not negative, with the sum one.
    """
    apart = np.sqrt(squared_distances(gram))
    # How far an update is from most others says how far away it is, as long as fewer than half are: already the first
    # point is bounded.
    remoteness = np.median(apart, axis=1)
    least = SMOOTHING * float(remoteness.min())
    if least == 0:  # then more than half of all updates are equal, and no point has a smaller sum of distances
        return np.asarray((remoteness == 0) / (remoteness == 0).sum())
    shares = _inverse(remoteness, least)
    for _ in range(MOST_STEPS):
        before, shares = shares, _inverse(distances_from(gram, shares), least)
        if np.abs(shares - before).max() <= _STILL:
            break
    return shares


def _inverse(distances: Distances, least: float) -> Shares:
    weights = least / np.maximum(distances, least)
    return np.asarray(weights / weights.sum())
