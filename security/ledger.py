"""The ledger: an append-only log of entries in SQLite, and the tree of RFC 6962 over them.

Entries are written in a transaction of the caller's, so that an entry and the thing that it tells of are kept together
or not at all. Nothing is remembered between two calls: several processes append to one file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from common.errors import LedgerError
from security.checkpoint import read_checkpoint
from security.ledger_schema import LEDGER_SCHEMA
from security.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    Frontier,
    Nodes,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
)
from security.note import read_line

__all__ = ["LEDGER_SCHEMA", "Query", "Reader", "StoredCheckpoint", "append", "keep_checkpoint", "keep_cosignature"]

MOST_ENTRY_BYTES = 2**20
"""The longest entry that the log takes, whatever it is: what is read at once has a bound."""

PAGE = 64
"""Rows that are read at once."""

T = TypeVar("T")

Query = Callable[..., list[tuple[Any, ...]]]
"""Runs SQL with its values and returns all rows."""

_MOST_VALUES = 500
"""Values of one statement; SQLite takes 999 of them at least."""

_SIZE = 'SELECT coalesce(max("index"), -1) + 1 FROM ledger_entries'
_HASHES = (
    'SELECT 0, "index", hash FROM ledger_entries WHERE "index" IN ({}) '
    "UNION ALL SELECT 1, place, hash FROM ledger_nodes WHERE place IN ({})"
)
_ENTRY = 'SELECT entry FROM ledger_entries WHERE "index" = ?'
_ENTRIES = 'SELECT "index", entry FROM ledger_entries WHERE "index" >= ? AND "index" < ? ORDER BY "index" LIMIT ?'
_CHECKPOINTS = "SELECT size, note FROM ledger_checkpoints WHERE size > ? ORDER BY size LIMIT ?"


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint as it is kept: the size that it says, and the note, signed by the server alone."""

    size: int
    note: bytes


def append(db: sqlite3.Connection, entries: Sequence[bytes], keys: Sequence[str | None]) -> list[int]:
    """Write entries at the end, in the caller's transaction.

    Args:
        db: Holds a transaction.
        entries: In order.
        keys: One for each: what makes an entry be written once, or None. An entry whose key is known is passed over.

    Returns:
        The places of those that were written, from 0.

    Raises:
        LedgerError: An entry is too long, there is no transaction, or the ledger is damaged.
    """
    if not db.in_transaction:
        raise LedgerError("the ledger is written in a transaction only", advice="This is a fault of the program.")
    with _told():
        fresh = _fresh(db, entries, keys)
        if not fresh:
            return []
        reader = Reader(lambda sql, *values: db.execute(sql, values).fetchall())
        first = reader.size()
        frontier, leaves, nodes = reader.over(partial(Frontier, first)), [], []
        for index, (entry, _) in enumerate(fresh, first):
            leaf = leaf_hash(entry)
            leaves.append((index, leaf, entry))
            nodes += frontier.append(leaf)
        known = [(key, index) for index, (_, key) in enumerate(fresh, first) if key is not None]
        places = enumerate((node.hash for node in nodes), _nodes_before(first))
        db.executemany("INSERT INTO ledger_entries VALUES (?, ?, ?)", leaves)
        db.executemany("INSERT INTO ledger_nodes VALUES (?, ?)", places)
        db.executemany("INSERT INTO ledger_keys VALUES (?, ?)", known)
        return list(range(first, first + len(fresh)))


def keep_checkpoint(db: sqlite3.Connection, note: bytes) -> None:
    """Keep a checkpoint that the server signed, in the caller's transaction; one that is kept already is passed over.

    Raises:
        LedgerError: It is no checkpoint, or not of this ledger: of another root or another text than was signed before
            of this size, or behind a larger one.
    """
    checkpoint = read_checkpoint(note)
    with _told():
        reader = Reader(lambda sql, *values: db.execute(sql, values).fetchall())
        kept = reader.checkpoint(checkpoint.size)
        if kept is not None and read_checkpoint(kept.note) == checkpoint:
            return
        if kept is not None or reader.root(checkpoint.size) != checkpoint.root:
            raise LedgerError("a checkpoint is not of this ledger", got=f"another root of {checkpoint.size} entries")
        latest = reader.latest_checkpoint()
        if latest is not None and latest.size > checkpoint.size:
            raise LedgerError(
                "a checkpoint comes too late", got=f"{checkpoint.size} entries", expected=f"more than {latest.size}"
            )
        db.execute("INSERT INTO ledger_checkpoints VALUES (?, ?)", (checkpoint.size, note))


def keep_cosignature(db: sqlite3.Connection, size: int, name: str, line: bytes) -> None:
    """Keep what a witness says of a kept checkpoint, in the caller's transaction; the first that it said stays.

    Args:
        db: Holds a transaction.
        size: Of the checkpoint.
        name: Of the witness.
        line: Its line, which the caller has verified (:func:`security.checkpoint.cosigners`).

    Raises:
        LedgerError: It is no line of that name, or there is no such checkpoint.
    """
    if read_line(line).name != name:
        raise LedgerError("a cosignature is of another witness", got=read_line(line).name, expected=name)
    with _told():
        if not db.execute("SELECT 1 FROM ledger_checkpoints WHERE size = ?", (size,)).fetchall():
            raise LedgerError("a cosignature is of no checkpoint that is kept here", got=f"{size} entries")
        db.execute("INSERT OR IGNORE INTO ledger_cosignatures VALUES (?, ?, ?)", (size, name, bytes(line)))


class Reader:
    """Reads a ledger. What it returns is what is there; whether it holds, :mod:`security.ledger_check` says.

    Every method raises :class:`LedgerError` where the file cannot be read, or has not got what must be there.

    Args:
        query: Runs SQL, such as ``lambda sql, *values: db.execute(sql, values).fetchall()``.
    """

    def __init__(self, query: Query) -> None:
        self._query = query

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run SQL and return all rows."""
        with _told(), _cannot_wait():
            return self._query(sql, *values)

    def size(self) -> int:
        """Return how many entries there are."""
        return int(self.rows(_SIZE)[0][0])

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the tree of the first ``size`` entries; of all when left out."""
        return self.over(partial(root_of, self._within(self.size() if size is None else size)))

    def entry(self, index: int) -> bytes:
        """Return one entry."""
        rows = self.rows(_ENTRY, index) if 0 <= index < 2**63 else []
        if not rows:
            raise LedgerError("the ledger has no such entry", got=index, expected=f"one under {self.size()}")
        return _bytes(rows[0][0])

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield entries from ``start`` up to ``stop`` (not with it), or to the end; a page at a time."""
        end = self.size() if stop is None else stop
        while start < end:
            page = self.rows(_ENTRIES, start, end, PAGE)
            for index, entry in page:
                if index != start:
                    raise _missing(f"entry {start}")
                yield _bytes(entry)
                start += 1
            if not page:
                raise _missing(f"entry {start}")

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the proof that an entry is in the ledger of the first ``size`` entries."""
        return self.over(partial(inclusion_proof, index, self._within(size)))

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the ledger of the first ``new`` entries begins with that of the first ``old``."""
        return self.over(partial(consistency_proof, old, self._within(new)))

    def latest_checkpoint(self) -> StoredCheckpoint | None:
        """Return the checkpoint of the largest size; None when none is kept."""
        rows = self.rows("SELECT size, note FROM ledger_checkpoints ORDER BY size DESC LIMIT 1")
        return StoredCheckpoint(int(rows[0][0]), _bytes(rows[0][1])) if rows else None

    def checkpoint(self, size: int) -> StoredCheckpoint | None:
        """Return the checkpoint of a size; None when none is kept."""
        rows = self.rows("SELECT note FROM ledger_checkpoints WHERE size = ?", size) if 0 <= size < 2**63 else []
        return StoredCheckpoint(size, _bytes(rows[0][0])) if rows else None

    def checkpoints(self) -> Iterator[StoredCheckpoint]:
        """Yield all checkpoints by size, a page at a time."""
        last = -1
        while page := self.rows(_CHECKPOINTS, last, PAGE):
            for size, note in page:
                if size <= last:  # in a damaged file rows may stand in any order, and a page begin anew for ever
                    raise _missing("the order of its checkpoints")
                yield StoredCheckpoint(size, _bytes(note))
                last = size

    def cosignatures(self, size: int) -> dict[str, bytes]:
        """Return the lines of the witnesses of a checkpoint, by name."""
        rows = self.rows("SELECT name, line FROM ledger_cosignatures WHERE size = ? ORDER BY name", size)
        return {str(name): _bytes(line) for name, line in rows}

    def cosigned(self, size: int) -> bytes | None:
        """Return the checkpoint of a size with the lines of its witnesses, as one note; None when none is kept."""
        kept = self.checkpoint(size)
        return b"".join([kept.note, *self.cosignatures(size).values()]) if kept else None

    def over(self, make: Callable[[Nodes], T]) -> T:
        """Return what is made from nodes of the tree, as they are kept; all are looked up by one query.

        Args:
            make: Called twice: first to learn which nodes it asks for, whatever they are.
        """
        asked: list[tuple[int, int]] = []

        def learn(level: int, number: int) -> bytes:
            asked.append((level, number))
            return EMPTY_ROOT

        make(learn)
        leaves = [number for level, number in asked if not level]
        places = [_place(level, number) for level, number in asked if level]
        sql = _HASHES.format(*(", ".join("?" * len(some)) for some in (leaves, places)))
        found = {(above, at): kept for above, at, kept in self.rows(sql, *leaves, *places)}

        def node(level: int, number: int) -> bytes:
            kept = found.get((1, _place(level, number)) if level else (0, number))
            if not isinstance(kept, bytes) or len(kept) != HASH_BYTES:
                raise _missing(f"a hash over entry {number << level}")
            return kept

        return make(node)

    def _within(self, size: int) -> int:
        there = self.size()
        if not 0 <= size <= there:
            raise LedgerError("the ledger does not reach so far", got=f"{size} entries", expected=f"at most {there}")
        return size


def _nodes_before(size: int) -> int:
    """Return how many nodes above the leaves the first ``size`` entries complete."""
    return size - size.bit_count()


def _place(level: int, number: int) -> int:
    """Return the place of a node above the leaves in the order in which nodes become complete."""
    return _nodes_before(((number + 1) << level) - 1) + level - 1


def _fresh(
    db: sqlite3.Connection, entries: Sequence[bytes], keys: Sequence[str | None]
) -> list[tuple[bytes, str | None]]:
    """Return the entries that are to be written, with their keys: of those with one key, the first."""
    asked = [key for key in keys if key is not None]
    known: set[str] = set()
    for start in range(0, len(asked), _MOST_VALUES):
        some = asked[start : start + _MOST_VALUES]
        sql = f"SELECT key FROM ledger_keys WHERE key IN ({', '.join('?' for _ in some)})"  # noqa: S608 (question marks)
        known |= {key for (key,) in db.execute(sql, some)}
    fresh: list[tuple[bytes, str | None]] = []
    for entry, key in zip(entries, keys, strict=True):
        if len(entry) > MOST_ENTRY_BYTES:
            raise LedgerError(
                "an entry is too long for the ledger", got=f"{len(entry)} bytes", expected=f"at most {MOST_ENTRY_BYTES}"
            )
        if key is not None:
            if key in known:
                continue
            known.add(key)
        fresh.append((bytes(entry), key))
    return fresh


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise _missing("bytes that should be there")
    return value


def _missing(what: str) -> LedgerError:
    return LedgerError("the ledger has lost something", got=f"not {what}")


@contextmanager
def _told() -> Iterator[None]:
    """Say of a damaged file that it is; a lock or a full disk is for the caller, who holds the transaction."""
    try:
        yield
    except sqlite3.OperationalError:
        raise
    except (sqlite3.Error, UnicodeError, OverflowError, MemoryError) as cause:  # Unicode: in a message of SQLite's own
        raise LedgerError("the ledger's file is damaged", got=str(cause) or type(cause).__name__) from cause


@contextmanager
def _cannot_wait() -> Iterator[None]:
    """Say of a read why it did not succeed, whatever the reason."""
    try:
        yield
    except sqlite3.OperationalError as cause:
        raise LedgerError(
            "the ledger cannot be read", got=str(cause), expected="an SQLite file of bottega that nobody holds",
            advice="End the process that holds it, if one does; else name the file or home that has the ledger.",
        ) from cause  # fmt: skip
