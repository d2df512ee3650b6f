"""What the server writes into the ledger of its federation: one entry for everything that somebody may ask about later.

An entry is written in the transaction of what it tells of, so that none is without the other. The roster is a file of
its own, signed and kept first; what it says of members is written down after, each thing once, and whoever comes next
writes what a crash left out (:meth:`Journal.keep_up`).

Checkpoints are signed when somebody needs one: a round for its tasks, a member who asks.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from security.checkpoint import Checkpoint, sign_checkpoint
from security.database import Database
from security.entries import (
    Entry,
    Founded,
    Joined,
    Revoked,
    RosterSigned,
    Rotated,
    Update,
    moment,
    write_entry,
)
from security.ledger import LEDGER_SCHEMA, Reader, append, keep_checkpoint, keep_cosignature
from security.ledger_names import origin_of
from security.names import Role
from security.records import joined

if TYPE_CHECKING:
    from cryptography import x509

    from security.identity import Identity
    from security.member_keys import Keys
    from security.names import SpiffeId
    from security.roster import Roster
    from server.published import Published

SOFTWARE = f"bottega {importlib.metadata.version('bottega')}"
"""What entries say wrote them."""

_KEYS_DOMAIN = b"bottega/v1/member-keys\x00"


SCHEMA = (
    LEDGER_SCHEMA
    + """
CREATE TABLE IF NOT EXISTS update_places (
    entry INTEGER PRIMARY KEY, run TEXT NOT NULL, round INTEGER NOT NULL, site TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS update_places_run ON update_places (run, round);
CREATE INDEX IF NOT EXISTS update_places_site ON update_places (site);
"""
)
"""The ledger, and where in it entries about sites' answers are: only to find them, what they say is read there."""


def now() -> str:
    """Return this moment as entries have it."""
    return moment(time.time())


def write(db: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    """Write entries, in the caller's transaction.

    Raises:
        LedgerError: One is too long.
    """
    told = list(entries)
    indices = append(db, [write_entry(entry) for entry in told], [None] * len(told))
    answers = [
        (index, entry.run, entry.round, entry.site)
        for index, entry in zip(indices, told, strict=True)
        if isinstance(entry, Update)
    ]
    db.executemany("INSERT INTO update_places VALUES (?, ?, ?, ?)", answers)


class Journal(Database):
    """The ledger in the server's store; see :class:`~security.database.Database`."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, SCHEMA)

    @property
    def reader(self) -> Reader:
        """Reads what is written."""
        return Reader(self._read)

    def write(self, *entries: Entry) -> None:
        """Write entries that tell of nothing else in the store."""
        with self._write() as db:
            write(db, entries)

    def found(self, server: SpiffeId, key: bytes, authority: x509.Certificate) -> None:
        """Write that the federation begins, once.

        Args:
            server: Its name.
            key: Its Ed25519 public key, 32 bytes.
            authority: The certificate of the federation's authority.
        """
        digest = hashlib.sha256(authority.public_bytes(Encoding.DER)).hexdigest()
        entry = Founded(at=now(), server=str(server), authority=digest, key=key.hex(), software=SOFTWARE)
        with self._write() as db:
            append(db, [write_entry(entry)], ["founded"])

    def keep_up(self, published: Published) -> None:
        """Write what a roster says and the ledger does not yet."""
        keyed = [*_told_by(published.roster), _signed(published)]
        with self._write() as db:
            append(db, [write_entry(entry) for _, entry in keyed], [key for key, _ in keyed])

    def updates_of(self, run: str, number: int) -> list[tuple[int, str]]:
        """Return where the verdicts on the answers to a round are, with whose they are."""
        sql = "SELECT entry, site FROM update_places WHERE run=? AND round=? ORDER BY entry"
        return [(int(index), str(site)) for index, site in self._read(sql, run, number)]

    def updates_about(self, site: str, start: int, most: int) -> list[int]:
        """Return where the verdicts on a site's answers are, from an index on."""
        sql = "SELECT entry FROM update_places WHERE site=? AND entry>=? ORDER BY entry LIMIT ?"
        return [int(index) for (index,) in self._read(sql, site, start, most)]

    def cosigned_size(self, name: str) -> int:
        """Return the size of the largest checkpoint that a witness co-signed; 0 for none."""
        sql = "SELECT size FROM ledger_cosignatures WHERE name=? ORDER BY size DESC LIMIT 1"
        rows = self._read(sql, name)
        return int(rows[0][0]) if rows else 0

    def sizes_before(self, size: int, most: int) -> list[int]:
        """Return the sizes of the last checkpoints under a size."""
        sql = "SELECT size FROM ledger_checkpoints WHERE size>0 AND size<? ORDER BY size DESC LIMIT ?"
        return [int(one) for (one,) in self._read(sql, size, most)]

    def notes(self, above: int, most: int) -> list[bytes]:
        """Return checkpoints of sizes over one, by size, each with the lines of its witnesses."""
        sizes = self._read("SELECT size FROM ledger_checkpoints WHERE size>? ORDER BY size LIMIT ?", above, most)
        found = (self.reader.cosigned(int(size)) for (size,) in sizes)
        return [note for note in found if note is not None]

    def cosigned(self, size: int, lines: Mapping[str, bytes]) -> None:
        """Keep witnesses' lines, by name, on the checkpoint of a size."""
        with self._write() as db:
            for name, line in lines.items():
                keep_cosignature(db, size, name, line)

    def checkpoint(self, server: Identity) -> bytes:
        """Return a checkpoint of everything that is written: the last one, or a new one where there is more."""
        with self._write() as db:
            reader = Reader(lambda sql, *values: db.execute(sql, values).fetchall())
            latest, size = reader.latest_checkpoint(), reader.size()
            if latest is not None and latest.size == size:
                return latest.note
            fresh = Checkpoint(origin_of(server.id.federation), size, reader.root(size))
            note = sign_checkpoint(fresh, server.signing)
            keep_checkpoint(db, note)
            return note


def _told_by(roster: Roster) -> Iterator[tuple[str, Entry]]:
    """Yield what a roster says of its members, each with the key that makes it be written once."""
    at = now()
    for member in roster.members:
        if member.id.role is Role.SERVER:
            continue
        who, keys = str(member.id), roster.generations(member.id)
        yield f"joined {who}", Joined(at=at, member=who, keys=keys_digest(member.id, keys[0]))
        for serial, later in enumerate(keys[1:], start=1):
            yield (
                f"rotated {serial} {who}",
                Rotated(at=at, member=who, serial=serial, keys=keys_digest(member.id, later)),
            )
        if member.revocation is not None:
            yield f"revoked {who}", Revoked(at=at, member=who, reason=member.revocation.reason)


def _signed(published: Published) -> tuple[str, Entry]:
    version, digest = published.roster.version, hashlib.sha256(published.signed).hexdigest()
    return f"roster {version}", RosterSigned(at=now(), version=version, digest=digest)


def keys_digest(who: SpiffeId, keys: Keys) -> str:
    """Return SHA-256 (hex) of a member's name and the keys that the roster has of them."""
    parts = (str(who).encode(), keys.verify.raw, keys.sealing.raw, keys.supernode)
    return hashlib.sha256(joined(_KEYS_DOMAIN, *parts)).hexdigest()
