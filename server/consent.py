"""What stands against the release of an adapter: public drawings that it draws worse, and sites that do not consent.

Before a release the adapter is tried on public drawings (``deploy/public_check.py``); one that was not tried may be
harmed. After its last round of training a run asks each site for a last look at the adapter (``client/final_look.py``
says what a site looks for). A site that did not answer may have objected, so no answer is no consent.
"""

from __future__ import annotations

from security.admission import Check
from security.entries import Checked
from server.store import Store


def taught_by(store: Store, run: str, number: int) -> list[str]:
    """Return the sites whose updates are in the adapter of a round, in alphabetical order.

    Args:
        store: Of the server.
        run: The run's id.
        number: The round whose adapter it is.
    """
    return sorted(
        {
            verdict.site
            for row in store.rounds(run)
            if row.outcome == "aggregated" and row.round <= number
            for verdict in store.verdicts(run, row.round)
            if verdict.admitted
        }
    )


def against_release(store: Store, run: str, number: int) -> list[str]:
    """Return what stands against releasing the adapter of a round, in words; nothing when it was tried and all looked.

    Args:
        store: Of the server.
        run: The run's id.
        number: The round whose adapter it is.
    """
    return [*against_by_check(store, run, number), *_against_by_sites(store, run, number)]


def deciding_check(store: Store, run: str, number: int) -> Checked | None:
    """Return the check of a round's adapter that counts: the last on drawings like the sites' own, if there was one.

    One on procedural drawings finds less, and so it lifts nothing that such a one found. None when there was none.
    """
    digest = {row.round: row.adapter_digest for row in store.rounds(run)}.get(number)
    told = [check for check in store.checks(run, number) if check.adapter == digest]
    return next((check for check in reversed(told) if check.alike), told[-1] if told else None)


def against_by_check(store: Store, run: str, number: int) -> list[str]:
    """Return what public drawings have against releasing the adapter of a round; it tells of no site."""
    check = deciding_check(store, run, number)
    if check is None:
        return ["it was not checked on public drawings"]
    return [check.words()] if check.worse else []


def _against_by_sites(store: Store, run: str, number: int) -> list[str]:
    rounds = store.rounds(run)
    taught = taught_by(store, run, number)
    look = next((row for row in rounds if row.work == "evaluate" and row.closed_at is not None), None)
    last = max((row.round for row in rounds if row.adapter_digest is not None), default=0)
    if look is None or number != last:
        return ["no site was asked to look at this round's adapter"] if taught else []
    said = {verdict.site: verdict for verdict in store.verdicts(run, look.round)}
    words = []
    for site in taught:
        verdict = said.get(site)
        if verdict is not None and verdict.check == Check.OBJECTION.slug:
            words.append(f"{site} objects")
        elif verdict is None or not verdict.admitted:
            words.append(f"{site} has not looked at it")
    return words
