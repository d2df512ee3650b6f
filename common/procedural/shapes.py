"""Strokes in the unit square, and the few curves that subjects are made of."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""Points of a curve, shape [n, 2], x to the right and y downwards, both in [0, 1]."""


@dataclass(frozen=True)
class Stroke:
    """One movement of the hand.

    Attributes:
        points: The curve, shape [n, 2].
        closed: Whether the curve bounds an area.
        tone: How dark that area is to be shaded, 0 (left as paper) to 1; of no meaning on open curves.
    """

    points: Points
    closed: bool = False
    tone: float = 0.0


Sketch = list[Stroke]


def line(*corners: tuple[float, float]) -> Stroke:
    """Return an open polyline through ``corners``."""
    return Stroke(_dense(np.array(corners, dtype=np.float64)))


def polygon(*corners: tuple[float, float], tone: float = 0.0) -> Stroke:
    """Return a closed polygon."""
    return Stroke(_dense(np.array([*corners, corners[0]], dtype=np.float64)), closed=True, tone=tone)


def ellipse(cx: float, cy: float, rx: float, ry: float | None = None, *, tone: float = 0.0) -> Stroke:
    """Return a closed ellipse (a circle when ``ry`` is left out)."""
    return Stroke(_arc_points(cx, cy, rx, rx if ry is None else ry, 0.0, 360.0), closed=True, tone=tone)


def arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float) -> Stroke:
    """Return an open arc from ``start`` to ``stop`` degrees, clockwise from the right as seen."""
    return Stroke(_arc_points(cx, cy, rx, ry, start, stop))


def curve(*knots: tuple[float, float], closed: bool = False, tone: float = 0.0) -> Stroke:
    """Return a smooth curve through ``knots`` (a uniform Catmull-Rom spline)."""
    k = np.array(knots, dtype=np.float64)
    padded = np.vstack([k[-1:], k, k[:2]]) if closed else np.vstack([k[:1], k, k[-1:]])
    t = np.linspace(0.0, 1.0, 9)[:, None]
    pieces = []
    for i in range(len(padded) - 3):
        p0, p1, p2, p3 = padded[i : i + 4]
        pieces.append(
            0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
        )
    return Stroke(np.vstack(pieces), closed=closed, tone=tone)


def _arc_points(cx: float, cy: float, rx: float, ry: float, start: float, stop: float) -> Points:
    n = max(8, int(abs(stop - start) / 12))
    angle = np.radians(np.linspace(start, stop, n + 1))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _dense(corners: Points, step: float = 0.05) -> Points:
    """Insert points so that the hand's wobble shows along straight lines too."""
    out = [corners[:1]]
    for a, b in itertools.pairwise(corners):
        n = max(1, int(np.hypot(*(b - a)) / step))
        out.append(a + (b - a) * np.linspace(0, 1, n + 1)[1:, None])
    return np.vstack(out)
