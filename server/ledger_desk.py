"""The desk of the ledger: what of it is shown to whom, and who has co-signed it.

A site is shown the latest checkpoint, the proof that it holds what the site co-signed last, and receipts of what is
written about its own answers, and about nobody else's. Auditors and operators are shown everything.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from common.errors import LedgerError
from common.proto import bottega_pb2 as pb
from security.checkpoint import cosigner_key, cosigners, read_checkpoint
from security.ledger import StoredCheckpoint
from security.ledger_names import cosigner_of
from security.names import SpiffeId
from security.note import NoteKey
from security.roster import Roster
from server.house import House
from server.journal import Journal

log = logging.getLogger("bottega.ledger")

MOST_RECEIPTS = 32
"""In one answer."""

MOST_ENTRIES = 1000
"""In one answer, and at the most :data:`MOST_BYTES` of them."""

MOST_BYTES = 2**21

MOST_UNSURE = 8
"""Checkpoints that a site may have seen without that the server heard of it."""

MOST_NOTES = 100
"""Checkpoints in one answer."""


@dataclass
class Showing:
    """One checkpoint, ready to be shown to each of many.

    Attributes:
        journal: Has the ledger.
        checkpoint: A signed note.
        size: Its ledger's.
        about: Indices of the entries that sites may have receipts of, by site.
    """

    journal: Journal
    checkpoint: bytes
    size: int
    about: dict[str, list[int]]

    def to(self, site: SpiffeId) -> pb.Shown:
        """Return what a site is shown, with proofs from what it co-signed last and from what it may have seen since."""
        known = self.journal.cosigned_size(cosigner_of(site))
        extra = [] if known in self._recent or not known else [self._growth(known)]
        return self._shown(site, [*extra, *self._recent.values()])

    def since(self, site: SpiffeId, known_size: int) -> pb.Shown:
        """Return what a member is shown who saw the ledger of a size; none of a size that it never had."""
        return self._shown(site, [self._growth(known_size)] if 0 < known_size <= self.size else [])

    def _shown(self, site: SpiffeId, growths: Sequence[pb.Growth]) -> pb.Shown:
        receipts = [self._receipt(index) for index in self.about.get(site.name, ())]
        return pb.Shown(checkpoint=self.checkpoint, growths=growths, receipts=receipts)

    @cached_property
    def _recent(self) -> dict[int, pb.Growth]:
        """From the checkpoints before: a site whose last answer was lost has seen one of them."""
        return {size: self._growth(size) for size in self.journal.sizes_before(self.size, MOST_UNSURE)}

    def _growth(self, size: int) -> pb.Growth:
        return pb.Growth(size=size, consistency=self.journal.reader.consistency(size, self.size))

    def _receipt(self, index: int) -> pb.Receipt:
        reader = self.journal.reader
        return pb.Receipt(entry=reader.entry(index), index=index, inclusion=reader.inclusion(index, self.size))


class LedgerDesk:
    """The desk of one server's ledger. Safe to use from several threads.

    Args:
        house: The server's home, opened.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._journal = Journal(house.home.database)

    def shown(self, run: str, number: int) -> Showing:
        """Return the latest checkpoint as the tasks of a run show it, with receipts of a round."""
        self._journal.keep_up(self._house.published)  # what a crash left out
        about: dict[str, list[int]] = {}
        for index, site in self._journal.updates_of(run, number):
            about.setdefault(site, []).append(index)
        return self._showing(about)

    def sign(self) -> None:
        """Sign a checkpoint of everything that is written."""
        self._journal.checkpoint(self._house.identity)

    def shown_to(self, member: SpiffeId, known_size: int, receipts_from: int) -> pb.Shown:
        """Return the latest checkpoint as the registry shows it to a member.

        Args:
            member: Who asks.
            known_size: Of the ledger that they saw last; 0 for none.
            receipts_from: A site gets receipts of entries from this index on.

        """
        indices = self._journal.updates_about(member.name, receipts_from, MOST_RECEIPTS)
        showing = self._showing({member.name: indices})
        return showing.since(member, known_size)

    def consistency(self, old: int, new: int) -> Sequence[bytes]:
        """Return the proof that the ledger of one size holds the ledger of another.

        Raises:
            LedgerError: The ledger never was of one of these sizes.
        """
        return self._journal.reader.consistency(old, new)

    def cosign(self, member: SpiffeId, size: int, line: bytes) -> None:
        """Keep a member's line on a checkpoint of a size.

        Raises:
            LedgerError: There is no such checkpoint, or the line is not by the member.
        """
        self._check_line(self._journal.reader.checkpoint(size), member, line)
        self._journal.cosigned(size, {cosigner_of(member): line})

    def cosigned_by(self, size: int, lines: Mapping[SpiffeId, bytes]) -> None:
        """Keep the lines that came with sites' updates; one that is of no use is told of and passed over.

        Args:
            size: Of the checkpoint that all of them were shown.
            lines: By site.
        """
        note, kept = self._journal.reader.checkpoint(size), dict[str, bytes]()
        for site, line in lines.items():
            try:
                self._check_line(note, site, line)
            except LedgerError as why:
                log.warning("the cosignature of %s is of no use: %s", site.name, why)
            else:
                kept[cosigner_of(site)] = line
        self._journal.cosigned(size, kept)

    def entries(self, start: int, count: int) -> list[bytes]:
        """Return entries from an index on, exact bytes; fewer than asked for where they would be long."""
        reader = self._journal.reader
        return _bounded(reader.entries(start, min(reader.size(), start + min(count, MOST_ENTRIES))))

    def checkpoints(self, above: int) -> list[bytes]:
        """Return checkpoints of sizes over one, by size, with the lines of all who co-signed; a hundred at the most."""
        self._journal.checkpoint(self._house.identity)
        return _bounded(self._journal.notes(above, MOST_NOTES))

    def _check_line(self, checkpoint: StoredCheckpoint | None, member: SpiffeId, line: bytes) -> None:
        if checkpoint is None:
            raise LedgerError("there is no checkpoint of this size")
        name = cosigner_of(member)
        if name not in cosigners(checkpoint.note + line, witnesses(self._house.roster, member)):
            raise LedgerError("a cosignature is not by the member who brings it", expected=name)

    def _showing(self, about: dict[str, list[int]]) -> Showing:
        note = self._journal.checkpoint(self._house.identity)
        return Showing(self._journal, note, read_checkpoint(note).size, about)


def _bounded(parts: Iterable[bytes]) -> list[bytes]:
    """Return parts up to what one answer may hold, and one at the least."""
    found: list[bytes] = []
    length = 0
    for part in parts:
        length += len(part)
        if found and length > MOST_BYTES:
            break
        found.append(part)
    return found


def witnesses(roster: Roster, member: SpiffeId) -> list[NoteKey]:
    """Return the keys by which a member's cosignatures are known: all that the roster ever had of them."""
    return [cosigner_key(cosigner_of(member), keys.verify) for keys in roster.generations(member)]
