"""The read model: what pages are told, and that it costs no more where the ledger is large."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.errors import LedgerError
from security.audit.trust import Trust
from security.ledger import LEDGER_SCHEMA, append
from server.dashboard.following import Follower
from server.dashboard.ledger_file import LedgerFile
from server.dashboard.places import Places
from server.dashboard.reading import Paged, Reading, UnknownError
from server.dashboard.reading_members import MembersReading
from server.dashboard.reading_runs import RunsReading
from tests.ledgers import RUN, Members, a_story, some_members, trust_in, write_ledger

MEMBERS = some_members()


class Model:
    """A ledger that was read through, and what it cost to ask since."""

    def __init__(self, file: Path, members: Members = MEMBERS) -> None:
        trust = trust_in(members)
        self.file = LedgerFile(file, lambda: trust, "mirror")
        self.places = Places()
        self.doubted: list[int] = []
        self.follower = Follower(self.file, self.places)
        self.reading = Reading(self.file.open(), self.places, self.doubted.append)
        self.runs = RunsReading(self.reading)
        self.members = MembersReading(self.reading, self.runs)

    def close(self) -> None:
        self.reading.close()
        self.places.close()

    def wait(self, done: Callable[[], object]) -> None:
        patience = time.monotonic() + 60
        while not done():
            assert time.monotonic() < patience, self.follower.standing
            time.sleep(0.01)


@contextmanager
def model(file: Path) -> Iterator[Model]:
    made = Model(file)
    with made.follower:
        made.wait(lambda: made.follower.standing.read == made.reading.reader.size())
        yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_ledger(tmp_path / "ledger.db", MEMBERS, a_story(MEMBERS).entries)
    return tmp_path / "ledger.db"


def tamper(file: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute(sql, values)


def test_members_stand_as_the_chronicle_has_them(file: Path) -> None:
    with model(file) as told:
        rows, paged = told.members.page()
        assert paged == Paged(0, 1)
        assert [(one.role, one.name, one.status) for one in rows] == [
            ("operator", "anna", "active"), ("site", "bianchi", "active"), ("site", "rossi", "active"),
            ("site", "vandal", "revoked"), ("site", "verdi", "active"),
        ]  # fmt: skip
        assert told.members.tally() == {
            ("operator", "active"): 1, ("site", "active"): 3, ("site", "revoked"): 1,
        }  # fmt: skip
        rossi = rows[2]
        assert (rossi.epsilon, rossi.run) == (4.5, RUN)
        assert rows[0].epsilon is None


def test_a_member_is_told_with_what_is_written_of_them(file: Path) -> None:
    with model(file) as told:
        row, history = told.members.one("site", "vandal")
        assert row.status == "revoked"
        assert [one.entry.kind for one in history if one.entry] == ["revoked", "joined", "invited"]
        (part,), _ = told.members.parts("vandal")
        assert part.verdicts[1] == "rejected"
        assert part.standing(9) == "silent"
        with pytest.raises(UnknownError):
            told.members.one("site", "nobody")


def test_a_run_is_told_from_its_own_entries(file: Path) -> None:
    with model(file) as told:
        (row,), _ = told.runs.page()
        assert (row.run, row.status, row.rounds) == (RUN, "finished", 4)
        names, _ = told.runs.sites(RUN)
        assert names == ["bianchi", "rossi", "vandal", "verdi"]
        story = told.runs.story(RUN, (2, 3), ["rossi", "verdi"])
        assert sorted(story.rounds) == [2, 3]
        assert story.rounds[2].standing("rossi") == "refused"
        assert story.rounds[3].standing("verdi") == "clipped"
        assert "vandal" not in story.rounds[2].updates
        assert story.releases[0].round == 3
        assert told.runs.epsilons(RUN, names)["rossi"] == 4.5
        assert told.runs.answers(RUN, 2) == 4
        with pytest.raises(UnknownError):
            told.runs.row("no such run")
        with pytest.raises(UnknownError):
            told.runs.story("no such run", (1, 2), [])


def test_entries_come_the_last_first_and_by_kind(file: Path) -> None:
    with model(file) as told:
        size = told.reading.reader.size()
        assert [one.index for one in told.reading.latest(most=3)] == [size - 1, size - 2, size - 3]
        assert [one.index for one in told.reading.latest(before=3)] == [2, 1, 0]
        closed = told.reading.latest(kind="round-closed")
        assert [one.entry.round for one in closed if one.entry and one.entry.kind == "round-closed"] == [4, 3, 2, 1]
        assert len(told.reading.latest(kind="no kind")) == size


def test_what_is_written_later_is_read_too(file: Path, tmp_path: Path) -> None:
    entries = a_story(MEMBERS).entries
    with model(file) as told:
        before = told.follower.standing.version
        write_ledger(file, MEMBERS, entries[:2])
        told.wait(lambda: told.follower.standing.read == len(entries) + 2)
        told.wait(lambda: told.follower.standing.check and told.follower.standing.check.size == len(entries) + 2)
        assert told.follower.standing.version > before


def test_a_sound_ledger_holds(file: Path) -> None:
    with model(file) as told:
        told.wait(lambda: told.follower.standing.holds is not None)
        assert told.follower.standing.holds is True
        assert told.follower.standing.bad_from is None
        assert told.follower.standing.check
        assert len(told.follower.standing.check.witnesses) == 3


@pytest.mark.parametrize(
    ("sql", "first"),
    [
        ("UPDATE ledger_entries SET entry = CAST(entry || ' ' AS BLOB) WHERE \"index\" = 14", 14),
        ('DELETE FROM ledger_entries WHERE "index" = 20', 20),
        ('DELETE FROM ledger_entries WHERE "index" > 30', 31),
    ],
)
def test_a_changed_ledger_is_known_from_which_entry_on(file: Path, sql: str, first: int) -> None:
    tamper(file, sql)
    made = Model(file)
    with made.follower:
        made.wait(lambda: made.follower.standing.check)
        assert made.follower.standing.holds is False
        assert made.follower.standing.bad_from is not None
        assert first - 8 < made.follower.standing.bad_from <= first  # there is a checkpoint every eight entries


def test_an_entry_that_changes_while_it_is_looked_at_is_noticed(file: Path) -> None:
    with model(file) as told:
        told.wait(lambda: told.follower.standing.holds)
        tamper(file, 'UPDATE ledger_entries SET entry = CAST(\'{"kind":"restored"}\' AS BLOB) WHERE "index" = 5')
        (shown,) = told.reading.show([5])
        assert not shown.same
        assert told.doubted == [5]
        told.wait(lambda: told.follower.standing.holds is False)
        assert told.follower.standing.bad_from is not None
        assert told.follower.standing.bad_from <= 5


def test_entries_that_mean_nothing_break_nothing(tmp_path: Path) -> None:
    lines = [
        b"", b"no json", b"[]", b'{"kind":7}', b'{"kind":"update","run":[],"round":1e400,"site":{}}',
        b'{"kind":"update","run":"r","round":-1,"site":"x","verdict":"?"}',
        b'{"kind":"run-started","run":"r","sites":7}',
        b'{"kind":"joined","member":"spiffe://x"}', b'{"member":"a/b/c","kind":"joined"}', b'"\\ud800"',
        b'{"run":"\\ud800","kind":"update"}', b"[" * 100_000,
    ]  # fmt: skip
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as db:
        db.executescript(LEDGER_SCHEMA)
        with db:
            db.execute("BEGIN IMMEDIATE")
            append(db, lines, [None] * len(lines))
    with model(tmp_path / "ledger.db") as told:
        assert [one.entry for one in told.reading.latest()] == [None] * len(lines)
        assert told.runs.page()[0] == []
        assert told.members.page()[0] == []
        told.wait(lambda: told.follower.standing.holds is False)


@pytest.mark.parametrize("content", [None, b"", b"no database at all, but longer than a header of SQLite" * 9])
def test_what_is_no_ledger_is_told_in_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ledger.db"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LedgerError, match="the ledger cannot be opened"):
        LedgerFile(file, lambda: trust_in(MEMBERS), "mirror").open()


def test_the_ledger_cannot_be_written_through_the_dashboard(file: Path) -> None:
    with closing(LedgerFile(file, lambda: trust_in(MEMBERS), "mirror").open()) as db:
        for sql in ("INSERT INTO ledger_keys VALUES ('a', 1)", "CREATE TABLE more (x)", "PRAGMA user_version = 7"):
            with pytest.raises(sqlite3.OperationalError):
                db.execute(sql)


def test_the_trust_is_asked_anew_at_each_verification(file: Path) -> None:
    other = trust_in(some_members())
    trusts: list[Trust] = [trust_in(MEMBERS)]
    made = Model(file)
    made.follower._file = LedgerFile(file, lambda: trusts[-1], "mirror")
    with made.follower:
        made.wait(lambda: made.follower.standing.holds)
        trusts.append(other)
        made.follower.doubt(3)
        made.wait(lambda: any(one.what == "signature" for one in made.follower.standing.faults))


# -- the cost ----------------------------------------------------------------------------------------------------------

SITES = tuple(f"site-{number:02d}" for number in range(24))


def many(runs: int, rounds: int) -> Iterator[bytes]:
    """Yield the entries of a federation that has had many runs; as canonical JSON, written by hand for speed."""
    digest, at = "0" * 64, "2026-11-02T09:00:00.000Z"
    federation = "spiffe://studios.test"
    for site in SITES:
        yield line(at=at, keys=digest, kind="joined", member=f"{federation}/site/{site}")
    for run in range(runs):
        name = f"run-{run:05d}"
        yield line(
            at=at, base=digest, kind="run-started", operator=f"{federation}/operator/anna", order=digest,
            resumed=False, run=name, settings={}, sites=list(SITES), software="bottega",
        )  # fmt: skip
        for number in range(1, rounds + 1):
            yield line(
                adapter=digest, asked=list(SITES), at=at, kind="round-opened", round=number, run=name, work="train"
            )
            for site in SITES:
                yield line(
                    at=at, check=0, check_name="admitted", kind="update", p_value=0.5,
                    privacy={
                        "clip": 0.1, "delta": 0.1, "epsilon": number, "multiplicity": 1, "multiplier": 1, "rate": 0.5,
                        "steps": 1, "unit": "drawing",
                    },
                    round=number, run=name, site=site, verdict="admitted",
                )  # fmt: skip
            yield line(
                adapter=digest, at=at, averaged=list(SITES), kind="round-closed", outcome="aggregated", round=number,
                rule="mean", run=name,
            )  # fmt: skip
        yield line(at=at, kind="run-ended", run=name, status="finished")


def line(**told: Any) -> bytes:  # noqa: ANN401 (fields of an entry)
    return json.dumps(told, separators=(",", ":"), sort_keys=True).encode()


def large(file: Path, runs: int) -> int:
    lines = list(many(runs, 10))
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.executescript(LEDGER_SCHEMA)
        with db:
            db.execute("BEGIN IMMEDIATE")
            append(db, lines, [None] * len(lines))
    return len(lines)


class Cost:
    """What questions cost: statements, rows, and steps of SQLite's machine."""

    def __init__(self, told: Model) -> None:
        self.statements = self.rows = self.steps = 0
        self._told = told

    def __enter__(self) -> Cost:
        told = self._told
        for db in (told.reading._db, told.places._db):
            db.set_progress_handler(self._step, 100)
        self._asks = (told.reading.query, told.places.ask)
        told.reading.reader._query = self._counted(told.reading.query)
        told.places.ask = self._counted(told.places.ask)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        for db in (self._told.reading._db, self._told.places._db):
            db.set_progress_handler(None, 0)
        self._told.reading.reader._query = self._asks[0]
        self._told.places.ask = self._asks[1]  # type: ignore[method-assign]

    def _step(self) -> int:
        self.steps += 100
        return 0

    def _counted(self, ask: Callable[..., list[tuple[Any, ...]]]) -> Callable[..., list[tuple[Any, ...]]]:
        def asked(sql: str, *values: object) -> list[tuple[Any, ...]]:
            rows = ask(sql, *values)
            self.statements, self.rows = self.statements + 1, self.rows + len(rows)
            return rows

        return asked


def questions(told: Model, runs: int) -> dict[str, Callable[[], object]]:
    """Return what each page asks."""
    run, middle = f"run-{runs // 2:05d}", told.follower.standing.size // 2

    def one_run() -> None:
        names, _ = told.runs.sites(run)
        told.runs.row(run)
        told.runs.story(run, (1, 24), names)
        told.runs.epsilons(run, names)

    return {
        "federation": lambda: (told.members.page(), told.members.tally(), told.runs.page(0, 1)),
        "runs": told.runs.page,
        "run": one_run,
        "round": lambda: told.runs.story(run, (3, 3), told.runs.sites(run)[0]),
        "member": lambda: (told.members.one("site", SITES[3]), told.members.parts(SITES[3])),
        "ledger": lambda: told.reading.latest(before=middle),
        "ledger by kind": lambda: told.reading.latest(before=middle, kind="round-closed"),
        "entry": lambda: (told.reading.show([middle]), told.reading.reader.inclusion(middle, middle * 2)),
    }


def test_a_page_costs_no_more_where_the_ledger_is_large(tmp_path: Path) -> None:
    few, lots = 55, 400
    costs: dict[int, dict[str, Cost]] = {}
    for runs in (few, lots):
        size = large(tmp_path / f"{runs}.db", runs)
        told = Model(tmp_path / f"{runs}.db")
        told.follower._catch_up(told.reading.reader)
        costs[runs] = {}
        for name, ask in questions(told, runs).items():
            with Cost(told) as cost:
                ask()
            costs[runs][name] = cost
        told.close()
    assert size > 100_000
    for name, cost in costs[lots].items():
        before = costs[few][name]
        assert cost.statements <= before.statements + 8, name  # the proof's way is longer by the tree's height
        assert cost.rows <= before.rows + 8, name
        assert cost.steps <= 1.5 * before.steps + 3000, (name, before.steps, cost.steps)
        assert cost.rows <= 1500, name
