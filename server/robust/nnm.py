"""Nearest-neighbour mixing (Allouah et al., arXiv 2302.01772): put before any rule.

Each update is replaced by the mean of the n - f nearest to it, itself among them. Mixed updates are closer to each
other than updates of unlike sites are, so what a rule then leaves out or cuts is less of what honest sites differ in.
"""

from __future__ import annotations

from server.robust.geometry import lowest, squared_distances
from server.robust.matrix import Gram, Mixing


def mixing(gram: Gram, hostile: int) -> Mixing:
    """Return how the updates are to be mixed.

    Kept as a matrix of shares, although f entries of each row are zero: to take the sum of all and subtract the f
    farthest would be quicker, and would let one huge update round all others away.

    Args:
        gram: Of the updates, n > f.
        hostile: How many may be hostile, f.

    Returns:
        float64 [n, n]: 1 / (n - f) for the neighbours of each row, else zero; those that compete for the last places
        at one distance share them (:func:`server.robust.geometry.lowest`).
    """
    return lowest(squared_distances(gram), len(gram) - hostile)
