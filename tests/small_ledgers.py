"""Small ledgers for tests of the log itself: entries are any bytes, one server signs, and witnesses cosign."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from security.checkpoint import Checkpoint, cosign, cosigner_key, sign_checkpoint
from security.database import Database
from security.keys import SigningKey
from security.ledger import LEDGER_SCHEMA, Reader, append, keep_checkpoint, keep_cosignature
from security.ledger_check import LedgerCheck, verify

ORIGIN = "atelier.example/bottega"
SERVER, MALLORY = SigningKey(bytes([1]) * 32), SigningKey(bytes([2]) * 32)
WITNESSES = {
    "atelier.example/site/prado": SigningKey(bytes([3]) * 32),
    "atelier.example/site/uffizi": SigningKey(bytes([4]) * 32),
}
WITNESS_KEYS = [cosigner_key(name, key.public) for name, key in WITNESSES.items()]


class Log(Database):
    """A ledger in a file of its own, written as the server's store writes it."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, LEDGER_SCHEMA + "CREATE TABLE IF NOT EXISTS things (thing TEXT NOT NULL) STRICT;")

    @property
    def reader(self) -> Reader:
        return Reader(self._read)

    def write(self, *entries: bytes, keys: Sequence[str | None] | None = None) -> list[int]:
        """Append entries in one transaction."""
        with self._write() as db:
            return append(db, entries, keys if keys is not None else [None] * len(entries))

    def write_with(self, thing: str, entry: bytes, trouble: Exception | None = None) -> None:
        """Append an entry together with what it tells of; then run into trouble, if there is any."""
        with self._write() as db:
            db.execute("INSERT INTO things VALUES (?)", (thing,))
            append(db, [entry], [None])
            if trouble is not None:
                raise trouble

    def things(self) -> list[str]:
        return [thing for (thing,) in self._read("SELECT thing FROM things")]

    def sign(self, key: SigningKey = SERVER, by: Sequence[str] = ()) -> bytes:
        """Keep a checkpoint of everything, cosigned by witnesses; return the note without their lines."""
        size = self.reader.size()
        note = sign_checkpoint(Checkpoint(ORIGIN, size, self.reader.root(size)), key)
        with self._write() as db:
            keep_checkpoint(db, note)
            for name in by:
                keep_cosignature(db, size, name, cosign(note, name, WITNESSES[name], 1_700_000_000 + size))
        return note

    def check(self, seen: Sequence[bytes] = ()) -> LedgerCheck:
        return verify(self.reader, ORIGIN, SERVER.public, WITNESS_KEYS, seen)


def entry(number: int, length: int = 60) -> bytes:
    """Return an entry that is like no other, of a length or a little more."""
    return (b'{"at":%d,"kind":"test","words":"' % number).ljust(length, b"x") + b'"}'


def build(file: Path, size: int = 20, every: int = 5) -> list[bytes]:
    """Make a ledger with a checkpoint after every few entries, each cosigned by both witnesses; return its entries."""
    entries = [entry(number) for number in range(size)]
    with Log(file) as log:
        for start in range(0, size, every):
            log.write(*entries[start : start + every])
            log.sign(by=list(WITNESSES))
    return entries


def check(file: Path, seen: Sequence[bytes] = ()) -> LedgerCheck:
    """Check the ledger in a file, whatever the file is."""
    with reading(file) as reader:
        return verify(reader, ORIGIN, SERVER.public, WITNESS_KEYS, seen)


@contextmanager
def reading(file: Path) -> Iterator[Reader]:
    """Open a ledger's file as somebody does who has been handed it."""
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        yield Reader(lambda sql, *values: db.execute(sql, values).fetchall())
