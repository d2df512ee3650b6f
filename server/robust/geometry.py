"""Distances between updates, and from points in their span, out of the Gram matrix alone.

No vector of d numbers is touched: a point that is a sum of updates by shares s has the squared distance
``G_ii - 2 (G s)_i + s'G s`` from update i.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.robust.matrix import Gram, Mixing, Shares

Distances: TypeAlias = NDArray[np.float64]
"""float64, never negative."""

_TIE = 1e-9
"""Values that differ by less than this share of the larger are equal: rounding must not decide between sites."""

_BLUR = 1e-13
"""Squared distances below this share of the squared norms are zero: float32 has rounded more away in the updates."""


def squared_distances(gram: Gram) -> Distances:
    """Return the squared L2 distance of each update from each: [n, n], exactly zero between equal ones."""
    norms = np.diag(gram)
    sums = norms[:, None] + norms[None, :]
    squares = sums - 2.0 * gram
    squares[squares <= _BLUR * sums] = 0.0
    np.fill_diagonal(squares, 0.0)
    return squares


def distances_from(gram: Gram, shares: Shares) -> Distances:
    """Return the L2 distance of each update from the sum of all by shares: [n]."""
    products = gram @ shares
    return np.sqrt(np.maximum(np.diag(gram) - 2.0 * products + shares @ products, 0.0))


def mixed(gram: Gram, mixing: Mixing) -> Gram:
    """Return the Gram matrix of the mixed updates."""
    product = mixing @ gram @ mixing.T
    return (product + product.T) / 2.0


def lowest(values: NDArray[np.float64], count: int) -> Shares:
    """Return which ``count`` values of each row are the lowest, as shares that sum to one.

    Each of them has the share 1 / count. Where several that are equal compete for the last places, they share these
    places alike: any order among them, of arrival or of numbers, would be one that somebody can choose.

    Args:
        values: Not negative, [..., n], n >= count.
        count: At least 1.

    Returns:
        float64 [..., n].
    """
    last = np.partition(values, count - 1, axis=-1)[..., count - 1 : count]
    below = values < last * (1.0 - _TIE)
    tied = ~below & (values <= last * (1.0 + _TIE))
    left = count - below.sum(axis=-1, keepdims=True)
    return np.asarray((below + tied * (left / tied.sum(axis=-1, keepdims=True))) / count)
