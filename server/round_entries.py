"""What the ledger is told of a round: who was asked, the verdict on each answer and why, and what came of it all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from common.proto import bottega_pb2 as pb
from common.settings import RunSettings
from security.admission import Check
from security.entries import (
    MOST_WORDS,
    Entry,
    PrivacyApplied,
    RoundClosed,
    RoundOpened,
    TakenBack,
    Update,
    VerdictWord,
    WorkWord,
)
from server.journal import now
from server.mean import capped_weight
from server.store import Store, Verdict

if TYPE_CHECKING:
    from server.closing import Closing
    from server.hearing import Told

_JUDGED = frozenset({Check.SIZE, Check.COPY, Check.ANOMALY, Check.HARM})
"""Checks that hold an update against others."""

_OF_CONTENT = frozenset({Check.CLAIMS, Check.NORM, Check.PRIVACY})
"""Checks whose reasons quote numbers that a site's drawings decide of."""

_METRICS = ("held_out_loss", "training_loss", "seconds")
"""What sites report over all of their drawings. A site chooses its own names, so no other name is written down."""


def opened_entry(run: str, number: int, work: WorkWord, asked: Iterable[str], adapter: str) -> RoundOpened:
    """Return the entry of a round whose tasks go out; ``adapter`` is SHA-256 (hex) of the one that sites are sent."""
    return RoundOpened(at=now(), run=run, round=number, work=work, asked=sorted(asked), adapter=adapter)


def closing_entries(
    store: Store, run: str, number: int, settings: RunSettings, told: Mapping[str, Told], closing: Closing, adapter: str
) -> list[Entry]:
    """Return the entries of a round that trained: each answer, what was taken back, and the end.

    Args:
        store: Has the verdicts as they stand.
        run: The run.
        number: The round.
        settings: The run's.
        told: What the ledger says of admitted updates besides.
        closing: What the round came to.
        adapter: SHA-256 (hex) of the adapter it ended with, as a file.
    """
    weights = {v.site: _weight(v, settings, closing) for v in store.verdicts(run, number) if v.site in closing.averaged}
    entries = _answers(store, run, number, told, weights if not closing.why else {}, settings)
    if closing.taken_back:
        entries.append(
            TakenBack(
                at=now(), run=run, round=number - 1, found_in=number, sites=sorted(closing.taken_back),
                reason=closing.harm.words()[:MOST_WORDS],
            )
        )  # fmt: skip
    robust = settings.aggregation.robust
    entries.append(
        RoundClosed(
            at=now(), run=run, round=number, outcome=closing.outcome, rule=robust.rule if robust else "mean",
            averaged=sorted(closing.averaged) if not closing.why else [], adapter=adapter, why=closing.why or None,
            detector=_heard(closing), site_epsilon=_site_epsilon(store, run, number),
        )
    )  # fmt: skip
    return entries


def measured_entries(
    store: Store, run: str, number: int, told: Mapping[str, Told], settings: RunSettings
) -> list[Entry]:
    """Return the entries of the last look."""
    end = RoundClosed(at=now(), run=run, round=number, outcome="measured", rule="none", averaged=[])
    return [*_answers(store, run, number, told, {}, settings), end]


def _answers(
    store: Store, run: str, number: int, told: Mapping[str, Told], weights: Mapping[str, float], settings: RunSettings
) -> list[Entry]:
    """Return an entry for each answer.

    Everybody in the federation reads the ledger. Where the sites themselves are protected, what is exact about one
    site's work (its norm, how many drawings it claims, what it measured) may not stand beside the noised result.
    """
    metrics, at = store.metrics(run, number), now()
    exact, measured = not settings.site_privacy, not (settings.site_privacy or settings.privacy)
    found: list[Entry] = []
    for verdict in store.verdicts(run, number):
        known, reported = told.get(verdict.site), metrics.get(verdict.site, {})
        found.append(
            Update(
                at=at, run=run, round=number, site=verdict.site, verdict=word_of(verdict), check=verdict.number,
                check_name=verdict.check, reason=reason_of(verdict, exact=exact), sealed=verdict.digest,
                signed=known.signed if known else None, examples=(verdict.examples or None) if exact else None,
                weight=weights.get(verdict.site), norm=verdict.norm if exact else None, p_value=reported.get("p_value"),
                score=reported.get("score"),
                privacy=_applied(known.privacy) if known and known.privacy is not None else None,
                metrics={name: reported[name] for name in _METRICS if measured and name in reported} or None,
            )
        )  # fmt: skip
    return found


def reason_of(verdict: Verdict, *, exact: bool) -> str | None:
    """Return why a verdict is what it is; unless ``exact``, without numbers that a site's drawings decide of."""
    if not exact and verdict.number in _OF_CONTENT:
        return None
    return verdict.reason[:MOST_WORDS] or None


def word_of(verdict: Verdict) -> VerdictWord:
    """Return a verdict in a word."""
    if verdict.admitted:
        return "clipped" if verdict.number else "admitted"
    return "rejected" if verdict.number in _JUDGED else "refused"


def _weight(verdict: Verdict, settings: RunSettings, closing: Closing) -> float:
    share = closing.shares[verdict.site]
    if settings.aggregation.robust or settings.site_privacy:
        return share
    return share * capped_weight(verdict.examples, settings.aggregation.example_cap)


def _applied(told: pb.Privacy) -> PrivacyApplied:
    return PrivacyApplied(
        epsilon=told.epsilon, delta=told.delta, unit="artist" if told.unit == "artist" else "drawing",
        multiplier=told.multiplier, clip=told.clip, rate=told.rate, steps=told.steps, multiplicity=told.multiplicity,
    )  # fmt: skip


def _heard(closing: Closing) -> str | None:
    return None if closing.judgement is None else closing.judgement.unsure or "judged"


def _site_epsilon(store: Store, run: str, number: int) -> float | None:
    told = [metrics["site_epsilon"] for metrics in store.metrics(run, number).values() if "site_epsilon" in metrics]
    return max(told, default=None)
