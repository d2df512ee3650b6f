"""What the record says of rounds: one row each, and which rows somebody wants to see."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import LedgerError, SettingsError
from security.chronicle import Chronicle, RoundStory, RunStory
from security.entries import moment

VERDICTS = ("admitted", "clipped", "rejected", "refused", "taken back", "silent")
"""What can be asked for: how a site stands in a round."""

COLUMNS = (
    "run", "round", "work", "outcome", "opened", "closed", "asked", "averaged", "left_out", "taken_back", "silent",
    "rule", "detector", "epsilon", "site_epsilon", "adapter", "openings", "first_entry", "last_entry",
)  # fmt: skip

_NOT_AVERAGED = frozenset({"rejected", "refused"})
_LATEST = frozenset({"last", "latest"})


@dataclass(frozen=True)
class Wanted:
    """Which rounds somebody wants to see; all of them when nothing is given.

    Attributes:
        run: Of this run alone.
        site: In which this site was asked.
        verdict: In which somebody (``site``, if one is given) stands so; one of :data:`VERDICTS`.
        since: Opened at this moment or later, as entries have it.
    """

    run: str | None = None
    site: str | None = None
    verdict: str | None = None
    since: str | None = None

    def takes(self, run: str, story: RoundStory) -> bool:
        """Return whether a round is wanted."""
        if self.run is not None and run != self.run:
            return False
        if self.since is not None and story.opened.at < self.since:
            return False
        sites = [self.site] if self.site is not None else everybody(story)
        if self.site is not None and self.site not in everybody(story):
            return False
        return self.verdict is None or any(standing(story, site) == self.verdict for site in sites)


def since(text: str) -> str:
    """Read a day (``2026-11-02``) or a time (RFC 3339; UTC where no zone is given) as entries have moments.

    Raises:
        SettingsError: It is neither.
    """
    try:
        at = dt.datetime.fromisoformat(text)
        seconds = (at if at.tzinfo else at.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = -1.0
    if seconds < 0:
        raise SettingsError(
            "--since is no time", got=repr(text[:40]), expected="a day such as 2026-11-02, or 2026-11-02T09:00:00Z"
        )
    return moment(seconds)


def everybody(story: RoundStory) -> list[str]:
    """Return the sites of a round: who was asked, and of whom something is written."""
    return sorted({*story.opened.asked, *story.updates})


def standing(story: RoundStory, site: str) -> str:
    """Return how a site stands in a round, in a word of :data:`VERDICTS`; a site of which nothing is told is silent."""
    return story.standing(site) or "silent"


def row(run: str, story: RoundStory) -> dict[str, Any]:
    """Return one round as a row: :data:`COLUMNS`, and ``verdicts`` by site."""
    closed = story.closed
    spent = [update.privacy.epsilon for update in story.updates.values() if update.privacy]
    return {
        "run": run,
        "round": story.number,
        "work": story.opened.work,
        "outcome": story.outcome,
        "opened": story.opened.at,
        "closed": closed.at if closed else None,
        "asked": list(story.opened.asked),
        "averaged": list(closed.averaged) if closed else [],
        "left_out": [site for site in sorted(story.updates) if story.updates[site].verdict in _NOT_AVERAGED],
        "taken_back": sorted(story.taken_back),
        "silent": story.silent,
        "rule": closed.rule if closed else None,
        "detector": closed.detector if closed else None,
        "epsilon": max(spent, default=None),
        "site_epsilon": closed.site_epsilon if closed else None,
        "adapter": closed.adapter if closed else None,
        "openings": story.openings,
        "first_entry": story.opened_at,
        "last_entry": max([story.opened_at, story.closed_at or 0, *story.update_at.values()]),
        "verdicts": {site: standing(story, site) for site in everybody(story)},
    }


def rows(chronicle: Chronicle, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Yield the wanted rounds: runs in the order of their beginnings, rounds by number."""
    for run, told in chronicle.runs.items():
        for _, story in sorted(told.rounds.items()):
            if wanted.takes(run, story):
                yield row(run, story)


def to_csv(found: Iterable[Mapping[str, Any]], columns: Iterable[str] = COLUMNS) -> str:
    """Return rows as CSV (RFC 4180) with a line of names; lists with spaces between."""
    out, names = io.StringIO(), list(columns)
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(names)
    writer.writerows([_cell(one[name]) for name in names] for one in found)
    return out.getvalue()


def find_run(chronicle: Chronicle, text: str) -> RunStory:
    """Return the run of an id, of its beginning where no other begins so, or the ``last`` one.

    Raises:
        LedgerError: There is none, or several.
    """
    if text in chronicle.runs:
        return chronicle.runs[text]
    known = list(chronicle.runs)
    found = known[-1:] if text in _LATEST else [run for run in known if text and run.startswith(text)]
    if len(found) != 1:
        shown = ", ".join(known[-5:]) or "a record with a run"
        raise LedgerError(
            "the record knows no such run" if not found else "several runs begin so",
            got=repr(text[:64]) if not found else ", ".join(found[-5:]),
            expected=f"one of {shown}" if known else shown,
            advice="`bottega audit rounds` lists them; the beginning of an id will do, and so will `last`.",
        )
    return chronicle.runs[found[0]]


def find_round(told: RunStory, number: int) -> RoundStory:
    """Return a round of a run.

    Raises:
        LedgerError: It has none of that number.
    """
    if number not in told.rounds:
        numbers = sorted(told.rounds)
        raise LedgerError(
            "the record knows no such round of this run", got=number,
            expected=f"{numbers[0]} to {numbers[-1]}" if numbers else "a run with a round",
            advice=f"`bottega audit rounds {told.run}` lists them.",
        )  # fmt: skip
    return told.rounds[number]


def _cell(value: object) -> object:
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    # What begins so a spreadsheet would take for a formula.
    return "'" + value if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
