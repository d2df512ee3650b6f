"""Verdicts as the store keeps them: of a refusal by admission, and of what a round's judgement changed."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from security.admission import Refused
from server.store import Store, Verdict

if TYPE_CHECKING:
    from security.judgement import Judgement

log = logging.getLogger("bottega.rounds")


def refusal(site: str, why: Refused) -> Verdict:
    """Return the verdict on a site whose answer a check refused."""
    words = "; ".join(
        [why.what, *(f"{k} {v}" for k, v in (("got", why.got), ("expected", why.expected)) if v is not None)]
    )
    return Verdict(site, False, int(why.check), why.check.slug, words)


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
            store.note(run, number, finding.site, {"p_value": finding.p_value})
