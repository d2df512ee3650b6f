"""Whether a record holds: the ledger under its signatures, who it is by, and what its entries say beside each other.

The checks, in order:

1. The ledger: every hash made anew from the entries, every checkpoint and co-signature held to its key, nothing of it
   lost (:mod:`security.ledger_check`).
2. Every entry is one that this version knows, in its one writing.
3. The entries make sense one after the other (:mod:`security.audit.sense`).
4. They begin with the server and the authority that are believed, and name the roster that is believed.
5. Each adapter that is there is the one that its round ended with.

What is no fault but worth knowing comes as a remark: a co-signature that is missing, a clock that went back, a key that
nobody but the record itself vouches for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from common.errors import BottegaError, LedgerError
from security.audit.finding import Finding, counted, faults, remarks
from security.audit.record import Record
from security.audit.sense import Sense
from security.audit.trust import Trust
from security.chronicle import Line
from security.entries import Founded, RosterSigned, RoundClosed, read_entry
from security.ledger_check import LedgerCheck, verify


@dataclass
class Verification:
    """What was found.

    Attributes:
        check: Of the ledger.
        findings: All of them.
        witnesses: By active site, the size of the largest checkpoint that it co-signed; 0 where it co-signed none.
        adapters: How many were held to their rounds.
    """

    check: LedgerCheck
    findings: list[Finding] = field(default_factory=list)
    witnesses: dict[str, int] = field(default_factory=dict)
    adapters: int = 0

    @property
    def faults(self) -> list[Finding]:
        """What a sound record cannot have, by the entries that it is about."""
        return faults(self.findings)

    @property
    def remarks(self) -> list[Finding]:
        """What somebody should know, by the entries that it is about."""
        return remarks(self.findings)

    @property
    def holds(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    @property
    def holds_to(self) -> int:
        """How many entries there are before the first that a fault is about; of a fault about none, all of them."""
        named = [one.entry for one in self.faults if one.entry is not None]
        return min([*named, self.check.size])

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "holds": self.holds,
            "entries": self.check.size,
            "holds_to": self.holds_to,
            "root": self.check.root.hex(),
            "checkpoints": self.check.checkpoints,
            "covered_by_a_checkpoint": self.check.vouched,
            "cosigned_by": self.witnesses,
            "adapters": self.adapters,
            "faults": [one.facts() for one in self.faults],
            "remarks": [one.facts() for one in self.remarks],
        }


def verify_record(record: Record, seen: Iterable[bytes] = ()) -> Verification:
    """Check a whole record. What is wrong with it is found, not raised.

    Args:
        record: Open.
        seen: Checkpoints that somebody else was shown, as notes.
    """
    trust = record.trust
    check = verify(record.reader, trust.origin, trust.server[0], trust.witnesses, seen)
    told = Verification(check, list(check.findings))
    closed: dict[tuple[str, int], tuple[int, str]] = {}
    told.findings += counted(_entries(record, check.size, closed))
    told.findings += _witnesses(told, trust)
    told.findings += counted(_adapters(told, record, closed))
    if not trust.pinned:
        words = (
            "nobody but the record itself says that this is the server's key: compare it with what the operator or "
            "a member tells you, and give it with --key, or a member's home with --home"
        )
        told.findings.append(Finding("key-by-its-own-word", words, fault=False))
    return told


def _entries(record: Record, size: int, closed: dict[tuple[str, int], tuple[int, str]]) -> Iterator[Finding]:
    """Read all entries; remember which adapter each round ended with, and in which entry that stands."""
    sense, signed = Sense(), 0
    try:
        for index, data in enumerate(record.reader.entries(0, size)):
            try:
                line = Line(index, read_entry(data))
            except LedgerError as why:
                got = "" if why.got is None else f" ({why.got})"
                yield Finding("unreadable", f"entry {index} is none that this version knows: {why.what}{got}", index)
                yield Finding("not-read", "what entries say was not looked at from there on", index, fault=False)
                return
            yield from sense.read(line)
            yield from _believed(line, record.trust)
            if isinstance(line.entry, RosterSigned):
                signed = line.entry.version
            if isinstance(line.entry, RoundClosed) and line.entry.adapter:
                closed[line.entry.run, line.entry.round] = index, line.entry.adapter
    except LedgerError:
        return  # it cannot be read on, which the check of the ledger has told
    yield from sense.close()
    if size and signed < record.trust.roster.version:
        words = f"the last roster in the record is version {signed}; version {record.trust.roster.version} is known"
        yield Finding("roster-behind", words, fault=False)


def _believed(line: Line, trust: Trust) -> Iterator[Finding]:
    """Hold what the record says of its server, its authority and its roster to what is believed."""
    entry, index, known = line.entry, line.index, trust.roster_digest
    if isinstance(entry, Founded):
        if entry.key not in {key.raw.hex() for key in trust.server}:
            yield Finding("another-server", "the record begins with another server's key", index)
        if trust.authority is not None and entry.authority != trust.authority.digest.hex():
            yield Finding("another-authority", "the record begins with another authority's certificate", index)
    if isinstance(entry, RosterSigned) and entry.version == trust.roster.version and entry.digest != known:
        words = f"the record has another roster of version {entry.version} than the one that is known here"
        yield Finding("another-roster", words, index)


def _witnesses(told: Verification, trust: Trust) -> Iterator[Finding]:
    told.witnesses = {site: told.check.witnesses.get(name, 0) for name, site in sorted(trust.sites.items())}
    if told.check.size and told.witnesses and not any(told.witnesses.values()):
        yield Finding("no-witness", "no site has co-signed a checkpoint", fault=False)
    elif never := [site for site, size in told.witnesses.items() if not size and told.check.size]:
        yield Finding("witness-missing", f"{', '.join(never)} co-signed no checkpoint", fault=False)


def _adapters(told: Verification, record: Record, closed: dict[tuple[str, int], tuple[int, str]]) -> Iterator[Finding]:
    for (run, number), weights in sorted(record.adapters.items()):
        index, digest = closed.get((run, number), (None, ""))
        try:
            found = hashlib.sha256(weights()).hexdigest()
        except BottegaError as why:
            yield Finding("adapter-unreadable", f"the adapter of round {number} of {run}: {why.what}", index)
            continue
        told.adapters += 1
        if found != digest:
            words = (
                f"the adapter that lies here as that of round {number} of run {run} is not what the round ended with"
                if digest
                else f"an adapter lies here of round {number} of run {run}, of which the record knows none"
            )
            yield Finding("another-adapter", words, index)
