"""Keeping what a bundle brought: a home with a copy of the ledger, and with what says whom to believe."""

from __future__ import annotations

from pathlib import Path

from common.errors import LedgerError
from common.paths import MemberHome
from security.audit.mirror import Mirror, Synced
from security.audit.record import Record
from security.audit.source import ReaderSource
from security.files import PUBLIC, read_public, replace
from security.succession import keep_roster, load_roster


def move_in(record: Record, home: MemberHome, mirror: Mirror, evidence: Path) -> Synced:
    """Keep a record that was verified, in a new home or beside what a home knows of the federation already.

    Args:
        record: Open, from a bundle.
        home: Where; its folder exists.
        mirror: The home's copy of the ledger.
        evidence: The folder for checkpoints that contradict each other.

    Raises:
        ForkError: The record contradicts the copy.
        LedgerError: It is of another federation than the home.
        IdentityError: Its roster may not follow on the home's.
    """
    trust, server = record.trust, record.trust.roster.server.peer
    if home.authority_certificate.exists():
        known = read_public(home.authority_certificate, error=LedgerError)
        if known != trust.certificate:
            raise LedgerError(
                "the bundle is of another federation, or has another authority than this home",
                got=trust.federation, expected=f"what {home.authority_certificate.name} in the home says",
                advice="Import it into a folder of its own.",
            )  # fmt: skip
    synced = mirror.sync(ReaderSource(record.reader), trust, evidence)
    if not home.authority_certificate.exists():
        replace(home.authority_certificate, [trust.certificate], error=LedgerError, mode=PUBLIC)
    if not home.roster.exists() or load_roster(home.roster, server).version < trust.roster.version:
        keep_roster(home.roster, trust.signed_roster, server)
    if not home.pinned_server.exists():
        server.pin(home.pinned_server)  # last: its presence says that the home is whole
    return synced
