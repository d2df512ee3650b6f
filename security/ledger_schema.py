"""The tables of the ledger: SQL that keeps them append-only, whoever writes.

Triggers refuse every change and every removal, and every row that is not the next one, so that a fault of our own
cannot rewrite history quietly. They are no defence against somebody who has the file: proofs and witnesses are.

A leaf's hash stands beside its entry. A node above the leaves stands at its place in the order in which nodes become
complete, so that all tables grow at their end and nothing is ever moved: after ``n`` entries there are
``n - popcount(n)`` of them, whatever the size of the batches.
"""

from __future__ import annotations

import re

_APPEND_ONLY = """
CREATE TRIGGER IF NOT EXISTS {table}_unchanged BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS {table}_kept BEFORE DELETE ON {table}
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS {table}_next BEFORE INSERT ON {table} WHEN {wrong}
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""

TABLES = ("ledger_entries", "ledger_nodes", "ledger_keys", "ledger_checkpoints", "ledger_cosignatures")

# A row that is there already would be replaced by INSERT OR REPLACE without any trigger on DELETE: `wrong` keeps it.
_WRONG = {
    "ledger_entries": 'NEW."index" IS NOT (SELECT coalesce(max("index"), -1) + 1 FROM ledger_entries)',
    "ledger_nodes": "NEW.place IS NOT (SELECT coalesce(max(place), -1) + 1 FROM ledger_nodes)",
    "ledger_keys": "EXISTS (SELECT 1 FROM ledger_keys WHERE key = NEW.key)",
    "ledger_checkpoints": (
        "NEW.size <= (SELECT max(size) FROM ledger_checkpoints) "
        'OR NEW.size NOT BETWEEN 0 AND (SELECT coalesce(max("index"), -1) + 1 FROM ledger_entries)'
    ),
}

LEDGER_SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger_entries (
    "index" INTEGER PRIMARY KEY, hash BLOB NOT NULL CHECK (length(hash) = 32), entry BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS ledger_nodes (
    place INTEGER PRIMARY KEY, hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE TABLE IF NOT EXISTS ledger_keys (key TEXT PRIMARY KEY, "index" INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger_checkpoints (size INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ledger_cosignatures (
    size INTEGER NOT NULL REFERENCES ledger_checkpoints, name TEXT NOT NULL, line BLOB NOT NULL,
    PRIMARY KEY (size, name)
) STRICT, WITHOUT ROWID;
""" + "".join(_APPEND_ONLY.format(table=table, wrong=wrong) for table, wrong in _WRONG.items())
"""Makes what is not there yet."""

OBJECTS = {
    name: " ".join(sql.replace("IF NOT EXISTS ", "").split())
    for sql, name in re.findall(
        r"(CREATE (?:TABLE|TRIGGER) IF NOT EXISTS (\w+)[^;]*(?:;(?= END))?[^;]*);", LEDGER_SCHEMA
    )
}
"""Every table and trigger by name, as SQLite shows it, each run of white space a space."""
