"""Whether what the record tells of runs makes sense: each begins, closes its rounds in order, and releases its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from common.settings import RunSettings
from security.audit.finding import Finding
from security.audit.sense_members import MembersSense
from security.audit.sense_rounds import RoundSense
from security.audit.words import settings_of
from security.chronicle import Line
from security.entries import (
    Checked,
    Released,
    RoundClosed,
    RoundOpened,
    RunEnded,
    RunStarted,
    TakenBack,
    Update,
    stands_against,
)


@dataclass
class _Run:
    started: RunStarted
    settings: RunSettings | None  # None where this version does not know them
    federation: str
    rounds: dict[int, RoundSense] = field(default_factory=dict)
    adapter: str | None = None  # that the last round ended with
    epsilon: dict[str, float] = field(default_factory=dict)  # by site, as told last
    ended: int | None = None


class RunsSense:
    """The runs, by the entries so far.

    Args:
        members: Who belongs, by the same entries; it reads each before this does.
    """

    def __init__(self, members: MembersSense) -> None:
        self._members = members
        self._runs: dict[str, _Run] = {}

    def read(self, line: Line) -> Iterator[Finding]:
        """Take in the next entry; yield what is found."""
        entry, index = line.entry, line.index
        if isinstance(entry, RunStarted):
            yield from self._started(entry, index)
            return
        if not isinstance(entry, RunEnded | RoundOpened | Update | RoundClosed | TakenBack | Checked | Released):
            return
        run = self._runs.get(entry.run)
        if run is None:
            yield Finding("run-from-nowhere", f"{entry.kind} of run {entry.run}, which never began", index)
        elif isinstance(entry, RunEnded):
            run.ended = index
            yield from _ended(run, entry, index)
        elif isinstance(entry, RoundOpened):
            yield from self._opened(run, entry, index)
        elif entry.round not in run.rounds:
            yield Finding("round-from-nowhere", f"{entry.kind} of round {entry.round}, which was never opened", index)
        elif isinstance(entry, Checked | Released):
            yield from _looked_at(run, entry, index)
        else:
            yield from _of_round(run, entry, index)

    def close(self) -> Iterator[Finding]:
        """Yield what is found at the end."""
        for run in self._runs.values():
            for number, told in run.rounds.items():
                if run.ended is not None and not told.closed:
                    words = f"round {number} of run {run.started.run} was opened and never closed, and the run ended"
                    yield Finding("round-left-open", words, told.index, fault=False)

    def _started(self, entry: RunStarted, index: int) -> Iterator[Finding]:
        known = self._runs.get(entry.run)
        if (known is not None) is not entry.resumed:
            words = "begins a second time" if known else "goes on, and never began"
            yield Finding("run-twice" if known else "run-from-nowhere", f"run {entry.run} {words}", index)
        if entry.operator in self._members.revoked:
            yield Finding("operator-revoked", f"run {entry.run} is by {entry.operator}, who was revoked before", index)
        elif entry.operator not in self._members.joined:
            words = f"run {entry.run} is by {entry.operator}, of whom no entry says that they joined"
            yield Finding("operator-unknown", words, index, fault=False)
        if known is None:
            federation = entry.operator.removeprefix("spiffe://").split("/")[0]
            self._runs[entry.run] = _Run(entry, settings_of(entry.settings), federation)
            return
        known.ended = None
        if (known.started.order, known.started.settings) != (entry.order, entry.settings):
            words = f"run {entry.run} goes on with other settings or another order than it began with"
            yield Finding("run-changed", words, index)

    def _opened(self, run: _Run, entry: RoundOpened, index: int) -> Iterator[Finding]:
        before, again = run.rounds.get(entry.round - 1), run.rounds.get(entry.round)
        if run.ended is not None:
            yield Finding("round-after-end", f"round {entry.round} is opened after its run ended", index)
        if entry.round > 1 and (before is None or not before.closed):
            words = f"round {entry.round} is opened, and round {entry.round - 1} is not closed"
            yield Finding("round-out-of-order", words, index)
        if again is not None and again.closed:
            yield Finding("round-reopened", f"round {entry.round} is opened again after it was closed", index)
        elif again is not None:
            words = f"round {entry.round} was opened again: its first try was cut off, and what it told no longer holds"
            yield Finding("round-tried-again", words, index, fault=False)
        if run.adapter is not None and entry.adapter != run.adapter:
            words = f"round {entry.round} starts from another adapter than the round before ended with"
            yield Finding("adapter-from-nowhere", words, index)
        if strangers := sorted(set(entry.asked) - set(run.started.sites)):
            words = f"round {entry.round} asks {', '.join(strangers)}, whom the run's order does not name"
            yield Finding("asked-stranger", words, index)
        yield from self._asked(run, entry, index)
        promised = run.settings is not None and bool(run.settings.privacy)
        gone = frozenset(site for site in entry.asked if self._id(run, site) in self._members.revoked)
        run.rounds[entry.round] = RoundSense(entry, index, promised, gone)

    def _asked(self, run: _Run, entry: RoundOpened, index: int) -> Iterator[Finding]:
        for site in entry.asked:
            if self._id(run, site) in self._members.revoked:
                words = f"round {entry.round} asks {site}, who was revoked before"
                yield Finding("asked-revoked", words, index, fault=False)
            elif self._id(run, site) not in self._members.joined:
                words = f"round {entry.round} asks {site}, of whom no entry says that it joined"
                yield Finding("asked-unknown", words, index, fault=False)

    def _id(self, run: _Run, site: str) -> str:
        return f"spiffe://{run.federation}/site/{site}"


def _ended(run: _Run, entry: RunEnded, index: int) -> Iterator[Finding]:
    told = run.settings
    closed = sum(one.closed and one.opened.work == "train" for one in run.rounds.values())
    if entry.status == "finished" and told is not None and closed < told.rounds:
        words = f"run {entry.run} finished after {closed} of {told.rounds} rounds"
        yield Finding("run-short", words, index)


def _spent(run: _Run, entry: Update, index: int) -> Iterator[Finding]:
    """What a site told of its privacy, beside what it told before and what the run allows."""
    if entry.privacy is None or entry.verdict in {"refused", "rejected"}:
        return
    told, spent = run.settings, entry.privacy.epsilon
    if told is not None and told.privacy and spent > told.privacy.epsilon * (1 + 1e-9):
        words = f"{entry.site} was averaged at epsilon {spent:g}; the run allows {told.privacy.epsilon:g}"
        yield Finding("privacy-overspent", words, index)
    if spent < run.epsilon.get(entry.site, 0.0) - 1e-9:
        before = run.epsilon[entry.site]
        words = f"the epsilon that {entry.site} tells of this run went down, from {before:g} to {spent:g}"
        yield Finding("privacy-backwards", words, index)
    run.epsilon[entry.site] = spent


def _of_round(run: _Run, entry: Update | RoundClosed | TakenBack, index: int) -> Iterator[Finding]:
    told = run.rounds[entry.round]
    if isinstance(entry, Update):
        yield from told.update(entry, index)
        yield from _spent(run, entry, index)
    elif isinstance(entry, RoundClosed):
        yield from told.close(entry, index)
        run.adapter = entry.adapter or run.adapter
    else:
        yield from told.take_back(entry, index)


def _looked_at(run: _Run, entry: Checked | Released, index: int) -> Iterator[Finding]:
    closed = run.rounds[entry.round].closing
    if closed is None or closed.adapter != entry.adapter:
        words = f"the adapter that was {entry.kind} as that of round {entry.round} is not what the round ended with"
        yield Finding(f"{entry.kind}-another", words, index)
    if isinstance(entry, Checked) and entry.worse is not stands_against(entry.alike, entry.change, entry.margin):
        words = f"the check of the adapter of round {entry.round} does not follow from its own numbers"
        yield Finding("checked-wrongly", words, index)
    if isinstance(entry, Released) and entry.despite is not None:
        words = f"the adapter of round {entry.round} was released although something stood against it: {entry.despite}"
        yield Finding("released-despite", words, index, fault=False)
