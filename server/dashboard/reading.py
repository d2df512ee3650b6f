"""The read model: what a page asks of the ledger, in queries whose cost does not grow with the ledger.

A page names the few entries that it shows (:mod:`server.dashboard.places`), reads those alone, and tells a chronicle of
them. Each is hashed again when it is read: one that is not what was written is told of as such.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from common.errors import LedgerError
from security.chronicle import Line
from security.entries import Entry, read_entry
from security.ledger import Reader
from security.merkle import leaf_hash
from server.dashboard.places import KINDS, Places, kinds

if TYPE_CHECKING:
    import sqlite3

PAGE = 100
"""Entries, and members, on one page."""

_REMEMBERED = 8192
_SHOWN = (
    'SELECT "index", hash, entry FROM ledger_entries WHERE "index" IN (SELECT value FROM json_each(?)) ORDER BY "index"'
)
_LATEST = "SELECT place FROM lines WHERE place < ? ORDER BY place DESC LIMIT ?"
_LATEST_OF = "SELECT place FROM lines WHERE kind = ? AND place < ? ORDER BY place DESC LIMIT ?"


class UnknownError(LedgerError):
    """A page asks for something that the ledger does not tell of."""

    advice = "Look it up in the list that it should be in."


@dataclass(frozen=True)
class Shown:
    """One entry that a page shows.

    Attributes:
        index: Its place.
        data: Its bytes.
        entry: What they mean; None where this version knows no such entry.
        same: Whether it is what was written, by the hash beside it, and what it was when the ledger was read through.
    """

    index: int
    data: bytes
    entry: Entry | None
    same: bool


@dataclass(frozen=True)
class Paged:
    """How a list goes on: which page this is, from 0, and how many there are."""

    number: int
    count: int

    @classmethod
    def of(cls, number: int, items: int, size: int) -> Self:
        """Return the page nearest to a wanted one."""
        count = max(1, -(-items // size))
        return cls(min(max(number, 0), count - 1), count)


class Reading:
    """Reads one ledger. Safe to use from several threads.

    Args:
        db: The ledger's file, open for reading (:meth:`server.dashboard.ledger_file.LedgerFile.open`).
        places: Where what stands, as far as it was read through.
        doubt: Is told the place of an entry that is not what was written.
    """

    def __init__(self, db: sqlite3.Connection, places: Places, doubt: Callable[[int], None]) -> None:
        self.places = places
        self._doubt = doubt
        self._lock = threading.Lock()
        self._db = db
        self.reader = Reader(self.query)
        self._meanings: dict[bytes, Entry | None] = {}

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run SQL on the ledger's file and return all rows."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def show(self, places: Iterable[int]) -> list[Shown]:
        """Return entries by their places, in the order of the ledger; a place where nothing is, is passed over."""
        wanted = sorted(set(places))
        then = self.places.leaves(wanted)
        rows = self.reader.rows(_SHOWN, json.dumps(wanted))
        return [self._shown(index, bytes(data), (kept, then.get(index, kept))) for index, kept, data in rows]

    def lines(self, places: Iterable[int]) -> list[Line]:
        """Return those of some entries that can be read, in order."""
        return [Line(one.index, one.entry) for one in self.show(places) if one.entry is not None]

    def latest(self, before: int | None = None, kind: str | None = None, most: int = PAGE) -> list[Shown]:
        """Return the last entries, the last first: before a place, and of one kind, if one is given."""
        end = before if before is not None else 2**62
        if kind in KINDS:
            found = self.places.ask(_LATEST_OF, json.loads(kinds(kind))[0], end, most)
        else:
            found = self.places.ask(_LATEST, end, most)
        return self.show(first(found))[::-1]

    def _shown(self, index: int, data: bytes, hashes: tuple[bytes, bytes]) -> Shown:
        leaf = leaf_hash(data)
        same = hashes == (leaf, leaf)
        if not same:
            self._doubt(index)
        if leaf not in self._meanings:
            if len(self._meanings) >= _REMEMBERED:
                self._meanings.clear()
            self._meanings[leaf] = _meaning(data)
        return Shown(index, data, self._meanings[leaf], same)


def first(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return the first column of rows."""
    return [one[0] for one in rows]


def _meaning(data: bytes) -> Entry | None:
    try:
        return read_entry(data)
    except LedgerError:
        return None
