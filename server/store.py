"""What the server remembers of runs: rounds, verdicts and what sites reported."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import RunError
from common.proto import bottega_pb2 as pb
from security.database import Database
from security.entries import MOST_WORDS, Checked, Entry, Reinstated, Released, RunEnded, read_entry, write_entry
from security.names import SpiffeId
from server.journal import SCHEMA, now, write
from server.standing import COUNTING, REMEMBERED, why_suspended

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, "order" BLOB NOT NULL, flower TEXT,
    status TEXT NOT NULL, error TEXT NOT NULL DEFAULT '', started_at REAL NOT NULL, ended_at REAL
) STRICT;
CREATE TABLE IF NOT EXISTS rounds (
    run TEXT NOT NULL REFERENCES runs, round INTEGER NOT NULL, work TEXT NOT NULL, opened_at REAL NOT NULL,
    closed_at REAL, asked INTEGER NOT NULL, adapter_digest TEXT, outcome TEXT NOT NULL DEFAULT 'open',
    PRIMARY KEY (run, round)
) STRICT;
CREATE TABLE IF NOT EXISTS verdicts (
    run TEXT NOT NULL, round INTEGER NOT NULL, site TEXT NOT NULL, admitted INTEGER NOT NULL,
    number INTEGER NOT NULL, "check" TEXT NOT NULL, reason TEXT NOT NULL, examples INTEGER NOT NULL DEFAULT 0,
    norm REAL, digest TEXT, received_at REAL NOT NULL, PRIMARY KEY (run, round, site)
) STRICT;
CREATE TABLE IF NOT EXISTS metrics (
    run TEXT NOT NULL, round INTEGER NOT NULL, site TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (run, round, site, name)
) STRICT;
CREATE TABLE IF NOT EXISTS releases (
    run TEXT NOT NULL REFERENCES runs, round INTEGER NOT NULL, digest TEXT NOT NULL, despite TEXT NOT NULL,
    released_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS checks (run TEXT NOT NULL, round INTEGER NOT NULL, entry BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS judgements (
    run TEXT NOT NULL, round INTEGER NOT NULL, unsure TEXT NOT NULL, PRIMARY KEY (run, round)
) STRICT;
CREATE TABLE IF NOT EXISTS phases (
    run TEXT NOT NULL, round INTEGER NOT NULL, phase TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (run, round, phase)
) STRICT;
CREATE TABLE IF NOT EXISTS reinstatements (
    site TEXT NOT NULL, reason TEXT NOT NULL, operator TEXT NOT NULL, reinstated_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS budgets (site TEXT PRIMARY KEY, entries INTEGER NOT NULL, digest BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class Verdict:
    """What the server decided about one site's answer in one round.

    Attributes:
        number: The number of the check that decided; 0 when the update was admitted as it came.
        check: That check's name; ``admitted`` when it was. An update that was admitted by check ``size`` was cut down.
        examples: What the site reported, before capping.
        norm: L2 norm of the update.
        digest: SHA-256 (hex) of the sealed body as received.
    """

    site: str
    admitted: bool
    number: int
    check: str
    reason: str = ""
    examples: int = 0
    norm: float | None = None
    digest: str | None = None


@dataclass(frozen=True)
class RunRow:
    """One run as stored.

    Attributes:
        order: The signed order, as it came.
        flower: Flower's own number for it, which may be too large for an INTEGER; None until Flower has taken it.
    """

    run: str
    order: bytes
    flower: str | None
    status: str
    error: str
    started_at: float
    ended_at: float | None


@dataclass(frozen=True)
class RoundRow:
    """One round as stored.

    ``work`` is ``train`` or ``evaluate``; ``outcome`` is ``open``, ``aggregated``, ``measured`` or ``kept``.
    """

    round: int
    work: str
    opened_at: float
    closed_at: float | None
    asked: int
    adapter_digest: str | None
    outcome: str


class Store(Database):
    """The store in ``file``; see :class:`~security.database.Database`.

    What the ledger is to say of a change goes with it, in one transaction: ``entries``.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(file, _SCHEMA + SCHEMA)

    def start_run(self, run: str, order: bytes, entries: Iterable[Entry] = ()) -> None:
        """Record that a run begins; a run that is resumed keeps its order and its start."""
        with self._write() as db:
            write(db, entries)
            db.execute(
                "INSERT INTO runs VALUES (?, ?, NULL, 'running', '', ?, NULL) "
                "ON CONFLICT (run) DO UPDATE SET status='running', error='', ended_at=NULL",
                (run, order, time.time()),
            )

    def submitted(self, run: str, flower: int) -> None:
        """Record the number under which Flower took a run; however an earlier try ended, now it is running.

        Done again with the same number it changes nothing: by then the run may have ended.
        """
        sql = "UPDATE runs SET flower=?1, status='running', error='', ended_at=NULL WHERE run=?2 AND flower IS NOT ?1"
        with self._write() as db:
            db.execute(sql, (str(flower), run))

    def stop_run(self, run: str, why: str) -> None:
        """Record that a run was stopped."""
        with self._write() as db:
            write(db, [RunEnded(at=now(), run=run, status="stopped", reason=why)])
            db.execute("UPDATE runs SET status='stopped', error=?, ended_at=? WHERE run=?", (why, time.time(), run))

    def end_run(self, run: str, flower: int, status: Literal["finished", "failed"], error: str = "") -> None:
        """Record how a run ended: ``finished`` or ``failed``.

        It is told under which number Flower ran it: the end of an earlier try, or of one that was stopped, is not the
        run's.
        """
        with self._write() as db:
            ended = db.execute(
                "UPDATE runs SET status=?, error=?, ended_at=? WHERE run=? AND flower=? AND status='running'",
                (status, error, time.time(), run, str(flower)),
            )
            if ended.rowcount:
                write(db, [RunEnded(at=now(), run=run, status=status, reason=error[:MOST_WORDS] or None)])

    def open_round(self, run: str, number: int, work: str, asked: int, entries: Iterable[Entry] = ()) -> None:
        """Record that a round begins; what an earlier try at the same round left is forgotten here."""
        with self._write() as db:
            write(db, entries)
            for table in ("verdicts", "metrics", "judgements", "phases", "rounds"):
                db.execute(f"DELETE FROM {table} WHERE run=? AND round=?", (run, number))  # noqa: S608 (our own names)
            db.execute(
                "INSERT INTO rounds (run, round, work, opened_at, asked) VALUES (?, ?, ?, ?, ?)",
                (run, number, work, time.time(), asked),
            )

    def record(self, run: str, number: int, verdict: Verdict, metrics: Mapping[str, float]) -> None:
        """Record one site's verdict and what it reported; the first verdict on a site in a round stands."""
        with self._write() as db:
            kept = db.execute(
                "INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (run, number, verdict.site, int(verdict.admitted), verdict.number, verdict.check, verdict.reason,
                 verdict.examples, verdict.norm, verdict.digest, time.time()),
            )  # fmt: skip
            if kept.rowcount:
                db.executemany(
                    "INSERT INTO metrics VALUES (?, ?, ?, ?, ?)",
                    [(run, number, verdict.site, name, value) for name, value in metrics.items()],
                )

    def note(self, run: str, number: int, site: str, metrics: Mapping[str, float]) -> None:
        """Record what the server itself worked out about a site in a round; what it noted before gives way."""
        with self._write() as db:
            db.executemany(
                "INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?, ?)",
                [(run, number, site, name, value) for name, value in metrics.items()],
            )

    def counted(self, run: str, site: str, metric: str, *, before: int) -> int:
        """Return in how many rounds before one a metric was recorded of a site."""
        sql = "SELECT count(*) FROM metrics WHERE run=? AND site=? AND name=? AND round<?"
        return int(self._read(sql, run, site, metric, before)[0][0])

    def overrule(self, run: str, number: int, verdict: Verdict) -> None:
        """Put a verdict in the place of the one that stood, and forget what the site reported."""
        with self._write() as db:
            db.execute(
                'UPDATE verdicts SET admitted=?, number=?, "check"=?, reason=? WHERE run=? AND round=? AND site=?',
                (int(verdict.admitted), verdict.number, verdict.check, verdict.reason, run, number, verdict.site),
            )
            db.execute("DELETE FROM metrics WHERE run=? AND round=? AND site=?", (run, number, verdict.site))

    def judged(self, run: str, number: int, verdicts: Iterable[Verdict], unsure: str) -> None:
        """Record what a round's judgement changed, and why the detector did not judge; what sites reported stays."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO judgements VALUES (?, ?, ?)", (run, number, unsure))
        self.rejudged(run, number, verdicts)

    def rejudged(self, run: str, number: int, verdicts: Iterable[Verdict]) -> None:
        """Record verdicts that were changed, one for each site; what sites reported stays."""
        with self._write() as db:
            db.executemany(
                'UPDATE verdicts SET admitted=?, number=?, "check"=?, reason=? WHERE run=? AND round=? AND site=?',
                [(int(v.admitted), v.number, v.check, v.reason, run, number, v.site) for v in verdicts],
            )

    def unsure(self, run: str, number: int) -> str | None:
        """Return why the detector did not judge a round; empty when it did, None when it was not asked."""
        rows = self._read("SELECT unsure FROM judgements WHERE run=? AND round=?", run, number)
        return str(rows[0][0]) if rows else None

    def close_round(
        self, run: str, number: int, outcome: str, adapter_digest: str | None, entries: Iterable[Entry] = ()
    ) -> None:
        """Record that a round ended."""
        with self._write() as db:
            write(db, entries)
            db.execute(
                "UPDATE rounds SET closed_at=?, outcome=?, adapter_digest=? WHERE run=? AND round=?",
                (time.time(), outcome, adapter_digest, run, number),
            )

    def took(self, run: str, number: int, phases: Mapping[str, float]) -> None:
        """Record how long each phase of a round took, seconds; what was recorded of it before gives way."""
        with self._write() as db:
            db.executemany(
                "INSERT OR REPLACE INTO phases VALUES (?, ?, ?, ?)",
                [(run, number, phase, seconds) for phase, seconds in phases.items()],
            )

    def checked(self, entry: Checked) -> None:
        """Record how a round's adapter did on public drawings."""
        with self._write() as db:
            write(db, [entry])
            db.execute("INSERT INTO checks VALUES (?, ?, ?)", (entry.run, entry.round, write_entry(entry)))

    def checks(self, run: str, number: int) -> list[Checked]:
        """Return the checks of a round's adapter on public drawings, in order."""
        rows = self._read("SELECT entry FROM checks WHERE run=? AND round=? ORDER BY rowid", run, number)
        entries = [read_entry(data) for (data,) in rows]
        return [entry for entry in entries if isinstance(entry, Checked)]

    def released(self, run: str, number: int, digest: str, despite: str, by: SpiffeId) -> None:
        """Record that a round's adapter was released, and why although something stood against it; empty if not."""
        entry = Released(
            at=now(), run=run, round=number, adapter=digest, by=str(by), despite=despite[:MOST_WORDS] or None
        )
        with self._write() as db:
            write(db, [entry])
            db.execute("INSERT INTO releases VALUES (?, ?, ?, ?, ?)", (run, number, digest, despite, time.time()))

    def releases(self, run: str) -> list[tuple[int, str, str]]:
        """Return each release of a run: round, SHA-256 (hex) of the adapter, and why despite what stood against it."""
        sql = "SELECT round, digest, despite FROM releases WHERE run=? ORDER BY released_at"
        return [(int(number), digest, despite) for number, digest, despite in self._read(sql, run)]

    def remember_budget(self, site: str, head: pb.BudgetHead) -> None:
        """Record how far the record of a site's privacy budget goes; what was known of it before is forgotten."""
        with self._write() as db:
            db.execute(
                "INSERT INTO budgets VALUES (?, ?, ?) "
                "ON CONFLICT (site) DO UPDATE SET entries=excluded.entries, digest=excluded.digest",
                (site, min(head.entries, 2**63 - 1), head.digest),
            )

    def budget(self, site: str) -> pb.BudgetHead | None:
        """Return what a site told last of the record of its budget; None when it never did."""
        rows = self._read("SELECT entries, digest FROM budgets WHERE site=?", site)
        return pb.BudgetHead(entries=rows[0][0], digest=rows[0][1]) if rows else None

    def suspended(self) -> dict[str, str]:
        """Return which sites are suspended and why (:mod:`server.standing`)."""
        checks = ", ".join("?" for _ in COUNTING)
        sql = (
            f"SELECT site, admitted FROM verdicts JOIN rounds USING (run, round) "  # noqa: S608 (question marks)
            f"WHERE work='train' AND (admitted OR number IN ({checks})) AND received_at > coalesce("
            f"(SELECT max(reinstated_at) FROM reinstatements WHERE reinstatements.site = verdicts.site), 0) "
            f"ORDER BY received_at"
        )
        found: dict[str, deque[bool]] = {}
        for site, admitted in self._read(sql, *(int(check) for check in COUNTING)):
            found.setdefault(site, deque(maxlen=REMEMBERED)).append(not admitted)
        return {site: why for site, rejected in sorted(found.items()) if (why := why_suspended(list(rejected)))}

    def reinstate(self, site: SpiffeId, reason: str, operator: SpiffeId) -> None:
        """Record that an operator lets a site take part again: what was found of it before no longer counts."""
        entry = Reinstated(at=now(), member=str(site), reason=reason, by=str(operator))
        with self._write() as db:
            write(db, [entry])
            db.execute(
                "INSERT INTO reinstatements VALUES (?, ?, ?, ?)", (site.name, reason, operator.name, time.time())
            )  # fmt: skip

    def runs(self) -> list[RunRow]:
        """Return all runs, the latest first."""
        return [RunRow(*row) for row in self._read("SELECT * FROM runs ORDER BY started_at DESC")]

    def run(self, run: str) -> RunRow:
        """Return one run.

        Raises:
            RunError: There is none of that name.
        """
        rows = self._read("SELECT * FROM runs WHERE run=?", run)
        if not rows:
            raise RunError("there is no such run", got=run, expected="one of `bottega run list`")
        return RunRow(*rows[0])

    def rounds(self, run: str) -> list[RoundRow]:
        """Return the rounds of a run in order."""
        sql = (
            "SELECT round, work, opened_at, closed_at, asked, adapter_digest, outcome FROM rounds "
            "WHERE run=? ORDER BY round"
        )
        return [RoundRow(*row) for row in self._read(sql, run)]

    def last_closed(self, run: str) -> int:
        """Return the number of the last round that is closed; 0 when none is."""
        rows = self._read("SELECT max(round) FROM rounds WHERE run=? AND closed_at IS NOT NULL AND work='train'", run)
        return int(rows[0][0] or 0)

    def verdicts(self, run: str, number: int) -> list[Verdict]:
        """Return the verdicts of a round by site."""
        sql = (
            'SELECT site, admitted, number, "check", reason, examples, norm, digest FROM verdicts '
            "WHERE run=? AND round=? ORDER BY site"
        )
        return [Verdict(r[0], bool(r[1]), *r[2:]) for r in self._read(sql, run, number)]

    def metrics(self, run: str, number: int) -> dict[str, dict[str, float]]:
        """Return what sites reported in a round: ``{site: {name: value}}``."""
        found: dict[str, dict[str, float]] = {}
        for site, name, value in self._read(
            "SELECT site, name, value FROM metrics WHERE run=? AND round=?", run, number
        ):
            found.setdefault(site, {})[name] = value
        return found
