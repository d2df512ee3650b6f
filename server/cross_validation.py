"""Cross-validation by sites: whose updates make the model worse on the held-out drawings of everybody else.

An update that was trained, honestly, on wrong drawings has the shape of every other update, and no look at it tells
(:mod:`security.judgement`). What it does to other sites' drawings tells. So a round's updates are averaged once more in
small groups (:mod:`server.candidates`), each group's adapter goes to all sites with the next task, and each site
answers how much further each brought its held-out drawings (a *ballot*). Groups are drawn anew each round, at random
and in secret, and what was found of groups becomes an estimate for each site: group testing (Dorfman 1943) with a
Bayesian linear regression in place of yes and no.

That clients judge the updates of others is the idea of Zhao et al. (arXiv 1910.13111) and of BaFFLe (Andreina et al.,
arXiv 2011.02167). What is different here: no site sees another's update, only means of three or more; a site says
nothing of its own group; ballots have unit length, so that none weighs more than another; medians take them together,
so that lies of a minority move an estimate by less than honest sites differ; and a ballot can be made under
differential privacy (``client/ballot.py``).

**When somebody is left out.** Not when an update helps less than others: drawings differ, and who draws unlike all
others helps others less. The sites that stand out by :data:`SURE` deviations are left out together, and only where
without them a round would go further by the share that the settings name. One honest outsider among twelve, however
strange, stays below it. What counts as standing out grows with how much the better half of the sites differ: with the
rounds every estimate becomes exact, and honest sites are not all worth the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Groups: TypeAlias = Sequence[Sequence[str]]

GROUP = 3
"""Updates in a group at the least: who is in it and knows their own still sees no other one by itself."""

A_DEAL = 6
"""Groups that all sites of a round are dealt to at the most."""

DEALS = 2
"""Times that they are dealt."""

FEWEST_SITES = 2 * GROUP
"""Fewer make one group, and there is nothing to hold it against."""

FEWEST_BALLOTS = 3
"""On a group; a median of fewer is one site's word."""

SURE = 2.0
"""Deviations by which a site's estimate lies below the median of all when it stands out."""

KEPT = 0.9
"""What a round's findings are still worth in the next: a site's record decays, and honest work mends it."""

_PRIOR = 1.0
"""Deviation of what sites do for others before anything was found, in shares of a round's progress."""

_UNLIKE = 0.08
"""Deviation of a group's effect from the mean of its members', however many ballots there are: drawings differ."""

_SEEN = 0.1
"""Progress, as part of a ballot's unit length, below which a round shows nothing: chance alone has such a length."""

_MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True)
class Harm:
    """Who makes the model worse on others' drawings.

    Attributes:
        sites: Their names; nobody when empty.
        share: How much less far a round goes because of them, as a share of its progress without them.
    """

    sites: frozenset[str] = frozenset()
    share: float = 0.0

    def words(self) -> str:
        """Return what was found, as a sentence without a full stop."""
        who = ", ".join(sorted(self.sites))
        return f"on the held-out drawings of the other sites, a round goes {self.share:.0%} less far because of {who}"


def deal(sites: Sequence[str], chance: np.random.Generator) -> tuple[tuple[str, ...], ...]:
    """Return the groups in which a round's updates are averaged once more; none where there are too few sites.

    Every site is in :data:`DEALS` of them, each of :data:`GROUP` sites or more.

    Args:
        sites: Whose updates there are.
        chance: Nobody else's: who knew their group could choose when to behave.
    """
    if len(sites) < FEWEST_SITES:
        return ()
    count = min(A_DEAL, len(sites) // GROUP)
    deals = [np.array_split(chance.permutation(sorted(sites)), count) for _ in range(DEALS)]
    return tuple(tuple(sorted(map(str, group))) for dealt in deals for group in dealt)


class Evidence:
    """What ballots have told of each site's updates, round by round."""

    def __init__(self) -> None:
        self._rounds: list[list[tuple[frozenset[str], float, float]]] = []

    def to_heard(self) -> list[list[tuple[frozenset[str], float, float]]]:
        """Return, round by round, each group that was heard of, how far it brought the others and how sure that is."""
        return [list(found) for found in self._rounds]

    @classmethod
    def of_heard(cls, rounds: Iterable[Iterable[tuple[frozenset[str], float, float]]]) -> Evidence:
        """Return the evidence that :meth:`to_heard` told of."""
        evidence = cls()
        evidence._rounds = [list(found) for found in rounds]
        return evidence

    def hear(self, groups: Groups, ballots: Mapping[str, Sequence[float]]) -> None:
        """Take in the ballots on a round.

        Args:
            groups: In the order of the ballots' numbers.
            ballots: By site: how far all updates together brought its drawings, and then each group's; the length does
                not count. Any finite numbers; who has nothing to say is left out.
        """
        self._rounds.append(_effects(groups, ballots))

    def harm(self, most: float) -> Harm:
        """Return who makes the model worse for others by more than a share of a round's progress.

        Args:
            most: That share.
        """
        sites = sorted({site for found in self._rounds for group, _, _ in found for site in group})
        if not sites:
            return Harm()
        worth, spread = self._estimated(sites)
        middle = float(np.median(worth))
        unlike = _MAD_TO_DEVIATION * float(np.median(worth[worth >= middle]) - middle)  # those who do harm lie below
        out = worth < middle - SURE * np.hypot(spread, unlike)
        if not out.any() or 2 * out.sum() >= len(sites):
            return Harm()
        without = float(worth[~out].mean())
        share = (without - float(worth.mean())) / without if without > 0 else 0.0
        return Harm(frozenset(np.array(sites)[out].tolist()), share) if share > most else Harm()

    def _estimated(self, sites: Sequence[str]) -> tuple[Array, Array]:
        """Return how far each site's update alone would bring the others, in rounds' progress, and the deviation."""
        rows, effects, weights = [], [], []
        for age, found in enumerate(reversed(self._rounds)):
            for group, effect, deviation in found:
                rows.append([(site in group) / len(group) for site in sites])
                effects.append(effect)
                weights.append(KEPT**age / deviation**2)
        if not rows:
            return np.ones(len(sites)), np.full(len(sites), _PRIOR)
        members, centre = np.array(rows), float(np.median(effects))
        weighted = members.T * np.array(weights)
        covariance = np.linalg.inv(weighted @ members + np.eye(len(sites)) / _PRIOR**2)
        worth = centre + covariance @ (weighted @ (np.array(effects) - centre))
        left = np.array(weights) @ (np.array(effects) - members @ worth) ** 2
        free = len(effects) - np.trace(covariance @ weighted @ members)
        return worth, np.sqrt(np.diag(covariance) * max(1.0, left / free))  # groups are more than their members


def _effects(groups: Groups, ballots: Mapping[str, Sequence[float]]) -> list[tuple[frozenset[str], float, float]]:
    """Return each group, how far it brought the others in shares of the round's progress, and how sure that is."""
    unit = {site: ballot for site, told in ballots.items() if (ballot := _unit(told, len(groups))) is not None}
    if len(unit) < FEWEST_BALLOTS:
        return []
    whole = float(np.median([ballot[0] for ballot in unit.values()]))
    found: list[tuple[frozenset[str], float, float]] = []
    for place, group in enumerate(groups, start=1):
        others = np.array([ballot[place] - ballot[0] for site, ballot in unit.items() if site not in group])
        if len(others) >= FEWEST_BALLOTS:
            middle = float(np.median(others))
            off = _MAD_TO_DEVIATION * float(np.median(np.abs(others - middle))) / len(others) ** 0.5
            found.append((frozenset(group), whole + middle, off))
    progress = max([whole, *(effect for _, effect, _ in found)])
    if progress < _SEEN:
        return []
    return [(group, effect / progress, float(np.hypot(_UNLIKE, off / progress))) for group, effect, off in found]


def _unit(told: Sequence[float], groups: int) -> Array | None:
    """Return a ballot at unit length; None where it says nothing."""
    ballot = np.asarray(told, np.float64)
    if ballot.shape != (groups + 1,) or not np.isfinite(ballot).all() or not ballot.any():
        return None
    scaled = ballot / np.abs(ballot).max()
    unit: Array = scaled / np.linalg.norm(scaled)
    return unit
