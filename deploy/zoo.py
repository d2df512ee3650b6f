"""The attack zoo: what hostile sites may send in place of what they have learned.

Each attack is a function of what hostile sites know of a round (:class:`View`), and they are given everything: the
updates of all honest sites, which they could not have, what earlier rounds did, and the server's judgement to try
things on. Where nobody else's update is known (a single vandal), what they have learned themselves stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import NormalDist
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
        passes: Tells whether the server's judgement would let all of these in whole, float32 ``[hostile, d]``; None
            where they cannot ask it.
    """

    number: int
    own: Flat = field(repr=False)
    others: Flat = field(repr=False)
    past: Sequence[Flat] = field(repr=False)
    last: Flat | None = field(repr=False)
    chance: np.random.Generator = field(repr=False)
    spans: Sequence[tuple[int, int]] = field(repr=False)
    passes: Callable[[Flat], bool] | None = field(default=None, repr=False)

    @property
    def honest(self) -> Flat:
        """What honest sites send as far as the hostile know, float32 ``[rows, d]``."""
        return self.others if len(self.others) else self.own

    @property
    def everybody(self) -> int:
        """How many sites there are, as far as the hostile know."""
        return len(self.own) + len(self.others)


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


def stale(view: View) -> Flat:
    """Send what the last round did once more: a free rider; noise in the first round."""
    return _all_send(view, view.past[-1]) if view.past else little_noise(view)


def sybil(view: View) -> Flat:
    """Send the same from every site, against what was learned (Fung et al., RAID 2020)."""
    return _all_send(view, -view.own.mean(axis=0))


def a_little_is_enough(view: View) -> Flat:
    """Send the mean less a few deviations, as many as a majority with the hostile would still hide (ALIE).

    Baruch, Baruch and Goldberg, NeurIPS 2019 (arXiv 1902.06156), section 3.
    """
    honest, hostile = len(view.honest), len(view.own)
    supporters = (honest + hostile) // 2 + 1 - hostile
    deviations = NormalDist().inv_cdf(min(max((honest - supporters) / honest, 0.5), 0.999))
    return _all_send(view, view.honest.mean(axis=0) - np.float32(deviations) * view.honest.std(axis=0))


def inner_product(view: View) -> Flat:
    """Send the mean of the others, turned around and halved (IPM; Xie, Koyejo and Gupta, UAI 2019)."""
    return _all_send(view, np.float32(-0.5) * view.honest.mean(axis=0))


def min_max(view: View) -> Flat:
    """Go as far from any as the two honest ones that are furthest apart (Shejwalkar and Houmansadr, NDSS 2021)."""
    furthest = float(_distances(view.honest, view.honest).max())
    return _as_far(view, lambda sent: float(_distances(view.honest, sent[None]).max()) <= furthest)


def min_sum(view: View) -> Flat:
    """Go as far as the sum of squared distances to the others is that of some honest one (as :func:`min_max`)."""
    most = float((_distances(view.honest, view.honest) ** 2).sum(axis=0).max())
    return _as_far(view, lambda sent: float((_distances(view.honest, sent[None]) ** 2).sum()) <= most)


def fang(view: View) -> Flat:
    """Send, number by number, a little more than anybody does on the side that the mean is not (trimmed mean).

    Fang, Cao, Jia and Gong, USENIX Security 2020, section 4.3, with full knowledge and b = 2.
    """
    low, high = view.honest.min(axis=0), view.honest.max(axis=0)
    below = np.where(low > 0, low / 2, 2 * low), low
    above = high, np.where(high > 0, 2 * high, high / 2)
    down = view.honest.mean(axis=0) > 0
    start, stop = np.where(down, below[0], above[0]), np.where(down, below[1], above[1])
    return np.asarray(view.chance.uniform(start, stop, view.own.shape).astype(np.float32))


def mimic(view: View) -> Flat:
    """Send what one honest site sends, so that it counts more (Karimireddy, He and Jaggi, ICLR 2022).

    With noise of a tenth of its size, since exact copies are found as copies.
    """
    noise = gaussian(view) / np.linalg.norm(view.own, axis=1, keepdims=True)
    copied = view.honest[0]
    return np.asarray(copied + np.float32(0.1) * np.linalg.norm(copied) * noise)


def replacement(view: View) -> Flat:
    """Send so much that the mean becomes what the hostile have learned, turned around.

    Model replacement: Bagdasaryan et al., AISTATS 2020, section 4.2; the others' updates are taken to cancel out.
    """
    return _all_send(view, view.own.mean(axis=0) * np.float32(-view.everybody / len(view.own)))


def drift(view: View) -> Flat:
    """Add the same small wrong turn to honest work in every round, half as large as the work."""
    aside: Flat = np.random.default_rng(len(view.spans)).standard_normal((1, view.own.shape[1])).astype(np.float32)
    size = np.linalg.norm(view.own, axis=1, keepdims=True) / np.linalg.norm(aside, axis=1, keepdims=True)
    return np.asarray(view.own + np.float32(0.5) * size * aside)


def adaptive(view: View) -> Flat:
    """Go against the mean of the others, as far as the server's own judgement lets it through.

    What is sent is honest work bent towards the opposite of the mean, with noise of its own for each site, so that
    no two are copies. With nobody to ask, it is bent half-way.
    """
    against = -view.honest.mean(axis=0)
    against *= np.linalg.norm(view.own, axis=1).mean() / (np.linalg.norm(against) or 1)

    def bent(share: float) -> Flat:
        return np.asarray(np.float32(1 - share) * view.own + np.float32(share) * against + 0.1 * noise, np.float32)

    noise = gaussian(view)
    if view.passes is None:
        return bent(0.5)
    passes = view.passes
    return bent(_furthest(lambda share: passes(bent(share)), 1.0, halvings=6))


def _all_send(view: View, sent: Flat) -> Flat:
    return np.repeat(sent[None].astype(np.float32), len(view.own), axis=0)


def _distances(rows: Flat, to: Flat) -> Flat:
    return np.asarray(np.linalg.norm(rows[:, None] - to[None], axis=2))


def _as_far(view: View, allowed: Callable[[Flat], bool]) -> Flat:
    """Return the mean of the others less as many of their deviations as are allowed."""
    mean, deviation = view.honest.mean(axis=0), view.honest.std(axis=0)
    times = (2.0**power for power in count())
    most = next(factor for factor in times if not deviation.any() or not allowed(mean - np.float32(factor) * deviation))
    factor = _furthest(lambda factor: allowed(mean - np.float32(factor) * deviation), most, halvings=20)
    return _all_send(view, mean - np.float32(factor) * deviation)


def _furthest(allowed: Callable[[float], bool], most: float, *, halvings: int) -> float:
    """Return about the largest number up to ``most`` that is allowed; 0 where none is."""
    if allowed(most):
        return most
    low, high = 0.0, most
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


ALONE: Mapping[str, Attack] = MappingProxyType(
    {
        "sign-flip": scaled(-1.0),
        "sign-flip-3": scaled(-3.0),
        "scaling": scaled(10.0),
        "scaling-1.5": scaled(1.5),
        "gaussian": gaussian,
        "drift": drift,
        "free-rider-zero": nothing,
        "free-rider-noise": little_noise,
    }
)
"""Attacks on the wire that one site can make alone, by name."""

WIRE: Mapping[str, Attack] = MappingProxyType(
    {
        **ALONE,
        "stale": stale,
        "sybil": sybil,
        "replacement": replacement,
        "alie": a_little_is_enough,
        "ipm": inner_product,
        "min-max": min_max,
        "min-sum": min_sum,
        "fang": fang,
        "mimic": mimic,
        "adaptive": adaptive,
    }
)
"""All attacks on the wire, by name."""
