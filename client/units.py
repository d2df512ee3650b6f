"""Units of privacy: what is protected as one, a drawing or all drawings of one artist."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from client.drawings import Drawing

UnitKind = Literal["drawing", "artist"]


@dataclass(frozen=True)
class Unit:
    """One unit.

    Args:
        digests: Of the content of its drawings, hex.
        rows: Where its drawings are in the training set.
    """

    digests: frozenset[str] = field(repr=False)
    rows: tuple[int, ...]


def units_of(drawings: Sequence[Drawing], kind: UnitKind) -> tuple[Unit, ...]:
    """Return the units that some drawings make, in an order that names decide nothing of.

    ======================  ==============================================================
    drawings                units of artists
    ======================  ==============================================================
    of one drawer           one, whatever else is different
    of nobody in the data   one, all of them: they may be one person's
    the same twice          one drawing, with two rows, under either kind
    ======================  ==============================================================

    Args:
        drawings: In the order of their rows.
        kind: What is protected as one.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, drawing in enumerate(drawings):
        rows[drawing.digest if kind == "drawing" else drawing.drawer or ""].append(row)
    units = [Unit(frozenset(drawings[row].digest for row in own), tuple(own)) for own in rows.values()]
    return tuple(sorted(units, key=lambda unit: unit.rows))
