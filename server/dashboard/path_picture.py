"""The picture of an inclusion proof: the way from an entry up to the root of the tree, and the hashes beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from security.merkle import leaf_hash, node_hash

WIDTH = 340
"""Of the picture; so narrow that it fits a telephone unscaled."""

STEP = 46
"""From one level to the next."""

_LETTER = 6.4  # across, of a label
_LONGEST = 15
_GAP = 18.0
_FIRST = WIDTH / 4
_SMALLEST = 20.0
_SMALLER = 0.62
_BACK = 0.85  # a way that turns to one side at every step becomes a straight one, and stays in the frame


@dataclass(frozen=True)
class Level:
    """One step up.

    Attributes:
        sibling: The hash beside, hex.
        left: Whether that one stands on the left.
        result: The hash of both, hex.
        start: The first entry that the sibling's tree holds.
        end: The one after its last.
        x: Where the way is before the step.
        y: The same, from the top.
        beside: Where the sibling is, across.
        up_x: Where the way is after the step.
        up_y: The same, from the top.
    """

    sibling: str
    left: bool
    result: str
    start: int
    end: int
    x: float = 0.0
    y: float = 0.0
    beside: float = 0.0
    up_x: float = 0.0
    up_y: float = 0.0

    @property
    def entries(self) -> int:
        """How many entries the sibling's tree holds."""
        return self.end - self.start

    @property
    def label(self) -> str:
        """Which those are; only the first, where both are long."""
        if self.entries == 1:
            return str(self.start)
        whole = f"{self.start}\u2013{self.end - 1}"
        return whole if len(whole) <= _LONGEST else f"{self.start}\u2026"


@dataclass(frozen=True)
class Picture:
    """The whole way: the hash of the entry, the steps from there, and how high the picture is."""

    leaf: str
    levels: Sequence[Level]
    height: int

    @property
    def root(self) -> str:
        """Where the way leads."""
        return self.levels[-1].result if self.levels else self.leaf


def picture(entry: bytes, index: int, size: int, proof: Sequence[bytes]) -> Picture:
    """Return the picture of a proof.

    Args:
        entry: Its bytes.
        index: Its place.
        size: Of the tree.
        proof: As RFC 6962 has it, from the bottom.
    """
    hash_, steps = leaf_hash(entry), []
    for sibling, (start, end) in zip(proof, _siblings(index, size), strict=False):
        left = start < index
        hash_ = node_hash(sibling, hash_) if left else node_hash(hash_, sibling)
        steps.append(Level(sibling.hex(), left, hash_.hex(), start, end))
    return Picture(leaf_hash(entry).hex(), _laid_out(steps), len(steps) * STEP + 56)


def _siblings(index: int, size: int) -> list[tuple[int, int]]:
    """Return the entries under each hash of the proof, from the bottom."""
    found, start, end = [], 0, size
    while end - start > 1:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if index < middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start = middle
    return found[::-1]


def _laid_out(steps: Sequence[Level]) -> list[Level]:
    """Give each step its place: the root at the top, each step down as far aside as there is room."""
    places, spread, aside = [0.0], [], _FIRST  # of the way, from the root down; of the siblings
    for step in reversed(steps):
        way = aside if step.left else -aside
        spread.append(_BACK * places[-1] - way)
        places.append(_BACK * places[-1] + way)
        aside = max(_SMALLEST, aside * _SMALLER)
    every = [*places, *spread]
    low, high = min(every), max(every)
    # A label stands outside of its hash: on the left there is room for those on the left, and so on the right.
    left = _GAP + _LETTER * max((len(step.label) for step in steps if step.left), default=4)
    right = _GAP + _LETTER * max((len(step.label) for step in steps if not step.left), default=4)
    scale = min(1.0, (WIDTH - left - right) / (high - low)) if high > low else 1.0
    begin = left + (WIDTH - left - right - scale * (high - low)) / 2

    def across(x: float) -> float:
        return round(begin + (x - low) * scale, 1)

    bottom = len(steps) * STEP + 22
    return [
        Level(
            step.sibling, step.left, step.result, step.start, step.end,
            across(places[len(steps) - up]), bottom - up * STEP, across(spread[len(steps) - 1 - up]),
            across(places[len(steps) - up - 1]), bottom - (up + 1) * STEP,
        )
        for up, step in enumerate(steps)
    ]  # fmt: skip
