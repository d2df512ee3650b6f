"""Centred clipping (Karimireddy, He and Jaggi, arXiv 2012.10333).

The result goes from a centre towards the mean of the updates, each cut at a radius around the centre; then again from
there. One update moves it by at most radius / n in each step, wherever it lies.
"""

from __future__ import annotations

import numpy as np

from common.settings import CLIP_STEPS
from server.robust.geometry import distances_from
from server.robust.matrix import Gram, Shares


def centred_clipping(gram: Gram, radius: float | None = None, steps: int = CLIP_STEPS) -> Shares:
    """Return the shares of updates in their centred clipping.

    The paper leaves the radius to be tuned. Without one, each step takes the median distance of the updates from where
    it stands, which fewer than half of them can neither blow up nor bring to zero.

    Args:
        gram: Of the updates less the centre.
        radius: In the updates' own unit, positive; None: the median distance, in each step anew.
        steps: At least 1.

    Returns:
        float64 [n], not negative; what is missing to one is the centre's share.
    """
    count = len(gram)
    shares = np.zeros(count)
    for _ in range(steps):
        distances = distances_from(gram, shares)
        limit = float(np.median(distances)) if radius is None else radius
        cut = np.where(distances > limit, limit / np.where(distances > 0, distances, 1.0), 1.0)
        shares = shares * (1.0 - cut.mean()) + cut / count
    return shares
