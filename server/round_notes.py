"""Notes of a round while it is under way, for the transcript that is made of them at its close."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.adapter_schema import Adapter
from server.transcript import AskedSite, Came, Heard, Past, Transcript

if TYPE_CHECKING:
    from server.closing import Closing
    from server.examination import Examination
    from server.hearing import Hearing


@dataclass(frozen=True)
class RoundNotes:
    """What is known of a round when its tasks go out.

    Attributes:
        opened_at_ms: When, Unix time in milliseconds.
        closes_at_ms: When it closes at the latest.
        seed: Of the detector's look at its updates: nobody else's, for who knew it could hide from it.
        past: What its updates are held against.
        groups: Of the round before, that its ballots are about.
        evidence: What earlier ballots told.
    """

    opened_at_ms: int = 0
    closes_at_ms: int = 0
    seed: int = field(default_factory=lambda: secrets.randbits(63))
    past: tuple[Past, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    evidence: tuple[tuple[Heard, ...], ...] = ()

    @classmethod
    def begin(
        cls, opened_s: float, deadline_s: float, past: Iterable[tuple[Past, Adapter]], examination: Examination | None
    ) -> RoundNotes:
        """Return the notes of a round whose tasks are about to go out."""
        told = examination.evidence.to_heard() if examination else []
        evidence = tuple(
            tuple(Heard(group=tuple(sorted(g)), effect=effect, deviation=off) for g, effect, off in found)
            for found in told
        )
        return cls(
            int(opened_s * 1000), int((opened_s + deadline_s) * 1000), past=tuple(one for one, _ in past),
            groups=examination.groups if examination else (), evidence=evidence,
        )  # fmt: skip

    def transcript(self, run: str, number: int, hearing: Hearing, closing: Closing | None) -> Transcript:
        """Return the transcript of the round.

        Args:
            run: The run's id.
            number: The round.
            hearing: Of its answers.
            closing: What it came to; None of a last look.
        """
        asked = {
            one.site: AskedSite(nonce=one.terms.task_nonce.hex(), verify=one.terms.site.verify.raw.hex())
            for one in hearing.asked.values()
        }
        return Transcript(
            run=run, round=number, trains=closing is not None, opened_at_ms=self.opened_at_ms,
            closes_at_ms=self.closes_at_ms, asked=asked,
            came=tuple(Came(site=one.site, at_ms=one.at_ms, kept=one.kept) for one in hearing.arrivals),
            revoked=tuple(hearing.revoked), seed=self.seed if hearing.sitting else None, past=self.past,
            ballot=max((one.terms.ballot for one in hearing.asked.values()), default=0), groups=self.groups,
            evidence=self.evidence, averaged=tuple(sorted(closing.averaged)) if closing else (),
            shares=dict(closing.shares) if closing else {},
        )  # fmt: skip
