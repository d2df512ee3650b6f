"""Where in the ledger what stands: a table of places beside it, so that a page asks for the few entries that it shows.

The ledger is a log, and to find the entries of one run in a million others takes a table. It is made here by reading
each entry once, and kept in a temporary file of SQLite's own that nobody else can open: the ledger itself is never
written to. It holds names, kinds and places, and the hash that each entry had when it was read, so that an entry that
is another one later does not go unnoticed.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from security.entries import Entry, VerdictWord

KINDS: tuple[str, ...] = tuple(sorted(one.model_fields["kind"].default for one in get_args(Entry)))
"""The kinds of entries, as the table numbers them from 1; 0 is none of them."""

VERDICTS: tuple[str, ...] = get_args(VerdictWord)
"""The verdicts, as the table numbers them from 1."""

_KIND = {kind: number for number, kind in enumerate(KINDS, start=1)}
_VERDICT = {verdict: number for number, verdict in enumerate(VERDICTS, start=1)}
_FREQUENT = frozenset(_KIND[kind] for kind in ("round-closed", "round-opened", "update"))  # a run has many of these
_MEMBER = re.compile(r"spiffe://[a-z0-9.-]+/(site|operator|auditor|server)/([a-z0-9-]+)")
_MOST_NAME = 300
_MOST_NUMBER = 2**31

_SCHEMA = """
PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE; PRAGMA cache_size=-16384;
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE lines (
    place INTEGER PRIMARY KEY, kind INTEGER NOT NULL, run INTEGER, round INTEGER, who INTEGER, verdict INTEGER,
    rare INTEGER NOT NULL, leaf BLOB NOT NULL
);
CREATE INDEX lines_of_run ON lines (run, round, kind, who) WHERE run IS NOT NULL;
CREATE INDEX lines_of_kind ON lines (kind, place);
CREATE INDEX lines_of_who ON lines (who, run, kind, round, verdict) WHERE who IS NOT NULL;
CREATE INDEX lines_rare ON lines (run) WHERE rare AND run IS NOT NULL;
CREATE TABLE members (who INTEGER PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, first INTEGER NOT NULL);
CREATE INDEX members_in_order ON members (role, name);
CREATE TABLE runs (
    run INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL, round INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX runs_in_order ON runs (first);
CREATE TABLE parts (who INTEGER NOT NULL, run INTEGER NOT NULL, private INTEGER, PRIMARY KEY (who, run)) WITHOUT ROWID;
CREATE TABLE spent (who INTEGER PRIMARY KEY, private INTEGER NOT NULL);
CREATE INDEX parts_of_run ON parts (run, who);
"""


def kinds(*names: str) -> str:
    """Return kinds by their numbers, as JSON for ``json_each``."""
    return json.dumps([_KIND[name] for name in names])


_TAKES_PART = (
    "INSERT INTO parts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET private = coalesce(excluded.private, private)"
)


class Row(NamedTuple):
    """One entry as it was read: its place, its leaf's hash, and what its bytes mean, if they are a JSON object."""

    place: int
    leaf: bytes
    told: Mapping[str, Any]


def row(place: int, leaf: bytes, entry: bytes) -> Row:
    """Read an entry as far as the table needs it. Whether it is one, whoever shows it finds out."""
    try:
        told = json.loads(entry)
    except (ValueError, RecursionError):
        told = None
    return Row(place, leaf, told if isinstance(told, dict) else {})


class Places:
    """The table. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        self._names: dict[str, int] = {}

    def close(self) -> None:
        """Throw the table away."""
        with self._lock:
            self._db.close()

    def ask(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run SQL and return all rows."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def take(self, rows: Iterable[Row]) -> None:
        """Take in the next entries."""
        with self._lock:
            self._db.execute("BEGIN")
            for one in rows:
                self._take(one)
            self._db.execute("COMMIT")

    def leaves(self, places: Sequence[int]) -> dict[int, bytes]:
        """Return the hashes that entries had when they were read."""
        found = self.ask(
            "SELECT place, leaf FROM lines WHERE place IN (SELECT value FROM json_each(?))", json.dumps(list(places))
        )
        return dict(found)

    def _take(self, one: Row) -> None:
        told = one.told
        kind = _KIND.get(str(told.get("kind")), 0)
        run, number, who = self._id(told.get("run")), _number(told.get("round")), None
        member, site = told.get("member"), told.get("site")
        if isinstance(member, str):
            who = self._id(member)
            self._member(who, member, one.place)
        elif isinstance(site, str):
            who = self._id(site)
        verdict = _VERDICT.get(str(told.get("verdict")))
        values = (one.place, kind, run, number, who, verdict, kind not in _FREQUENT, one.leaf)
        self._db.execute("INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        if run is not None:
            self._run(one, run, number or 0, who)

    def _member(self, who: int | None, member: str, place: int) -> None:
        if who is not None and (named := _MEMBER.fullmatch(member)):
            self._db.execute("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?)", (who, named[1], named[2], place))

    def _run(self, one: Row, run: int, number: int, who: int | None) -> None:
        if one.told.get("kind") == "run-started":
            self._db.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, 0)", (run, one.place, one.place))
            asked = one.told.get("sites")
            for site in asked if isinstance(asked, list) else []:
                if (named := self._id(site)) is not None:
                    self._db.execute("INSERT OR IGNORE INTO parts VALUES (?, ?, NULL)", (named, run))
        elif one.told.get("kind") == "update" and who is not None:
            private = one.place if isinstance(one.told.get("privacy"), dict) else None
            self._db.execute(_TAKES_PART, (who, run, private))
            if private is not None:
                self._db.execute("INSERT OR REPLACE INTO spent VALUES (?, ?)", (who, private))
            return  # a round is opened before it has updates
        self._db.execute("UPDATE runs SET last = ?, round = max(round, ?) WHERE run = ?", (one.place, number, run))

    def known(self, name: str) -> int | None:
        """Return the number of a name that stands in the ledger; None where it does not."""
        rows = self.ask("SELECT id FROM names WHERE name = ?", name)
        return int(rows[0][0]) if rows else None

    def _id(self, name: object) -> int | None:
        """Return the number of a name; the same each time."""
        if not isinstance(name, str) or not 0 < len(name) <= _MOST_NAME or not name.isprintable():
            return None
        if name not in self._names:
            self._names[name] = len(self._names) + 1
            self._db.execute("INSERT INTO names VALUES (?, ?)", (self._names[name], name))
        return self._names[name]


def _number(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST_NUMBER else None
