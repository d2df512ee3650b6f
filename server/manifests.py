"""The manifest of an adapter that is being released, made of what the server's store and ledger say of it."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path, PurePath

from pydantic import ValidationError

from common.errors import ProvenanceError, RunError
from security.entries import MOST_WORDS, moment
from security.ledger_names import origin_of
from security.manifest import (
    MANIFEST,
    VKEY,
    AdapterFacts,
    BaseFacts,
    DrawingPrivacy,
    Manifest,
    SitePrivacy,
    Taught,
    files_in,
    sign_manifest,
)
from security.note import NoteKey
from security.pseudonyms import pseudonyms, renamed
from security.run_order import RunOrder
from server.consent import against_by_check, taught_by
from server.house import House
from server.journal import SOFTWARE, Journal
from server.store import RoundRow, Store

NOT_ALL_AGREE = "not every site whose update is in it has looked at it and let it pass"
"""What stands against a release where sites are protected as a whole: not which of them, nor how many."""


def write_manifest(
    house: House,
    store: Store,
    order: RunOrder,
    row: RoundRow,
    folder: Path,
    *,
    against: Collection[str] = (),
    despite: str = "",
    named: Collection[str] = (),
) -> None:
    """Write the signed manifest of an adapter, and the key that it is signed by, beside the adapter's files.

    Args:
        house: The server's.
        store: Of the house.
        order: Of the run.
        row: The round whose adapter it is.
        folder: Where the adapter's files are, all of them.
        against: What stands against the release.
        despite: Why it is released all the same; empty where nothing stands against it.
        named: Sites that agreed to be named; the others get pseudonyms.

    Raises:
        RunError: A site is to be named that the run did not ask.
        ProvenanceError: The manifest would be too long, or something of the run does not go into one.
        OSError: A file cannot be read or written.
    """
    if strange := sorted(set(named) - set(order.sites)):
        raise RunError(
            "a site is to be named that this run did not ask", got=strange[0], expected=f"of {', '.join(order.sites)}",
            advice="Name sites as `bottega run show RUN` does.",
        )  # fmt: skip
    # Whoever gets the adapter gets this too, and may not learn from it what the noise in the adapter hides.
    hidden = bool(order.settings.site_privacy)
    called = pseudonyms(set(order.sites) - set(named), order.run, house.identity.signing)
    try:
        told = Manifest(
            federation=house.settings.federation,
            released_at=moment(time.time()),
            software=SOFTWARE,
            run=order.run,
            round=row.round,
            rounds=sum(one.outcome == "aggregated" and one.round <= row.round for one in store.rounds(order.run)),
            rounds_ordered=order.settings.rounds,
            base=BaseFacts(name=_plain(_public(order.settings.base)), digest=order.base_digest),
            adapter=_adapter(order, str(row.adapter_digest)),
            taught=None if hidden else _called(taught_by(store, order.run, row.round), called),
            asked=_called(sorted(order.sites), called) if hidden else None,
            privacy=_of_drawings(order),
            site_privacy=_of_sites(order),
            against=_against(against, called, against_by_check(store, order.run, row.round), hidden=hidden),
            despite=renamed(_plain(despite[:MOST_WORDS]), called) or None,
            checkpoint=_checkpoint(house),
            files=files_in(folder),
        )
    except ValidationError as cause:
        raise ProvenanceError(
            "something of this run does not go into a manifest", got=cause.errors(include_url=False)[0]["loc"][0],
            advice="Nothing was released. Order a run with settings in plain words.",
        ) from None  # fmt: skip
    (folder / MANIFEST).write_bytes(sign_manifest(told, house.identity))
    key = NoteKey(origin_of(house.settings.federation), house.identity.signing.public)
    (folder / VKEY).write_text(f"{key}\n", "utf-8")


def _plain(text: str) -> str:
    """Return a text on one line, with a space for what cannot be seen."""
    return "".join(c if c.isprintable() else " " for c in text)


def _public(base: str) -> str:
    """Return what a run's settings call a base, less where it lies on a machine of the federation's."""
    return PurePath(base).name if PurePath(base).is_absolute() else base[:200]


def _adapter(order: RunOrder, digest: str) -> AdapterFacts:
    lora = order.settings.lora
    return AdapterFacts(method=lora.method, rank=lora.rank, targets=lora.targets, digest=digest)


def _against(
    against: Collection[str], called: dict[str, str], by_check: Collection[str], *, hidden: bool
) -> tuple[str, ...]:
    if hidden:  # what public drawings have against it tells of no site
        return (*by_check, NOT_ALL_AGREE) if set(against) - set(by_check) else tuple(by_check)
    return tuple(renamed(words, called)[:MOST_WORDS] for words in against)


def _called(sites: Collection[str], called: dict[str, str]) -> tuple[Taught, ...]:
    named = [Taught(name=site) for site in sites if site not in called]
    # In the order of the pseudonyms: that of the names would say something about them.
    return (*named, *(Taught(pseudonym=one) for one in sorted(called[site] for site in sites if site in called)))


def _of_drawings(order: RunOrder) -> DrawingPrivacy | None:
    asked = order.settings.privacy
    return DrawingPrivacy(unit=asked.unit, epsilon=asked.epsilon, delta=asked.delta) if asked else None


def _of_sites(order: RunOrder) -> SitePrivacy | None:
    asked = order.settings.site_privacy
    return SitePrivacy(epsilon=asked.epsilon, delta=asked.delta) if asked else None


def _checkpoint(house: House) -> str:
    with Journal(house.home.database) as journal:
        return journal.checkpoint(house.identity).decode()
