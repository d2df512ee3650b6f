"""What pages ask of members: a list of them, and what is written of one, and what a site did in its runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from security.entries import Joined, TakenBack, Update
from server.dashboard.places import KINDS, VERDICTS, kinds
from server.dashboard.reading import PAGE, Paged, UnknownError, first
from server.dashboard.reading_runs import RunRow, RunsReading

if TYPE_CHECKING:
    from server.dashboard.reading import Reading, Shown

PARTS = 20
"""Runs of a site on one page."""

_STANDINGS = (
    "SELECT m.who, names.name, m.role, m.name, l.kind, max(l.place) FROM members m JOIN names ON names.id = m.who "
    "JOIN lines l ON l.who = m.who AND l.run IS NULL AND l.kind IN (SELECT value FROM json_each(?)) "
)
_EVERYBODY = _STANDINGS + "GROUP BY m.who ORDER BY m.role, m.name"
_ONE = _STANDINGS + "WHERE m.role = ? AND m.name = ? GROUP BY m.who"
_OF_KIND = (
    "SELECT who, min(place), count(*) FROM lines "
    "WHERE who IN (SELECT value FROM json_each(?)) AND run IS NULL AND kind IN (SELECT value FROM json_each(?)) "
    "GROUP BY who"
)
_LAST_PRIVATE = "SELECT private FROM spent JOIN names ON id = who WHERE name IN (SELECT value FROM json_each(?))"
_ABOUT = "SELECT place FROM lines WHERE who = ? AND run IS NULL ORDER BY place DESC LIMIT ?"
_COUNT_PARTS = "SELECT count(*) FROM parts WHERE who = ?"
_PARTS = "SELECT run FROM parts WHERE who = ? ORDER BY run DESC LIMIT ? OFFSET ?"
_VERDICTS = (
    "SELECT run, round, verdict, max(place) FROM lines WHERE who = ? AND run IN (SELECT value FROM json_each(?)) "
    "AND kind IN (SELECT value FROM json_each(?)) GROUP BY run, round"
)
_TAKEN_BACK = (
    "SELECT place FROM lines WHERE rare AND run IN (SELECT value FROM json_each(?)) "
    "AND kind IN (SELECT value FROM json_each(?))"
)
_DECIDE = ("invited", "denied", "joined", "revoked")  # how it stands with somebody, by the last of these
_WORDS = {"joined": "active"}


@dataclass(frozen=True)
class MemberRow:
    """One member in a list.

    Attributes:
        member: SPIFFE id.
        status: ``invited``, ``denied``, ``active`` or ``revoked``.
        joined: When, as entries have it; None where they have not.
        rotations: How often they went over to new keys.
        epsilon: What the last run that cost the drawings of a site anything cost them, as told last.
        run: That run.
    """

    member: str
    role: str
    name: str
    status: str
    joined: str | None
    rotations: int
    epsilon: float | None = None
    run: str | None = None


@dataclass(frozen=True)
class Part:
    """What one site did in one run: its verdict by round, and what the run cost its drawings, as told last."""

    run: RunRow
    verdicts: dict[int, str]
    taken_back: frozenset[int]
    epsilon: float | None

    def standing(self, number: int) -> str:
        """Return the verdict of a round in a word; ``silent`` where there is none."""
        return "taken back" if number in self.taken_back else self.verdicts.get(number, "silent")


class _Known(NamedTuple):
    """A member as the table of places knows them: the number of their name, and how it stands with them."""

    number: int
    member: str
    role: str
    name: str
    status: str


class MembersReading:
    """Reads what a ledger tells of members."""

    def __init__(self, reading: Reading, runs: RunsReading) -> None:
        self._reading, self._runs, self._places = reading, runs, reading.places

    def tally(self) -> dict[tuple[str, str], int]:
        """Return how many members there are, by role and status."""
        found: dict[tuple[str, str], int] = {}
        for one in self._standings(_EVERYBODY):
            found[one.role, one.status] = found.get((one.role, one.status), 0) + 1
        return found

    def page(self, number: int = 0) -> tuple[list[MemberRow], Paged]:
        """Return members by role and name."""
        everybody = self._standings(_EVERYBODY)
        paged = Paged.of(number, len(everybody), PAGE)
        return self._rows(everybody[paged.number * PAGE : (paged.number + 1) * PAGE]), paged

    def one(self, role: str, name: str) -> tuple[MemberRow, list[Shown]]:
        """Return one member, and the last things that are written of them, the last first.

        Raises:
            UnknownError: The ledger tells of no such member.
        """
        found = self._standings(_ONE, role, name)
        if not found:
            raise UnknownError("the ledger tells of no such member")
        places = first(self._places.ask(_ABOUT, found[0].number, PAGE))
        return self._rows(found)[0], self._reading.show(places)[::-1]

    def parts(self, site: str, page: int = 0) -> tuple[list[Part], Paged]:
        """Return what a site did in its runs, the latest first."""
        who = self._places.known(site)
        paged = Paged.of(page, int(self._places.ask(_COUNT_PARTS, who)[0][0]), PARTS)
        found = first(self._places.ask(_PARTS, who, PARTS, paged.number * PARTS))
        verdicts = self._places.ask(_VERDICTS, who, json.dumps(found), kinds("update"))
        rows, back = self._runs.rows(found), self._taken_back(site, found)
        return [
            Part(
                rows[run],
                {number: VERDICTS[verdict - 1] for of, number, verdict, _ in verdicts if of == run and verdict},
                frozenset(number for of, number in back if of == rows[run].run),
                self._runs.epsilons(rows[run].run, [site]).get(site),
            )
            for run in found
            if run in rows
        ], paged

    def _taken_back(self, site: str, runs: Sequence[int]) -> set[tuple[str, int]]:
        found = first(self._places.ask(_TAKEN_BACK, json.dumps(list(runs)), kinds("taken-back")))
        return {
            (line.entry.run, line.entry.round)
            for line in self._reading.lines(found)
            if isinstance(line.entry, TakenBack) and site in line.entry.sites
        }

    def _standings(self, sql: str, *values: object) -> list[_Known]:
        found = self._places.ask(sql, kinds(*_DECIDE), *values)
        return [
            _Known(number, member, role, name, _WORDS.get(KINDS[kind - 1], KINDS[kind - 1]))
            for number, member, role, name, kind, _ in found
        ]

    def _rows(self, known: Sequence[_Known]) -> list[MemberRow]:
        asked = json.dumps([one.number for one in known])
        joins = {who: place for who, place, _ in self._places.ask(_OF_KIND, asked, kinds("joined"))}
        turns = {who: count for who, _, count in self._places.ask(_OF_KIND, asked, kinds("rotated"))}
        at = {
            line.entry.member: line.entry.at
            for line in self._reading.lines(joins.values())
            if isinstance(line.entry, Joined)
        }
        told = self._last_epsilons([one.name for one in known if one.role == "site"])
        return [
            MemberRow(
                one.member, one.role, one.name, one.status, at.get(one.member), turns.get(one.number, 0),
                *(told.get(one.name, (None, None)) if one.role == "site" else ()),
            )
            for one in known
        ]  # fmt: skip

    def _last_epsilons(self, sites: Sequence[str]) -> dict[str, tuple[float, str]]:
        found = first(self._places.ask(_LAST_PRIVATE, json.dumps(list(sites))))
        return {
            line.entry.site: (line.entry.privacy.epsilon, line.entry.run)
            for line in self._reading.lines(found)
            if isinstance(line.entry, Update) and line.entry.privacy is not None
        }
