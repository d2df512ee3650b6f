"""Entries in words: one sentence each, for a person who follows a record as it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

_SHOWN = 12
"""Digits of a digest that are shown where it stands in a sentence."""

_ENDS = {"finished": "finished", "failed": "failed", "stopped": "was stopped"}


def in_words(entry: Entry) -> str:
    """Return what an entry tells, in a sentence without a full stop."""
    return _WORDS[type(entry)](entry)


def short(member: str) -> str:
    """Return a SPIFFE id as people say it: ``rossi``, and of others than sites the role with it."""
    _, role, name = member.rsplit("/", 2)
    return name if role == "site" else f"{role} {name}"


def _update(entry: Update) -> str:
    reason = f": {entry.reason}" if entry.reason else ""
    by = f" by check {entry.check} ({entry.check_name})" if entry.check else ""
    spent = f", \u03b5 {entry.privacy.epsilon:.3g} so far" if entry.privacy else ""
    return f"round {entry.round} of {entry.run}: {entry.site} {entry.verdict}{by}{spent}{reason}"


def _closed(entry: RoundClosed) -> str:
    who = f", {len(entry.averaged)} averaged" if entry.outcome == "aggregated" else ""
    adapter = f", adapter {entry.adapter[:_SHOWN]}" if entry.adapter else ""
    why = f": {entry.why}" if entry.why else ""
    return f"round {entry.round} of {entry.run} {entry.outcome}{who}{adapter}{why}"


def _started(entry: RunStarted) -> str:
    verb = "goes on" if entry.resumed else "begins"
    return f"run {entry.run} {verb}, ordered by {short(entry.operator)}, for {', '.join(entry.sites)}"


def _released(entry: Released) -> str:
    despite = f", despite: {entry.despite}" if entry.despite else ""
    return f"the adapter of round {entry.round} of {entry.run} is released by {short(entry.by)}{despite}"


def _checked(entry: Checked) -> str:
    return f"the adapter of round {entry.round} of {entry.run} is checked by {short(entry.by)}: {entry.words()}"


_WORDS: dict[type[Entry], Callable[[Any], str]] = {
    Founded: lambda e: f"the record begins, kept by {e.server}",
    Invited: lambda e: f"{short(e.member)} is invited by {short(e.by)}",
    Denied: lambda e: f"{short(e.member)} is refused by {short(e.by)}: {e.reason}",
    Joined: lambda e: f"{short(e.member)} belongs to the federation",
    Rotated: lambda e: f"{short(e.member)} goes over to new keys, for the {e.serial}. time",
    Revoked: lambda e: f"the membership of {short(e.member)} ends: {e.reason}",
    RosterSigned: lambda e: f"roster {e.version} is signed, {e.digest[:_SHOWN]}",
    Restored: lambda e: f"the server came back from a backup, with roster {e.roster}",
    RunStarted: _started,
    RunEnded: lambda e: f"run {e.run} {_ENDS[e.status]}" + (f": {e.reason}" if e.reason else ""),
    RoundOpened: lambda e: f"round {e.round} of {e.run} opens ({e.work}), {len(e.asked)} sites are asked",
    Update: _update,
    RoundClosed: _closed,
    TakenBack: lambda e: (
        f"round {e.found_in} of {e.run} takes back what {', '.join(e.sites)} did in round {e.round}: {e.reason}"
    ),
    Checked: _checked,
    Released: _released,
    Reinstated: lambda e: f"{short(e.member)} is reinstated by {short(e.by)}: {e.reason}",
}  # fmt: skip
