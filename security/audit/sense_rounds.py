"""Whether what the record tells of one round makes sense."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from security.admission import Check
from security.audit.finding import Finding
from security.entries import RoundClosed, RoundOpened, TakenBack, Update

_AVERAGED = frozenset({"admitted", "clipped"})
_FITS = {"admitted": {Check.ADMITTED}, "clipped": {Check.SIZE}}


@dataclass
class RoundSense:
    """One round, by the entries so far.

    Attributes:
        opened: Its beginning.
        index: That entry.
        private: Whether the run promises privacy of drawings.
        gone: Sites that were asked and had been revoked before.
        closing: Its end; None while it is open.
    """

    opened: RoundOpened
    index: int
    private: bool = False
    gone: frozenset[str] = frozenset()
    closing: RoundClosed | None = None
    updates: dict[str, Update] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self.closing is not None

    def update(self, entry: Update, index: int) -> Iterator[Finding]:
        """Take in a verdict; yield what is found."""
        where = f"{entry.site} in round {entry.round}"
        if self.closed:
            yield Finding("verdict-too-late", f"a verdict on {where} after the round was closed", index)
        if entry.site not in self.opened.asked:
            yield Finding("verdict-of-nobody", f"a verdict on {where}, which was not asked", index)
        if (entry.check == Check.ADMITTED) is not (entry.verdict == "admitted"):
            yield Finding("verdict-check", f"{where} is {entry.verdict} by check {entry.check}", index)
        if entry.verdict not in _AVERAGED and entry.weight:
            yield Finding("weight-of-nothing", f"{where} is {entry.verdict} and has a weight in the mean", index)
        train, taken = self.opened.work == "train", entry.verdict in _AVERAGED
        if self.private and train and taken and entry.privacy is None:
            words = f"{where} is {entry.verdict} without a word on privacy, in a run that promises it"
            yield Finding("privacy-untold", words, index)
        self.updates[entry.site] = entry

    def close(self, entry: RoundClosed, index: int) -> Iterator[Finding]:
        """Take in the end; yield what is found."""
        number = entry.round
        if self.closed:
            yield Finding("round-closed-twice", f"round {number} is closed a second time", index)
        if (entry.outcome == "measured") is not (self.opened.work == "evaluate"):
            words = f"round {number} was opened to {self.opened.work} and ended as {entry.outcome}"
            yield Finding("round-outcome", words, index)
        taken = {site for site, update in self.updates.items() if update.verdict in _AVERAGED}
        for site in sorted(set(entry.averaged) - taken):
            told = self.updates[site].verdict if site in self.updates else "without a verdict"
            yield Finding("averaged-unadmitted", f"round {number} averaged {site}, which was {told}", index)
        for site in sorted(set(entry.averaged) & self.gone):
            yield Finding("averaged-revoked", f"round {number} averaged {site}, which was revoked before", index)
        if entry.outcome == "aggregated":
            for site in sorted(taken - set(entry.averaged)):
                words = f"round {number} left out {site}, which was {self.updates[site].verdict}"
                yield Finding("admitted-unaveraged", words, index)
        if entry.outcome == "aggregated" and entry.adapter is None:
            yield Finding("round-without-adapter", f"round {number} was aggregated and has no adapter", index)
        self.closing = entry

    def take_back(self, entry: TakenBack, index: int) -> Iterator[Finding]:
        """Take in that updates were taken out again; yield what is found."""
        averaged = set(self.closing.averaged) if self.closing else set()
        if never := sorted(set(entry.sites) - averaged):
            words = f"taken back from round {entry.round}: {', '.join(never)}, which it had not averaged"
            yield Finding("taken-back-unaveraged", words, index)
        if entry.found_in <= entry.round:
            words = f"round {entry.round} is taken back by round {entry.found_in}, which came before"
            yield Finding("taken-back-before", words, index)
