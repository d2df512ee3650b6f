"""The examination of one round after the other by sites: what is asked, what ballots say, what is taken back.

A round is examined while the next one trains. When it is found that some sites make the model worse, the round that is
closing goes on from what the examined one would have come to without them: their updates are taken back, and those of
the others stand.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.quantise import Flat
from common.settings import CrossValidationSettings
from server.aggregation import Round
from server.candidates import Updates, averaged, candidates_of, in_coordinates
from server.cross_validation import Evidence, Harm, deal
from server.state import RunState


@dataclass(frozen=True)
class Closed:
    """A round that was aggregated and may still be taken back.

    Attributes:
        round: What aggregation needs to know of it.
        start: What it started from.
        end: What it ended with.
        sites: Whose updates were averaged.
        updates: Gives them again, and those that were left out as harmful; they are examined on.
    """

    round: Round
    start: RunState
    end: RunState
    sites: frozenset[str]
    updates: Updates

    def without(self, sites: Collection[str]) -> RunState:
        """Return what the round would have ended with without some sites, in the coordinates of its end.

        With nobody left it is where the round started.
        """
        left = self.sites.difference(sites)
        if not left:
            return in_coordinates(self.start, self.end.adapter)
        fewer = replace(self.round, most=len(left))
        return averaged(fewer, self.start, self.end.adapter, self.updates(left))


class Examination:
    """Examines the rounds of a run.

    Args:
        settings: The run's.
        chance: Deals sites to groups; the system's own when left out.
    """

    def __init__(self, settings: CrossValidationSettings, chance: np.random.Generator | None = None) -> None:
        self._settings, self._evidence = settings, Evidence()
        self._chance = np.random.default_rng(secrets.randbits(128)) if chance is None else chance
        self._closed: Closed | None = None
        self._groups: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def recalled(
        cls, settings: CrossValidationSettings, evidence: Evidence, closed: Closed | None,
        groups: tuple[tuple[str, ...], ...],
    ) -> Examination:  # fmt: skip
        """Return an examination as it stood before the ballots of a round were heard."""
        examination = cls(settings)
        examination._evidence, examination._closed, examination._groups = evidence, closed, groups
        return examination

    @property
    def evidence(self) -> Evidence:
        """What ballots have told so far."""
        return self._evidence

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Whose updates were averaged together in the candidates of the last round; empty when nothing is asked."""
        return self._groups

    def ask(self, closed: Closed, sites: Sequence[str]) -> list[Flat]:
        """Begin to examine a round, and return its candidates (:func:`~server.candidates.candidates_of`).

        Args:
            closed: The round.
            sites: Whose updates are examined: those that were averaged, and those that were left out as harmful.
        """
        self.let_go()
        self._closed, self._groups = closed, deal(sites, self._chance)
        if not self._groups:
            return []
        return candidates_of(closed.round, closed.start, closed.end.adapter, self._groups, closed.updates)

    def hear(self, ballots: Mapping[str, Sequence[float]]) -> Harm:
        """Take in the ballots on the last round, and return who makes the model worse for others."""
        if self._groups:
            self._evidence.hear(self._groups, ballots)
        return self._evidence.harm(self._settings.harm)

    def averaged(self, sites: Collection[str]) -> frozenset[str]:
        """Return those of some sites whose updates were averaged in the last round."""
        return self._closed.sites.intersection(sites) if self._closed else frozenset()

    def taken_back(self, sites: Collection[str]) -> RunState | None:
        """Return what the last round would have ended with without some sites; None when none was averaged in it."""
        return self._closed.without(sites) if self._closed and self.averaged(sites) else None

    def let_go(self) -> None:
        """End the examination of the last round: nothing of it can be taken back any more."""
        self._closed, self._groups = None, ()
