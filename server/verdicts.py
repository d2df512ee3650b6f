"""Verdicts as the store keeps them: of a refusal by admission, and of what a round's judgement changed."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from security.admission import Check, Refused
from server.store import Store, Verdict

if TYPE_CHECKING:
    from security.judgement import Judgement
    from server.closing import Closing

log = logging.getLogger("bottega.rounds")


def refusal(site: str, why: Refused, digest: str | None = None) -> Verdict:
    """Return the verdict on a site whose answer a check refused; with SHA-256 (hex) of the sealed body, if one came."""
    words = "; ".join(
        [why.what, *(f"{k} {v}" for k, v in (("got", why.got), ("expected", why.expected)) if v is not None)]
    )
    return Verdict(site, False, int(why.check), why.check.slug, words, digest=digest)


def record_closing(store: Store, run: str, number: int, closing: Closing) -> None:
    """Record and log what closing a round changed of its verdicts, and of those of the round before.

    Args:
        store: Has a verdict on each site that answered.
        run: The run.
        number: The round.
        closing: What it came to.
    """
    harm = closing.harm
    if closing.judgement:
        record_judgement(store, run, number, closing.judgement)
    record_harm(store, run, number, harm.sites.intersection(closing.shares), harm.words())
    if closing.taken_back:
        record_harm(store, run, number - 1, closing.taken_back, f"taken back a round later: {harm.words()}")
    if closing.why:
        log.warning("round %d: %s: the adapter stays", number, closing.why)


def record_harm(store: Store, run: str, number: int, sites: Collection[str], words: str) -> None:
    """Record and log that sites were left out of a round because they make the model worse for others.

    Args:
        store: Has a verdict on each of them.
        run: The run.
        number: The round.
        sites: Who.
        words: Why.
    """
    for site in sorted(sites):
        log.warning("round %d: %s rejected by check %d: %s", number, site, Check.HARM, words)
    found = [
        replace(verdict, admitted=False, number=int(Check.HARM), check=Check.HARM.slug, reason=words)
        for verdict in store.verdicts(run, number)
        if verdict.site in sites
    ]
    store.rejudged(run, number, found)


def record_judgement(store: Store, run: str, number: int, judgement: Judgement) -> None:
    """Record and log what the judgement of a round changed, and the detector's p-values.

    Args:
        store: Has a verdict on each site that was judged.
        run: The run.
        number: The round.
        judgement: The round's.
    """
    known = {verdict.site: verdict for verdict in store.verdicts(run, number)}
    found = [finding for finding in judgement.findings.values() if finding.words]
    for finding in found:
        log.warning("round %d: %s by check %d: %s", number, finding.outcome, finding.check, finding.words)
    changed = [
        replace(known[f.site], admitted=not f.rejected, number=int(f.check), check=f.check.slug, reason=f.words)
        for f in found
    ]
    store.judged(run, number, changed, judgement.unsure)
    for finding in judgement.findings.values():
        if not math.isnan(finding.p_value):
            store.note(run, number, finding.site, {"p_value": finding.p_value, "score": finding.score})
