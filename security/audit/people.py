"""What the record says of one round, of one site, and of what runs cost sites in privacy."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from typing import Any

from common.errors import LedgerError
from security.audit.rounds import everybody, row, standing
from security.audit.tell import in_words
from security.audit.words import settings_of
from security.chronicle import Chronicle, MemberStory, RoundStory, RunStory
from security.entries import Joined, Rotated, seconds_of
from security.names import Role

_DAY_S = 86_400


def round_facts(told: RunStory, story: RoundStory) -> dict[str, Any]:
    """Return everything about one round: its row, and every site's verdict with the number of its entry."""
    updates = []
    for site in everybody(story):
        entry = story.updates.get(site)
        facts: dict[str, Any] = {"site": site, "standing": standing(story, site), "entry": story.update_at.get(site)}
        if entry is not None:
            facts |= entry.model_dump(mode="json", exclude={"kind", "run", "round", "site"})
        if site in story.taken_back:
            back = story.taken_back[site]
            facts["taken_back"] = {"found_in": back.found_in, "reason": back.reason}
        updates.append(facts)
    return {
        **row(told.run, story),
        "opened_by_entry": story.opened_at,
        "closed_by_entry": story.closed_at,
        "why": story.closed.why if story.closed else None,
        "started_from": story.opened.adapter,
        "updates": updates,
    }


def find_site(chronicle: Chronicle, name: str) -> MemberStory:
    """Return the site of a name.

    Raises:
        LedgerError: The record knows none.
    """
    sites = {one.name: one for one in chronicle.members.values() if one.role == Role.SITE}
    if name not in sites:
        raise LedgerError(
            "the record knows no such site", got=repr(name[:63]),
            expected=f"one of {', '.join(sorted(sites)[:12])}" if sites else "a record with a site",
            advice="`bottega audit rounds` shows who took part.",
        )  # fmt: skip
    return sites[name]


def site_facts(chronicle: Chronicle, member: MemberStory, now: float | None = None) -> dict[str, Any]:
    """Return everything about one site.

    Args:
        chronicle: All that the record tells.
        member: The site.
        now: Unix time, for the age of its keys; this moment when left out.
    """
    keyed = [line.entry.at for line in member.lines if isinstance(line.entry, Joined | Rotated)]
    joined = [line.entry.at for line in member.lines if isinstance(line.entry, Joined)]
    age = ((time.time() if now is None else now) - seconds_of(keyed[-1])) / _DAY_S if keyed else None
    runs = [_part(told, member.name) for told in chronicle.runs.values() if _took_part(told, member.name)]
    return {
        "site": member.name,
        "member": member.member,
        "status": member.status,
        "joined": joined[0] if joined else None,
        "keys_since": keyed[-1] if keyed else None,
        "keys_age_days": None if age is None else round(age, 1),
        "rotations": member.rotations,
        "runs": runs,
        "history": [{"entry": line.index, "at": line.entry.at, "words": in_words(line.entry)} for line in member.lines],
    }


def privacy_rows(chronicle: Chronicle, run: str | None = None, site: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield what each run cost each site that took part in it, and what the run's settings allow."""
    for told in chronicle.runs.values():
        if run is None or told.run == run:
            names = sorted({*told.sites, *(name for story in told.rounds.values() for name in everybody(story))})
            for name in names:
                if site is None or name == site:
                    yield _privacy(told, name)


def _privacy(told: RunStory, site: str) -> dict[str, Any]:
    settings = settings_of(told.started.settings)
    limit = settings.privacy if settings and settings.privacy else None
    spent = {
        number: story.updates[site].privacy
        for number, story in sorted(told.rounds.items())
        if site in story.updates and story.updates[site].privacy is not None
    }
    last = next(reversed(spent.values()), None)
    at = settings.site_privacy if settings and settings.site_privacy else None
    costs = [story.closed.site_epsilon for _, story in sorted(told.rounds.items()) if story.closed]
    return {
        "run": told.run,
        "site": site,
        "private": None if settings is None else limit is not None,
        "epsilon": last.epsilon if last else None,
        "limit_epsilon": limit.epsilon if limit else None,
        "delta": last.delta if last else None,
        "limit_delta": limit.delta if limit else None,
        "unit": last.unit if last else (limit.unit if limit else None),
        "sigma": last.multiplier if last else None,
        "clip": last.clip if last else None,
        "rate": last.rate if last else None,
        "steps": sum(one.steps for one in spent.values() if one),
        "multiplicity": last.multiplicity if last else None,
        "epsilon_by_round": {str(number): one.epsilon for number, one in spent.items() if one},
        "site_epsilon": next((cost for cost in reversed(costs) if cost is not None), None),
        "limit_site_epsilon": at.epsilon if at else None,
    }


def _took_part(told: RunStory, site: str) -> bool:
    return site in told.sites or any(site in everybody(story) for story in told.rounds.values())


def _part(told: RunStory, site: str) -> dict[str, Any]:
    """Return how a site took part in a run: how it stands in each round, and what that came to."""
    rounds = {
        number: standing(story, site) for number, story in sorted(told.rounds.items()) if site in everybody(story)
    }
    training = {number: word for number, word in rounds.items() if told.rounds[number].opened.work == "train"}
    words = sorted(set(training.values()))
    spent = _privacy(told, site)
    return {
        "run": told.run,
        "started": told.started.at,
        "status": told.status,
        "asked": len(training),
        "stands": {word: sum(one == word for one in training.values()) for word in words},
        "epsilon": spent["epsilon"],
        "limit_epsilon": spent["limit_epsilon"],
        "rounds": [
            {
                "round": number,
                "work": told.rounds[number].opened.work,
                "standing": word,
                "check": _check(told.rounds[number], site),
                "reason": _reason(told.rounds[number], site),
                "entry": told.rounds[number].update_at.get(site),
            }
            for number, word in rounds.items()
        ],
    }


def _check(story: RoundStory, site: str) -> str | None:
    entry = story.updates.get(site)
    return f"{entry.check} {entry.check_name}" if entry and entry.check else None


def _reason(story: RoundStory, site: str) -> str | None:
    if site in story.taken_back:
        return story.taken_back[site].reason
    return story.updates[site].reason if site in story.updates else None


def day(at: str) -> str:
    """Return a moment as tables have it: day and time, UTC, without seconds."""
    return dt.datetime.fromisoformat(at).strftime("%Y-%m-%d %H:%M")
