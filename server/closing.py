"""Closing a round: what its admitted answers come to. Pure: no store and no network, so a replay comes to the same.

In order: the updates are held against each other (:mod:`server.judging`), what sites say of the round before is heard
(:mod:`server.examination`), and what is left is averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.settings import RunSettings
from common.tracing import phase
from security.admission import AdmittedUpdate, Terms, admit
from security.envelope import peek_header
from server.aggregation import Round, aggregate
from server.cross_validation import Harm
from server.examination import Closed, Examination
from server.spool import Spool
from server.state import RunState

if TYPE_CHECKING:
    from security.judgement import Judgement
    from server.site_privacy import SiteMechanism

Judge = Callable[[Collection[str]], "Judgement"]


@dataclass(frozen=True)
class Answers:
    """The admitted answers of one round.

    Attributes:
        spool: Where they are.
        terms: Under which they were admitted, by site.
        ballots: What the sites say of the round before.
    """

    spool: Spool
    terms: Mapping[str, Terms]
    ballots: Mapping[str, Sequence[float]]

    def updates(self, sites: Collection[str], shares: Mapping[str, float]) -> Iterator[AdmittedUpdate]:
        """Yield updates by site name, each opened from the spool when it is its turn, and cut down to its share."""
        for site in sorted(sites):
            letter, body = self.spool.take(site)
            update = admit(letter, body, self.terms[site], now_ms=peek_header(letter).created_at_ms, nonces=None)
            share = np.float32(shares[site])
            yield update if share == 1.0 else replace(update, delta=update.delta * share)


@dataclass(frozen=True)
class Closing:
    """What a round came to.

    Attributes:
        judgement: Of its updates, held against each other; None in a run without a detector.
        harm: Who makes the model worse for others.
        taken_back: Whose updates were averaged in the round before, and are taken out of the adapter again.
        shares: By site, what each update that judging left is multiplied by.
        averaged: Who is in the adapter.
        why: Why the adapter stays as it is; empty when the round is aggregated.
        start: What the updates were added to: what the round started from, less what was taken back.
        end: What the next round starts from.
        examined: The round as it may be examined; None where it is not aggregated, or has no examination.
    """

    judgement: Judgement | None
    harm: Harm
    taken_back: frozenset[str]
    shares: Mapping[str, float]
    averaged: frozenset[str]
    why: str
    start: RunState
    end: RunState
    examined: Closed | None

    @property
    def outcome(self) -> Literal["aggregated", "kept"]:
        """``aggregated`` or ``kept``."""
        return "kept" if self.why else "aggregated"


@dataclass(frozen=True)
class Closer:
    """Closes the rounds of one run.

    Attributes:
        settings: The run's.
        protected: How sites as a whole are protected; None when they are not.
        examination: Of each round by sites; None of a run without.
    """

    settings: RunSettings
    protected: SiteMechanism | None
    examination: Examination | None

    def close(self, number: int, start: RunState, answers: Answers, judge: Judge | None, folder: Path) -> Closing:
        """Return what a round comes to.

        Args:
            number: The round.
            start: What it started from.
            answers: Admitted, of sites that are still members.
            judge: Holds the updates of some sites against each other; None in a run without a detector.
            folder: Where a robust rule keeps updates, encrypted, while it compares them.

        Raises:
            AggregationError: An update does not fit.
        """
        judgement = judge(answers.terms) if judge else None
        scales = {site: judgement.findings[site].scale if judgement else 1.0 for site in answers.terms}
        shares = {site: scale for site, scale in scales.items() if scale}
        harm, taken_back, start = self._heard(answers, shares, start)
        averaged = frozenset(shares.keys() - harm.sites)
        if why := self._why_not(averaged, judgement):
            return Closing(judgement, harm, taken_back, shares, averaged, why, start, start, None)
        this = self._round(number, len(averaged), folder)

        def updates(sites: Collection[str]) -> Iterator[AdmittedUpdate]:
            return answers.updates(sites, shares)

        with phase("aggregate", sites=len(averaged)):
            end = aggregate(this, start, updates(averaged))
        examined = Closed(this, start, end, averaged, updates) if self._is_examined(number) else None
        return Closing(judgement, harm, taken_back, shares, averaged, "", start, end, examined)

    @phase("ballots")
    def _heard(
        self, answers: Answers, judged: Collection[str], start: RunState
    ) -> tuple[Harm, frozenset[str], RunState]:
        """Hear the ballots of the updates that judging left, and take back what those who do harm did."""
        if self.examination is None:
            return Harm(), frozenset(), start
        harm = self.examination.hear({site: answers.ballots[site] for site in judged})
        taken_back = self.examination.averaged(harm.sites)
        return harm, taken_back, self.examination.taken_back(harm.sites) or start

    def _is_examined(self, number: int) -> bool:
        """Whether sites are asked about a round: not the last one, since what they look at then is what is released."""
        return self.examination is not None and number < self.settings.rounds

    def _round(self, number: int, averaged: int, folder: Path) -> Round:
        settings = self.settings
        return Round(number, settings.lora.method, settings.aggregation, self.protected, averaged, folder)

    def _why_not(self, averaged: Collection[str], judgement: Judgement | None) -> str:
        settings = self.settings
        if len(averaged) < settings.quorum:
            return f"{len(averaged)} can be averaged, quorum is {settings.quorum}"
        if judgement and judgement.unsure and settings.detector and settings.detector.unsure == "wait":
            return f"the detector cannot judge: {judgement.unsure}"
        return ""
