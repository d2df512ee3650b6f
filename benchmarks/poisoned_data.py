"""Drawings dealt to sites, by who drew them or by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.drawings import Drawing, DrawingSettings, load_drawings


@dataclass(frozen=True)
class Deal:
    """The drawings of one site.

    Attributes:
        train: To train on.
        held_out: To measure on.
    """

    train: tuple[Drawing, ...]
    held_out: tuple[Drawing, ...]


def by_drawer(data: Path, pixels: int, sites: int) -> dict[str, Deal]:
    """Deal each folder's drawings to sites of its own by who drew them: no two sites share an alphabet and a hand.

    Args:
        data: A folder of folders.
        pixels: Width and height of a drawing.
        sites: How many there are in all; folders with more drawings get more of them.
    """
    found = _read(data, pixels)
    shares = dict.fromkeys(found, 1)
    for _ in range(sites - len(found)):
        largest = max(found, key=lambda name: len(found[name].train) / shares[name])
        shares[largest] += 1
    deals: dict[str, Deal] = {}
    for name, deal in found.items():
        drawers = sorted({drawing.drawer or "" for drawing in deal.train})
        for place in range(shares[name]):
            own = set(drawers[place :: shares[name]])
            deals[f"{name}-{place + 1}"] = Deal(_of(deal.train, own), _of(deal.held_out, own))
    return deals


def by_chance(data: Path, pixels: int, sites: int) -> dict[str, Deal]:
    """Deal all drawings to as many sites, whatever they show (by their digests, as good as by chance)."""
    found = _read(data, pixels).values()
    train = sorted((d for deal in found for d in deal.train), key=lambda drawing: drawing.digest)
    held_out = sorted((d for deal in found for d in deal.held_out), key=lambda drawing: drawing.digest)
    return {f"s{place:02}": Deal(tuple(train[place::sites]), tuple(held_out[place::sites])) for place in range(sites)}


def _read(data: Path, pixels: int) -> dict[str, Deal]:
    folders = [own for own in sorted(data.iterdir()) if own.is_dir()]
    found = {own.name.replace("_", "-"): load_drawings(own, DrawingSettings(size=pixels)) for own in folders}
    return {name: Deal(drawings.train, drawings.held_out) for name, drawings in found.items()}


def _of(drawings: Sequence[Drawing], drawers: set[str]) -> tuple[Drawing, ...]:
    return tuple(drawing for drawing in drawings if (drawing.drawer or "") in drawers)
