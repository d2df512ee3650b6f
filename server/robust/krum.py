"""Multi-Krum: the mean of the updates that have the closest neighbours (Blanchard et al., NeurIPS 2017).

As in ``byzfl``, a neighbourhood is n - f updates, the one itself among them, and n - f updates are averaged. The paper
has one neighbour less and n - f - 2 updates; with the tens of sites of a federation, two honest ones are too many to
leave out. What it asks of n stands.
"""

from __future__ import annotations

import numpy as np

from server.robust.geometry import Distances, lowest, squared_distances
from server.robust.matrix import Gram, Shares


def multi_krum(gram: Gram, hostile: int) -> Shares:
    """Return the shares of updates in Multi-Krum.

    Args:
        gram: Of the updates, n > 2 f + 2.
        hostile: How many may be hostile, f.

    Returns:
        float64 [n]: 1 / (n - f) for the n - f updates with the lowest scores, else zero; equal ones that compete for
        the last places share them (:func:`server.robust.geometry.lowest`).
    """
    kept = len(gram) - hostile
    return lowest(scores(squared_distances(gram), kept), kept)


def scores(squares: Distances, neighbours: int) -> Distances:
    """Return each update's sum of squared distances to its nearest neighbours, itself counted as one: float64 [n]."""
    return np.asarray(np.sort(squares, axis=1)[:, :neighbours].sum(axis=1))
