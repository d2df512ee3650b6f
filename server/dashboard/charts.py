"""The geometry of charts, for SVG: across in per cent, so that a chart fits any width, and down in pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

HEIGHT = 220
"""Of a plot, pixels."""

_ABOVE, _BELOW = 10, 12
_HUES = 8
_MOST_LABELS = 12


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: how far across (per cent) or down (pixels), and its value."""

    at: float
    value: float


@dataclass(frozen=True)
class Segment:
    """A straight piece of a line: from and to, across in per cent and down in pixels."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Dot:
    """One value: where it is, whose and of which round, and whether it is over the line that must not be crossed."""

    x: float
    y: float
    site: str
    round: int
    value: float
    beyond: bool = False


@dataclass(frozen=True)
class Curve:
    """The values of one site by round. ``hue`` numbers the colours, from 0; None where there are too many sites."""

    name: str
    hue: int | None
    segments: Sequence[Segment]
    dots: Sequence[Dot]


@dataclass(frozen=True)
class Plot:
    """A chart over rounds.

    Attributes:
        rounds: The marks across.
        ticks: The marks down.
        curves: One a site.
        middle: The median of the sites, where they are too many to be told apart by colour.
        threshold: How far down the line is that must not be crossed, pixels.
        dots: Values without lines between them.
    """

    rounds: Sequence[Tick]
    ticks: Sequence[Tick]
    curves: Sequence[Curve] = ()
    middle: Sequence[Segment] = ()
    threshold: float | None = None
    dots: Sequence[Dot] = field(default=())


def curves(values: Mapping[str, Mapping[int, float]], rounds: Sequence[int]) -> Plot | None:
    """Return the curves of some sites; None where there is nothing to draw.

    Args:
        values: By site and round.
        rounds: All rounds that are drawn, in order.
    """
    flat = [value for told in values.values() for number, value in told.items() if number in rounds]
    if not flat:
        return None
    ticks, down = _linear(min(flat), max(flat))
    across = _across(rounds)
    named = len(values) <= _HUES
    drawn = []
    for hue, (site, told) in enumerate(values.items()):
        dots = [Dot(across[n], down(told[n]), site, n, told[n]) for n in rounds if n in told]
        drawn.append(Curve(site, hue if named else None, _joined(dots), dots if named else ()))
    return Plot(_labels(across), ticks, drawn, () if named else _middle(values, rounds, across, down))


def p_values(values: Mapping[str, Mapping[int, float]], rounds: Sequence[int], threshold: float) -> Plot | None:
    """Return p-values by round on a logarithmic scale, rare ones at the bottom; None where there are none.

    Args:
        values: By site and round.
        rounds: All rounds that are drawn, in order.
        threshold: At and below it an update is rejected.
    """
    told = {(site, n): p for site, by in values.items() for n, p in by.items() if n in rounds and p > 0}
    if not told:
        return None
    low = math.floor(math.log10(min([*told.values(), threshold]) * 0.8))
    across = _across(rounds)
    sites = {site: place for place, site in enumerate(values)}
    room = 100 / max(len(rounds), 1) * 0.6

    def down(p: float) -> float:
        return round(_ABOVE + (HEIGHT - _ABOVE - _BELOW) * math.log10(p) / low, 1)

    dots = [
        Dot(round(across[n] + room * ((sites[site] + 0.5) / len(sites) - 0.5), 2), down(p), site, n, p, p <= threshold)
        for (site, n), p in sorted(told.items())
    ]
    ticks = [Tick(down(10.0**power), 10.0**power) for power in range(low, 1)]
    return Plot(_labels(across), ticks, threshold=down(threshold), dots=dots)


def share(value: float, whole: float) -> float:
    """Return how much of a bar a value fills, per cent."""
    return round(100 * min(max(value / whole, 0.0), 1.0), 2) if whole > 0 else 0.0


def _across(rounds: Sequence[int]) -> dict[int, float]:
    return {number: round(100 * (place + 0.5) / len(rounds), 2) for place, number in enumerate(rounds)}


def _labels(across: Mapping[int, float]) -> list[Tick]:
    step = -(-len(across) // _MOST_LABELS)
    return [Tick(at, number) for place, (number, at) in enumerate(across.items()) if place % step == 0]


def _linear(low: float, high: float) -> tuple[list[Tick], _Down]:
    if high - low < 1e-9 * max(abs(high), 1.0):
        low, high = low - 0.05 * (abs(low) or 1.0), high + 0.05 * (abs(high) or 1.0)
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= raw * 0.999)
    begin, end = math.floor(low / step) * step, math.ceil(high / step) * step
    down = _Down(begin, end)
    count = round((end - begin) / step)
    return [Tick(down(begin + step * n), begin + step * n) for n in range(count + 1)], down


@dataclass(frozen=True)
class _Down:
    """Turns a value into pixels from the top."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        share_of = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - _BELOW - (HEIGHT - _ABOVE - _BELOW) * share_of, 1)


def _joined(dots: Sequence[Dot]) -> list[Segment]:
    return [Segment(a.x, a.y, b.x, b.y) for a, b in itertools.pairwise(dots)]


def _middle(
    values: Mapping[str, Mapping[int, float]], rounds: Sequence[int], across: Mapping[int, float], down: _Down
) -> list[Segment]:
    found = []
    for number in rounds:
        told = [by[number] for by in values.values() if number in by]
        if told:
            found.append(Dot(across[number], down(median(told)), "", number, median(told)))
    return _joined(found)
