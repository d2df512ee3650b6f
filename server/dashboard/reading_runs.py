"""What pages ask of runs: a list of them, and a part of one's story, told from its own entries alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from security.chronicle import Chronicle
from security.entries import RunEnded, RunStarted, Update
from server.dashboard.places import kinds
from server.dashboard.reading import Paged, UnknownError, first

if TYPE_CHECKING:
    from security.chronicle import RunStory
    from server.dashboard.reading import Reading

RUNS = 50
"""Runs on one page."""

ROUNDS = 24
"""Rounds of a run on one page."""

SITES = 40
"""Sites of a run on one page."""

_COUNT = "SELECT count(*) FROM runs"
_LATEST = "SELECT run FROM runs ORDER BY first DESC LIMIT ? OFFSET ?"
_RARE = "SELECT place FROM lines WHERE rare AND run IN (SELECT value FROM json_each(?))"
_ROWS = (
    "SELECT runs.run, name, runs.last, runs.round FROM runs JOIN names ON id = run "
    "WHERE runs.run IN (SELECT value FROM json_each(?))"
)
_COUNT_SITES = "SELECT count(*) FROM parts WHERE run = ?"
_SITES = "SELECT name FROM parts JOIN names ON id = who WHERE run = ? ORDER BY name LIMIT ? OFFSET ?"
_OF_ROUNDS = (
    "SELECT place FROM lines WHERE run = ? AND round BETWEEN ? AND ? AND kind IN (SELECT value FROM json_each(?))"
)
_OF_SITES = (
    "SELECT place FROM lines WHERE run = ? AND round BETWEEN ? AND ? AND kind IN (SELECT value FROM json_each(?)) "
    "AND who IN (SELECT id FROM names WHERE name IN (SELECT value FROM json_each(?)))"
)
_ANSWERS = (
    "SELECT count(DISTINCT who) FROM lines "
    "WHERE run = ? AND round BETWEEN ? AND ? AND kind IN (SELECT value FROM json_each(?))"
)
_PRIVATE = (
    "SELECT private FROM parts JOIN names ON id = who "
    "WHERE run = ? AND private NOT NULL AND name IN (SELECT value FROM json_each(?))"
)


@dataclass(frozen=True)
class RunRow:
    """One run in a list: how it stands, its latest round and its last entry."""

    run: str
    started: RunStarted
    ended: RunEnded | None
    rounds: int
    last: int

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``failed`` or ``stopped``, as far as is written."""
        return self.ended.status if self.ended else "running"


class RunsReading:
    """Reads what a ledger tells of runs."""

    def __init__(self, reading: Reading) -> None:
        self._reading, self._places = reading, reading.places

    def page(self, number: int = 0, most: int = RUNS) -> tuple[list[RunRow], Paged]:
        """Return runs, the latest first."""
        paged = Paged.of(number, int(self._places.ask(_COUNT)[0][0]), most)
        found = first(self._places.ask(_LATEST, most, paged.number * most))
        rows = self.rows(found)
        return [rows[one] for one in found if one in rows], paged

    def row(self, run: str) -> RunRow:
        """Return one run.

        Raises:
            UnknownError: The ledger tells of no such run.
        """
        known = self._places.known(run)
        rows = self.rows([] if known is None else [known])
        if known not in rows:
            raise UnknownError("the ledger tells of no such run")
        return rows[known]

    def rows(self, runs: Sequence[int]) -> dict[int, RunRow]:
        """Return runs by the numbers of their names; one whose beginning cannot be read is left out."""
        asked = json.dumps(list(runs))
        told = Chronicle.of(self._reading.lines(first(self._places.ask(_RARE, asked)))).runs
        return {
            number: RunRow(name, told[name].started, told[name].ended, rounds, last)
            for number, name, last, rounds in self._places.ask(_ROWS, asked)
            if name in told
        }

    def sites(self, run: str, page: int = 0) -> tuple[list[str], Paged]:
        """Return the sites of a run by name: those that it asks, and any other that answered."""
        known = self._places.known(run)
        paged = Paged.of(page, int(self._places.ask(_COUNT_SITES, known)[0][0]), SITES)
        return first(self._places.ask(_SITES, known, SITES, paged.number * SITES)), paged

    def story(self, run: str, rounds: tuple[int, int], sites: Sequence[str]) -> RunStory:
        """Tell a part of a run.

        Args:
            run: Its id.
            rounds: The first and the last that are told.
            sites: Whose verdicts are told.

        Raises:
            UnknownError: The ledger tells of no such run, or not readably of its beginning.
        """
        known = self._places.known(run)
        found = self._places.ask(_RARE, json.dumps([known]))
        found += self._places.ask(_OF_ROUNDS, known, *rounds, kinds("round-opened", "round-closed"))
        found += self._places.ask(_OF_SITES, known, *rounds, kinds("update"), json.dumps(list(sites)))
        told = Chronicle.of(self._reading.lines(first(found))).runs.get(run)
        if told is None:
            raise UnknownError("the ledger tells of no such run")
        return told

    def answers(self, run: str, number: int) -> int:
        """Return of how many sites a round has a verdict."""
        known = self._places.known(run)
        return int(self._places.ask(_ANSWERS, known, number, number, kinds("update"))[0][0])

    def epsilons(self, run: str, sites: Sequence[str]) -> dict[str, float]:
        """Return what a run cost the drawings of some sites, as each told last."""
        found = self._places.ask(_PRIVATE, self._places.known(run), json.dumps(list(sites)))
        return {
            line.entry.site: line.entry.privacy.epsilon
            for line in self._reading.lines(first(found))
            if isinstance(line.entry, Update) and line.entry.privacy is not None
        }
