"""Whether what the record tells of members makes sense: who joins once, leaves once, and never comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from security.audit.finding import Finding
from security.chronicle import Line
from security.entries import Joined, Reinstated, Restored, Revoked, RosterSigned, Rotated


@dataclass
class MembersSense:
    """Who belongs, by the entries so far.

    Attributes:
        joined: Entry of the joining, by SPIFFE id.
        revoked: Entry of the end, by SPIFFE id.
    """

    joined: dict[str, int] = field(default_factory=dict)
    revoked: dict[str, int] = field(default_factory=dict)
    _serials: dict[str, int] = field(default_factory=dict)
    _roster: int = 0

    def read(self, line: Line) -> Iterator[Finding]:
        """Take in the next entry; yield what is found."""
        entry, index = line.entry, line.index
        if isinstance(entry, Joined):
            if entry.member in self.joined:
                yield Finding("joined-twice", f"{entry.member} joins, and belonged already or once", index)
            self.joined.setdefault(entry.member, index)
        elif isinstance(entry, Revoked):
            yield from self._revoked(entry, index)
        elif isinstance(entry, Rotated):
            yield from self._rotated(entry, index)
        elif isinstance(entry, Reinstated) and entry.member not in self.joined:
            yield Finding("reinstated-stranger", f"{entry.member} is reinstated, and never joined", index)
        elif isinstance(entry, RosterSigned):
            if entry.version <= self._roster:
                words = f"roster {entry.version} is signed after roster {self._roster}"
                yield Finding("roster-backwards", words, index)
            self._roster = entry.version
        elif isinstance(entry, Restored):
            self._roster = min(self._roster, entry.roster - 1)

    def _revoked(self, entry: Revoked, index: int) -> Iterator[Finding]:
        if entry.member not in self.joined:
            yield Finding("revoked-stranger", f"{entry.member} is revoked, and never joined", index)
        if entry.member in self.revoked:
            yield Finding("revoked-twice", f"{entry.member} is revoked a second time", index)
        self.revoked.setdefault(entry.member, index)

    def _rotated(self, entry: Rotated, index: int) -> Iterator[Finding]:
        if entry.member not in self.joined:
            yield Finding("rotated-stranger", f"{entry.member} goes over to new keys, and never joined", index)
        if entry.serial != self._serials.get(entry.member, 0) + 1:
            yield Finding("rotation-missing", f"rotation {entry.serial} of {entry.member} does not follow", index)
        self._serials[entry.member] = entry.serial
