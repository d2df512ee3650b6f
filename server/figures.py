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
class Underway:
    """Where one run stands.

    Attributes:
        run: Its id.
        awaited: Sites that were asked in the round that is open, and have no verdict yet.
        p_values: The detector's, by site, in the last round that it judged.
        epsilons: What the run has cost the drawings of each site that paid most, as the site told it last.
        site_epsilons: What it has cost each site as a whole, where it is protected as one.
    """

    run: str
    awaited: int
    p_values: dict[str, float]
    epsilons: dict[str, float]
    site_epsilons: dict[str, float]


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
        phases: How often there was a phase of a round, and how many seconds all of them took.
        underway: The runs that are running, the latest first; the last one when none is.
        pending: How many are running and have not opened a round yet.
        newest_s: The latest moment that is written anywhere, Unix time in seconds; 0 when nothing is.
    """

    applicants: tuple[tuple[str, str, str], ...]
    runs: dict[str, int]
    last: tuple[tuple[str, str], ...]
    rounds: dict[str, int]
    verdicts: dict[tuple[str, str], int]
    lengths: Lengths
    phases: dict[str, tuple[int, float]]
    underway: tuple[Underway, ...]
    pending: int
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
            phases={
                phase: (count, seconds)
                for phase, count, seconds in db("SELECT phase, count(*), sum(seconds) FROM phases GROUP BY 1", "phases")
            },
            underway=tuple(_underway(db, run) for run in _running(db)),
            pending=_pending(db),
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

    def __call__(self, sql: str, *tables: str, **values: str) -> list[tuple[Any, ...]]:
        """Return the rows that some SQL finds; none when one of the tables is not there."""
        if self._connection is None or not self._made.issuperset(tables):
            return []
        return self._connection.execute(sql, values).fetchall()


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


def _running(db: _Reader) -> list[str]:
    running = db("SELECT run FROM runs WHERE status='running' ORDER BY started_at DESC", "runs")
    return [run for (run,) in running or db("SELECT run FROM runs ORDER BY started_at DESC LIMIT 1", "runs")]


def _pending(db: _Reader) -> int:
    sql = "SELECT count(*) FROM runs WHERE status='running' AND run NOT IN (SELECT run FROM rounds)"
    return next((int(count) for (count,) in db(sql, "runs", "rounds")), 0)


def _underway(db: _Reader, run: str) -> Underway:
    awaited = (
        "SELECT asked - (SELECT count(*) FROM verdicts WHERE verdicts.run=rounds.run AND verdicts.round=rounds.round) "
        "FROM rounds JOIN runs USING (run) WHERE run=:run AND closed_at IS NULL AND status='running' "
        "ORDER BY round DESC LIMIT 1"
    )
    # A site may call a number of its own what it likes. Where the detector judged, its own is in that one's place.
    p_values = (
        "SELECT site, value FROM metrics WHERE run=:run AND name='p_value' AND round=(SELECT max(round) FROM rounds "
        "JOIN judgements USING (run, round) WHERE run=:run AND closed_at NOT NULL AND unsure='')"
    )
    return Underway(
        run=run,
        awaited=max(0, next((int(count) for (count,) in db(awaited, "runs", "rounds", "verdicts", run=run)), 0)),
        p_values=dict(db(p_values, "metrics", "rounds", "judgements", run=run)),
        epsilons=_latest(db, run, "epsilon"),
        site_epsilons=_latest(db, run, "site_epsilon"),
    )


def _latest(db: _Reader, run: str, name: str) -> dict[str, float]:
    """Return the last value of a metric by site. Beside ``max`` SQLite takes other columns from the row that has it."""
    sql = "SELECT site, value, max(round) FROM metrics WHERE run=:run AND name=:name GROUP BY site"
    return {site: value for site, value, _ in db(sql, "metrics", run=run, name=name)}


def _newest(db: _Reader) -> float:
    times = (
        ("runs", "SELECT max(max(started_at, ifnull(ended_at, 0))) FROM runs"),
        ("rounds", "SELECT max(max(opened_at, ifnull(closed_at, 0))) FROM rounds"),
        ("verdicts", "SELECT max(received_at) FROM verdicts"),
        ("applicants", "SELECT max(max(asked_at_ms, ifnull(decided_at_ms, 0))) / 1000.0 FROM applicants"),
    )
    return max(float(found[0][0] or 0) for table, sql in times if (found := db(sql, table) or [(0,)]))
