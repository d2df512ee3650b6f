"""What the ledger tells, read in order: members, runs, rounds and verdicts as they stand after an entry.

Everything that an auditor is shown is made of entries and of nothing else, so it is as sure as they are. A round that
was opened again (its server had crashed) stands as it was told last; that it was opened before stays to be seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from security.entries import (
    Checked,
    Denied,
    Entry,
    Founded,
    Invited,
    Joined,
    Reinstated,
    Released,
    Restored,
    Revoked,
    RosterSigned,
    Rotated,
    RoundClosed,
    RoundOpened,
    RunEnded,
    RunStarted,
    TakenBack,
    Update,
)


@dataclass(frozen=True)
class Line:
    """One entry and its place in the ledger, from 0."""

    index: int
    entry: Entry


@dataclass
class RoundStory:
    """One round as it stands.

    Attributes:
        opened: Its beginning.
        closed: Its end; None while it is open, or when it was cut off.
        updates: The verdict on each site's answer, by name.
        taken_back: Sites whose updates were averaged and taken out again later, with that entry.
        openings: How often it was opened; more than once when the server had crashed.
    """

    opened: RoundOpened
    opened_at: int
    closed: RoundClosed | None = None
    closed_at: int | None = None
    updates: dict[str, Update] = field(default_factory=dict)
    update_at: dict[str, int] = field(default_factory=dict)
    taken_back: dict[str, TakenBack] = field(default_factory=dict)
    openings: int = 1

    @property
    def number(self) -> int:
        """The round's number."""
        return self.opened.round

    @property
    def outcome(self) -> str:
        """``open``, ``aggregated``, ``kept`` or ``measured``."""
        return self.closed.outcome if self.closed else "open"

    @property
    def silent(self) -> list[str]:
        """Sites that were asked and of whom nothing is written (yet)."""
        return [site for site in self.opened.asked if site not in self.updates]

    def standing(self, site: str) -> str:
        """Return a site's verdict in a word: as given, ``taken back``, or empty when there is none."""
        if site in self.taken_back:
            return "taken back"
        return self.updates[site].verdict if site in self.updates else ""


@dataclass
class RunStory:
    """One run as it stands.

    Attributes:
        started: Its first beginning.
        ended: Its end; None while it runs, or when it was cut off.
        resumed: How often it went on after a stop.
        rounds: By number.
        checks: On public drawings, in order.
        releases: In order.
    """

    started: RunStarted
    started_at: int
    ended: RunEnded | None = None
    resumed: int = 0
    rounds: dict[int, RoundStory] = field(default_factory=dict)
    checks: list[Checked] = field(default_factory=list)
    releases: list[Released] = field(default_factory=list)

    @property
    def run(self) -> str:
        """The run's id."""
        return self.started.run

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``failed`` or ``stopped``, as far as is written."""
        return self.ended.status if self.ended else "running"

    @property
    def sites(self) -> list[str]:
        """The sites that its order asks."""
        return list(self.started.sites)

    def epsilon(self, site: str) -> float | None:
        """Return what the run has cost the drawings of a site that paid most, as told last; None where nothing was."""
        told = [
            story.updates[site].privacy
            for _, story in sorted(self.rounds.items())
            if site in story.updates and story.updates[site].privacy is not None
        ]
        return told[-1].epsilon if told and told[-1] else None


@dataclass
class MemberStory:
    """One member, or one who asked to be, as they stand.

    Attributes:
        member: SPIFFE id.
        status: ``invited``, ``denied``, ``active`` or ``revoked``.
        lines: All entries about them, in order.
    """

    member: str
    status: str
    lines: list[Line] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The last part of the id."""
        return self.member.rsplit("/", 1)[1]

    @property
    def role(self) -> str:
        """site, operator or auditor."""
        return self.member.rsplit("/", 2)[1]

    @property
    def rotations(self) -> int:
        """How often they went over to new keys."""
        return sum(isinstance(line.entry, Rotated) for line in self.lines)


_STATUS = {Invited: "invited", Denied: "denied", Joined: "active", Revoked: "revoked"}


@dataclass
class Chronicle:
    """All that a ledger tells.

    Attributes:
        founded: Its beginning; None in a part of a ledger.
        members: By SPIFFE id.
        runs: By id, in the order of their beginnings.
        roster: The last one that was signed.
        restored: Entries that tell of a server that came back from a backup.
        strays: Entries that fit nowhere, such as the end of a run that never began; a sound ledger has none.
    """

    founded: Founded | None = None
    members: dict[str, MemberStory] = field(default_factory=dict)
    runs: dict[str, RunStory] = field(default_factory=dict)
    roster: RosterSigned | None = None
    restored: list[Line] = field(default_factory=list)
    strays: list[Line] = field(default_factory=list)
    size: int = 0

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Chronicle:
        """Read entries in order."""
        chronicle = cls()
        for line in lines:
            chronicle.read(line)
        return chronicle

    def read(self, line: Line) -> None:
        """Take in the next entry."""
        self.size = max(self.size, line.index + 1)
        entry = line.entry
        if isinstance(entry, Founded):
            self.founded = entry
        elif isinstance(entry, RosterSigned):
            self.roster = entry
        elif isinstance(entry, Restored):
            self.restored.append(line)
        elif isinstance(entry, Invited | Denied | Joined | Rotated | Revoked | Reinstated):
            self._of_member(line, entry)
        elif not self._of_run(line):
            self.strays.append(line)

    def _of_member(self, line: Line, entry: Invited | Denied | Joined | Rotated | Revoked | Reinstated) -> None:
        story = self.members.setdefault(entry.member, MemberStory(entry.member, "invited"))
        story.lines.append(line)
        story.status = _STATUS.get(type(entry), story.status)

    def _of_run(self, line: Line) -> bool:
        entry = line.entry
        if isinstance(entry, RunStarted):
            self._begin(line.index, entry)
            return True
        story = self.runs.get(getattr(entry, "run", ""))
        if story is None:
            return False
        if isinstance(entry, RunEnded):
            story.ended = entry
        elif isinstance(entry, Checked):
            story.checks.append(entry)
        elif isinstance(entry, Released):
            story.releases.append(entry)
        elif isinstance(entry, RoundOpened):
            before = story.rounds.get(entry.round)
            openings = before.openings + 1 if before else 1
            story.rounds[entry.round] = RoundStory(entry, line.index, openings=openings)
        else:
            return _of_round(story, line)
        return True

    def _begin(self, index: int, entry: RunStarted) -> None:
        story = self.runs.get(entry.run)
        if story is None:
            self.runs[entry.run] = RunStory(entry, index)
        else:
            story.resumed += 1
            story.ended = None


def _of_round(story: RunStory, line: Line) -> bool:
    entry = line.entry
    if not isinstance(entry, Update | RoundClosed | TakenBack):
        return False
    told = story.rounds.get(entry.round)
    if told is None:
        return False
    if isinstance(entry, Update):
        told.updates[entry.site], told.update_at[entry.site] = entry, line.index
    elif isinstance(entry, RoundClosed):
        told.closed, told.closed_at = entry, line.index
    else:
        told.taken_back |= dict.fromkeys(entry.sites, entry)
    return True
