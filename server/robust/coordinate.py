"""Rules that look at each coordinate by itself: median and trimmed mean (Yin et al., arXiv 1803.01498).

As long as fewer than half of the values are hostile, each coordinate of the result lies between two honest ones. That
does not bound the result as a vector well: d coordinates may each be off by a little, all in one direction.
"""

from __future__ import annotations

import numpy as np

from common.quantise import Flat
from server.robust.matrix import Block


def median(block: Block) -> Flat:
    """Return the median of each coordinate; of an even number of values, the mean of the two in the middle.

    Args:
        block: float32 [n, width], n >= 1, finite.

    Returns:
        float32 [width].
    """
    return trimmed_mean(block, (len(block) - 1) // 2)


def trimmed_mean(block: Block, trim: int) -> Flat:
    """Return the mean of each coordinate without its ``trim`` smallest and ``trim`` largest values.

    Args:
        block: float32 [n, width], finite.
        trim: Less than n / 2.

    Returns:
        float32 [width], summed in float64 from the smallest value to the largest, which no order of updates changes.
    """
    ordered = np.ascontiguousarray(block.T)
    ordered.sort(axis=1)
    kept = ordered[:, trim : len(block) - trim]
    means: Flat = kept.mean(axis=1, dtype=np.float64).astype(np.float32)
    return means
