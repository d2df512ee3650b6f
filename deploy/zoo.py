"""The attack zoo: what hostile sites may send in place of what they have learned.

Each attack is a function of what hostile sites know of a round (:class:`View`), and they are given everything: the
updates of all honest sites, which they could not have, and what earlier rounds did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from common.quantise import Flat


@dataclass(frozen=True, eq=False)
class View:
    """What hostile sites know in a round.

    Attributes:
        number: The round.
        own: What they would send if they were honest, float32 ``[hostile, d]``.
        others: What honest sites send, float32 ``[honest, d]``; no rows where hostile sites know nothing of them.
        past: What earlier rounds added to the adapter, the latest last, float32 ``[d]`` each.
        last: What they sent in the round before, float32 ``[hostile, d]``; None in the first.
        chance: Their generator.
        spans: Where each layer's numbers begin and stop.
    """

    number: int
    own: Flat = field(repr=False)
    others: Flat = field(repr=False)
    past: Sequence[Flat] = field(repr=False)
    last: Flat | None = field(repr=False)
    chance: np.random.Generator = field(repr=False)
    spans: Sequence[tuple[int, int]] = field(repr=False)


Attack = Callable[[View], Flat]
"""Returns what the hostile sites send, float32 ``[hostile, d]``."""


def scaled(factor: float) -> Attack:
    """Return the attack that sends a multiple of what was learned; below 0 it points the other way."""

    def attack(view: View) -> Flat:
        return np.asarray(view.own * np.float32(factor))

    return attack


def gaussian(view: View) -> Flat:
    """Send noise as large as an honest update (Blanchard et al., NeurIPS 2017)."""
    noise = view.chance.standard_normal(view.own.shape).astype(np.float32)
    sizes = np.linalg.norm(view.own, axis=1) / np.linalg.norm(noise, axis=1)
    return np.asarray(noise * sizes[:, None].astype(np.float32))


def nothing(view: View) -> Flat:
    """Send zeros: a free rider (Lin et al., arXiv 1911.12560)."""
    return np.zeros_like(view.own)


def little_noise(view: View) -> Flat:
    """Send noise a tenth as large as an honest update: a free rider in disguise (arXiv 1911.12560)."""
    return np.asarray(gaussian(view) * np.float32(0.1))


WIRE: Mapping[str, Attack] = MappingProxyType(
    {
        "sign-flip": scaled(-1.0),
        "sign-flip-3": scaled(-3.0),
        "scaling": scaled(10.0),
        "scaling-1.5": scaled(1.5),
        "gaussian": gaussian,
        "free-rider-zero": nothing,
        "free-rider-noise": little_noise,
    }
)
"""Attacks on the wire, by name."""
