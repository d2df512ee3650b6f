"""Figures of the server's store, read without writing to it: for metrics, for the status and for the doctor."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.errors import RunError

ROUND_SECONDS = (1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""Upper bounds of the classes that the lengths of rounds are counted in, seconds."""


@dataclass(frozen=True)
class Lengths:
    """How long rounds took.

    Attributes:
        up_to: For each bound of :data:`ROUND_SECONDS` how many took at most that.
        count: How many there are.
        total: Seconds of all of them together.
    """

    up_to: tuple[int, ...]
    count: int
    total: float


@dataclass(frozen=True)
class Figures:
    """What the store holds, counted.

    Attributes:
        applicants: Role, name and status of everybody who ever asked to join.
        runs: How many, by status.
        last: Id and status of the runs, the latest first, three at the most.
        rounds: How many, by outcome.
        verdicts: How many, by site and check; ``admitted`` for updates that passed.
        lengths: Of the rounds that have closed.
        newest_s: The latest moment that is written anywhere, Unix time in seconds; 0 when nothing is.
    """

    applicants: tuple[tuple[str, str, str], ...]
    runs: dict[str, int]
    last: tuple[tuple[str, str], ...]
    rounds: dict[str, int]
    verdicts: dict[tuple[str, str], int]
    lengths: Lengths
    newest_s: float


def read_figures(file: Path) -> Figures:
    """Count what the store holds; a store that is not made yet holds nothing.

    Raises:
        RunError: It is damaged, or cannot be read.
    """
    with _reading(file) as db:
        return Figures(
            applicants=tuple(db("SELECT role, name, status FROM applicants ORDER BY role, name", "applicants")),
            runs=dict(db("SELECT status, count(*) FROM runs GROUP BY status", "runs")),
            last=tuple(db("SELECT run, status FROM runs ORDER BY started_at DESC LIMIT 3", "runs")),
            rounds=dict(db("SELECT outcome, count(*) FROM rounds GROUP BY outcome", "rounds")),
            verdicts={
                (site, check): count
                for site, check, count in db('SELECT site, "check", count(*) FROM verdicts GROUP BY 1, 2', "verdicts")
            },
            lengths=_lengths(db),
            newest_s=_newest(db),
        )


def damage(file: Path) -> str:
    """Return what SQLite finds wrong with the whole file; empty when it is sound, or not made yet.

    Raises:
        RunError: It cannot be read at all.
    """
    with _reading(file) as db:
        found = [str(words) for (words,) in db("PRAGMA integrity_check(3)")]
    return "" if found in ([], ["ok"]) else "; ".join(found)


class _Reader:
    """Reads from tables that may not be made yet."""

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection
        made = connection.execute("SELECT name FROM sqlite_master WHERE type='table'") if connection else ()
        self._made = {name for (name,) in made}

    def __call__(self, sql: str, table: str | None = None) -> list[tuple[Any, ...]]:
        if self._connection is None or (table is not None and table not in self._made):
            return []
        return self._connection.execute(sql).fetchall()


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[_Reader]:
    """Open the store for reading alone."""
    if not file.exists():
        yield _Reader(None)
        return
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=5)) as connection:
            yield _Reader(connection)
    except sqlite3.Error as cause:
        raise RunError(
            "the server's store cannot be read", got=str(cause), expected="a sound SQLite file of bottega",
            advice="Stop the server, move bottega.db aside and restore it from a backup.",
        ) from None  # fmt: skip


def _lengths(db: _Reader) -> Lengths:
    seconds = [
        max(0.0, s) for (s,) in db("SELECT closed_at - opened_at FROM rounds WHERE closed_at NOT NULL", "rounds")
    ]
    up_to = tuple(sum(s <= bound for s in seconds) for bound in ROUND_SECONDS)
    return Lengths(up_to, len(seconds), sum(seconds))


def _newest(db: _Reader) -> float:
    times = (
        ("runs", "SELECT max(max(started_at, ifnull(ended_at, 0))) FROM runs"),
        ("rounds", "SELECT max(max(opened_at, ifnull(closed_at, 0))) FROM rounds"),
        ("verdicts", "SELECT max(received_at) FROM verdicts"),
        ("applicants", "SELECT max(max(asked_at_ms, ifnull(decided_at_ms, 0))) / 1000.0 FROM applicants"),
    )
    return max(float(found[0][0] or 0) for table, sql in times if (found := db(sql, table) or [(0,)]))
