"""The evidence pack of a run: what its record says, gathered once for a page and a document that say the same."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import HomeError
from deploy.evidence_law import law_of
from deploy.evidence_page import write_page
from deploy.evidence_pdf import write_pdf
from security.audit.people import privacy_rows, round_facts
from security.audit.record import Record
from security.audit.rounds import find_run, row, standing
from security.audit.tell import in_words, short
from security.audit.verification import verify_record
from security.audit.words import settings_of, terms_of
from security.chronicle import Chronicle, RunStory
from security.entries import Reinstated, Restored
from security.ledger_names import cosigner_of
from security.names import Role

MOST_CHECKPOINTS = 12
"""Checkpoints that are printed: the latest of those that cover the run, the last one among them."""

_MOST_ROUNDS = 400
"""Rounds that are printed one by one."""

MARKS = {
    "admitted": "\u25cf", "clipped": "\u25cb", "rejected": "\u00d7", "refused": "\u2013", "taken back": "\u2190",
    "silent": "\u00b7",
}  # fmt: skip
"""How a site stands in a round, in one sign; the words stand beside them."""


def evidence_of(record: Record, run: str, now: float | None = None) -> dict[str, Any]:
    """Gather what the record says of a run, verified.

    Args:
        record: Open.
        run: The run's id, or how it begins, or ``last``.
        now: Unix time that the pack says it was made at; this moment when left out.

    Returns:
        Facts, all of which JSON can say.

    Raises:
        LedgerError: The record knows no such run, or an entry cannot be read.
    """
    chronicle = record.chronicle()
    told = find_run(chronicle, run)
    settings = settings_of(told.started.settings)
    authority = record.trust.authority
    facts: dict[str, Any] = {
        "made_at": _second(time.time() if now is None else now),
        "where": record.where,
        "federation": record.trust.federation,
        "key": str(record.trust.server_keys[0]),
        "pinned": record.trust.pinned,
        "authority": {"words": authority.words, "hex": authority.hex} if authority else None,
        "run": told.run,
        "status": told.status,
        "why": told.ended.reason if told.ended else None,
        "operator": short(told.started.operator),
        "started": told.started.at,
        "started_by_entry": told.started_at,
        "ended": told.ended.at if told.ended else None,
        "resumed": told.resumed,
        "software": told.started.software,
        "order": told.started.order,
        "base": told.started.base,
        "base_name": settings.base if settings else None,
        "sites": told.sites,
        "terms": [term._asdict() for term in terms_of(told.started.settings)],
        "private": None if settings is None else bool(settings.privacy),
        "rounds": [row(told.run, story) for _, story in sorted(told.rounds.items())][-_MOST_ROUNDS:],
        "privacy": list(privacy_rows(chronicle, told.run)),
        "matrix": _matrix(told),
        "left_out": _left_out(told),
        "updates": _updates(told),
        "checks": [{"at": one.at, "words": in_words(one)} for one in told.checks],
        "releases": [
            {"round": one.round, "at": one.at, "by": short(one.by), "adapter": one.adapter, "despite": one.despite}
            for one in told.releases
        ],
        "decisions": _decisions(chronicle, told),
        "restored": len(chronicle.restored),
        "checkpoints": _checkpoints(record, told),
        "verification": verify_record(record).facts(),
    }
    return {**facts, "law": law_of(facts), "steps": _steps(facts)}


def write_pack(facts: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``report.html`` and ``report.pdf`` into a folder; what is there under these names gives way.

    Raises:
        HomeError: They cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page, document = folder / "report.html", folder / "report.pdf"
        write_page(page, facts)
        write_pdf(document, facts)
    except OSError as cause:
        raise HomeError(
            "the report cannot be written", got=cause.strerror, expected="leave and room to write",
            advice="Name another folder with --out.",
        ) from None  # fmt: skip
    return [page, document]


def _matrix(told: RunStory) -> dict[str, Any]:
    """Return how every site stands in every round that trains, and in the last look."""
    stories = [story for _, story in sorted(told.rounds.items())][-_MOST_ROUNDS:]
    names = sorted({*told.sites, *(site for story in stories for site in story.updates)})
    asked = [{*story.opened.asked, *story.updates} for story in stories]
    return {
        "rounds": [story.number if story.opened.work == "train" else "look" for story in stories],
        "sites": [
            {
                "site": name,
                "cells": [
                    {"standing": word, "mark": MARKS[word]} if name in there else None
                    for story, there in zip(stories, asked, strict=True)
                    for word in [standing(story, name)]
                ],
            }
            for name in names
        ],
        "legend": [{"standing": word, "mark": mark} for word, mark in MARKS.items()],
    }


def _left_out(told: RunStory) -> list[dict[str, Any]]:
    """Return every update that was not averaged as it came, and why."""
    found = []
    for _, story in sorted(told.rounds.items()):
        for one in round_facts(told, story)["updates"]:
            if one["standing"] in {"rejected", "refused", "taken back", "clipped"}:
                back = one.get("taken_back")
                found.append(
                    {
                        "round": story.number,
                        "site": one["site"],
                        "standing": one["standing"],
                        "check": f"{one['check']} {one['check_name']}" if one.get("check") else "",
                        "reason": (back or one).get("reason") or "",
                        "p_value": one.get("p_value"),
                        "entry": one["entry"],
                    }
                )
    return found


def _updates(told: RunStory) -> dict[str, int]:
    """Count the verdicts of the rounds that train, by how they stand, and those of which a sealed update is known."""
    stories = [story for story in told.rounds.values() if story.opened.work == "train"]
    words = [story.standing(site) for story in stories for site in story.updates]
    sealed = sum(update.sealed is not None for story in told.rounds.values() for update in story.updates.values())
    return {**{word: words.count(word) for word in MARKS}, "all": len(words), "sealed": sealed}


def _decisions(chronicle: Chronicle, told: RunStory) -> list[dict[str, Any]]:
    """Return what people decided that bears on this run: endings of memberships, reinstatements, restored backups."""
    lines = [line for member in chronicle.members.values() if member.name in told.sites for line in member.lines]
    found = [line for line in lines if isinstance(line.entry, Reinstated) or line.entry.kind == "revoked"]
    found += [line for line in chronicle.restored if isinstance(line.entry, Restored)]
    return [
        {"entry": line.index, "at": line.entry.at, "words": in_words(line.entry)}
        for line in sorted(found, key=lambda line: line.index)
    ]


def _checkpoints(record: Record, told: RunStory) -> list[dict[str, Any]]:
    """Return the checkpoints that cover the run, with who co-signed them; the last is the latest that there is."""
    last = max((one["last_entry"] for one in (row(told.run, story) for story in told.rounds.values())), default=0)
    sizes = [int(size) for (size,) in record.reader.rows("SELECT size FROM ledger_checkpoints ORDER BY size")]
    covering = [size for size in sizes if size > told.started_at]
    first = next((size for size in covering if size > last), None)  # the first that covers all of its rounds
    chosen = sorted({*covering[-MOST_CHECKPOINTS:], *([first] if first else [])})[-MOST_CHECKPOINTS:]
    names = {cosigner_of(one.id): one.id.name for one in record.trust.roster.members if one.id.role is Role.SITE}
    found = []
    for size in chosen:
        note = record.reader.cosigned(size) or b""
        signed = record.trust.open(note)
        seen = {names.get(name, name): at for name, at in record.trust.cosigned(note).items()}
        found.append(
            {
                "size": size,
                "root": signed.root.hex(),
                "text": signed.to_text().decode(),
                "note": note.decode(),
                "cosigned": [{"site": site, "at": _second(at)} for site, at in sorted(seen.items())],
                "covers": size > last,
            }
        )
    return found


def _steps(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return how somebody who trusts nobody verifies this report, step by step."""
    last = facts["checkpoints"][-1] if facts["checkpoints"] else None
    size, root = (last["size"], last["root"]) if last else (0, "")
    steps = [
        (
            "Get the record itself, as one file, from the operator or from any auditor of the federation.",
            "bottega audit export record.zip",
        ),
        (
            "Compare the server's key below with what a member of the federation tells you by another way than this "
            "report. Members know it from the day they joined.",
            facts["key"],
        ),
        (
            "Verify the record with that key. It must say that the record holds, and exit with 0.",
            f"bottega audit verify --bundle record.zip --key '{facts['key']}'",
        ),
        (
            f"See that this report is about that record: its checkpoint of {size} entries must have this root. In the "
            f"file it is checkpoints/{size:012d}.note.",
            root,
        ),
        (
            "Ask sites which checkpoints they co-signed. One that remembers another root of the same size, or a larger "
            "size than the record has, has been shown another history.",
            "bottega site receipts verify",
        ),
        (
            "Make this report again from the record; its facts must be the same.",
            f"bottega audit report {facts['run']} --bundle record.zip --out again",
        ),
        (
            "Without bottega: unzip the file and read README.txt in it. Entries are canonical JSON (RFC 8785), the "
            "tree is RFC 6962 with SHA-256, checkpoints are C2SP signed notes (c2sp.org/tlog-checkpoint) with "
            "cosignature/v1 lines (c2sp.org/tlog-cosignature); keys/*.vkey are as Go's golang.org/x/mod/sumdb/note "
            "takes them.",
            "",
        ),
    ]
    return [{"words": words, "type": command} for words, command in steps]


def _second(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
