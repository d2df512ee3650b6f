"""Names that the ledger's notes are signed under: C2SP wants them without a scheme, a space or a plus sign."""

from __future__ import annotations

from security.names import SpiffeId


def origin_of(federation: str) -> str:
    """Return the name of a federation's ledger: its checkpoints begin with it, and its server signs them under it."""
    return f"{federation}/bottega"


def cosigner_of(member: SpiffeId) -> str:
    """Return the name that a member co-signs checkpoints under: the SPIFFE id without its scheme."""
    return f"{member.federation}/{member.role}/{member.name}"
