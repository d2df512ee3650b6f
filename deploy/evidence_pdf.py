"""The evidence pack as a PDF, made of the same facts as the page, without a browser."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.evidence_document import BAD, FAINT, GOOD, INK, WARN, Cell, Document

_COLOURS = {"admitted": GOOD, "clipped": WARN, "rejected": BAD, "refused": BAD, "taken back": BAD, "silent": FAINT}
_ROUNDS_A_TABLE = 18
"""Rounds side by side in one table of verdicts."""


def write_pdf(file: Path, facts: Mapping[str, Any]) -> None:
    """Write the document.

    Args:
        file: Where.
        facts: As :func:`deploy.evidence.evidence_of` gathers them.

    Raises:
        OSError: It cannot be written.
    """
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every table of every font
    title = f"Evidence on run {facts['run']} of {facts['federation']}"
    made_at = dt.datetime.strptime(facts["made_at"], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=dt.UTC)
    document = Document(title, f"{title}, {facts['made_at']}", made_at)
    for part in (_cover, _run, _terms, _privacy, _rounds, _matrix, _left_out, _decisions, _verification, _checkpoints,
                 _steps, _law):  # fmt: skip
        part(document, facts)
    document.output(str(file))


def _cover(to: Document, facts: Mapping[str, Any]) -> None:
    check = facts["verification"]
    to.title_line(f"Evidence on run {facts['run']}")
    to.words(
        f"Of the federation {facts['federation']}. Made on {facts['made_at']} from its ledger alone "
        f"({facts['where']}); nothing here was typed in by hand.", FAINT,
    )  # fmt: skip
    if check["holds"]:
        to.words(
            f"The record holds: {check['entries']} entries, every hash, signature and co-signature verified, no fault "
            "found.", GOOD, bold=True, size=10.5,
        )  # fmt: skip
    else:
        to.words(
            f"The record does not hold, from entry {check['holds_to']} on; what is wrong stands under "
            "Verification.", BAD, bold=True, size=10.5,
        )  # fmt: skip


def _run(to: Document, facts: Mapping[str, Any]) -> None:
    counts = facts["updates"]
    why = f" ({facts['why']})" if facts["why"] else ""
    on = f"; it went on {facts['resumed']} times after a stop" if facts["resumed"] else ""
    to.heading("The run")
    to.facts_list(
        [
            ("ordered by", f"operator {facts['operator'].split(' ')[-1]}, who signed the order"),
            ("order, SHA-256", facts["order"]),
            ("sites asked", ", ".join(facts["sites"])),
            ("begun", f"{facts['started']}, entry {facts['started_by_entry']}"),
            ("ended", f"{facts['ended'] or 'not yet'}: {facts['status']}{why}{on}"),
            ("base model", facts["base_name"] or "not told"),
            ("base, SHA-256", facts["base"]),
            ("software", facts["software"]),
            (
                "answers to tasks",
                f"{counts['all']}: {counts['admitted']} admitted, {counts['clipped']} cut down, {counts['rejected']} "
                f"rejected, {counts['refused']} refused, {counts['taken back']} taken back later",
            ),
        ],
        mono=("order, SHA-256", "base, SHA-256"),
    )


def _terms(to: Document, facts: Mapping[str, Any]) -> None:
    to.heading("On which terms")
    to.words(
        "The settings that the operator signed and every site was sent, in words. "
        f"Entry {facts['started_by_entry']} has them in full."
    )
    to.facts_list([(term["about"], term["words"]) for term in facts["terms"]])


def _privacy(to: Document, facts: Mapping[str, Any]) -> None:
    to.heading("Privacy, by site")
    if facts["private"] is None:
        to.words(
            "The settings of this run are of another version than this report's; whether it was private is not known."
        )
    elif not facts["private"]:
        to.words("This run was not private. Its updates and its adapter can tell of the drawings they came from.", BAD)
    else:
        to.words(
            "What the run had cost one unit at each site by its last round there, as the site itself told and signed "
            "it. The noise was added at the site."
        )
        names = ("site", "\u03b5", "of", "\u03b4", "unit", "noise (\u03c3)", "clip", "rate", "steps", "draws")
        keys = ("epsilon", "limit_epsilon", "delta", "unit", "sigma", "clip", "rate", "steps", "multiplicity")
        rows = [[one["site"], *(_short(one[key]) for key in keys)] for one in facts["privacy"]]
        to.grid(names, rows, (22, 8, 8, 10, 12, 12, 10, 8, 8, 8), right=(1, 2, 3, 5, 6, 7, 8, 9))
    whole = [one for one in facts["privacy"] if one["limit_site_epsilon"]]
    if whole:
        cost = _short(whole[0]["site_epsilon"]) or "not told"
        to.words(
            "Each site as a whole was protected too, by noise that the server adds: "
            f"\u03b5 = {cost} of {_short(whole[0]['limit_site_epsilon'])}."
        )


def _rounds(to: Document, facts: Mapping[str, Any]) -> None:
    to.heading("Rounds")
    rows = [
        [
            str(one["round"]),
            one["opened"][:16].replace("T", " "),
            one["outcome"] + (f", tried {one['openings']} times" if one["openings"] > 1 else ""),
            f"{len(one['averaged'])} of {len(one['asked'])}" if one["work"] == "train" else "",
            one["rule"] or "",
            one["detector"] or "",
            (one["adapter"] or "")[:16],
            f"{one['first_entry']} to {one['last_entry']}",
        ]
        for one in facts["rounds"]
    ]
    names = ("round", "opened (UTC)", "outcome", "averaged", "rule", "detector", "adapter, SHA-256", "entries")
    to.grid(names, rows, (9, 20, 16, 12, 19, 20, 22, 16), right=(0, 3), mono=(6,))


def _matrix(to: Document, facts: Mapping[str, Any]) -> None:
    matrix = facts["matrix"]
    to.heading("Verdicts")
    to.words(
        "; ".join(f"{one['mark']} {one['standing']}" for one in matrix["legend"])
        + ". An empty cell: the site was not asked."
    )
    for start in range(0, len(matrix["rounds"]), _ROUNDS_A_TABLE):
        shown = slice(start, start + _ROUNDS_A_TABLE)
        numbers = [str(number) for number in matrix["rounds"][shown]]
        rows = [
            [
                one["site"],
                *((cell["mark"], _COLOURS[cell["standing"]]) if cell else "" for cell in one["cells"][shown]),
                "",
            ]
            for one in matrix["sites"]
        ]
        places = range(1, len(numbers) + 1)
        widths = [24, *[7.0] * len(numbers), 7.0 * (_ROUNDS_A_TABLE - len(numbers)) + 0.1]
        to.grid(("site", *numbers, ""), rows, widths, centred=places)


def _left_out(to: Document, facts: Mapping[str, Any]) -> None:
    to.heading("Who was left out, and why")
    if not facts["left_out"]:
        to.words("Nobody: every update of every round was averaged as it came.")
        return
    rows = [
        [
            str(one["round"]), one["site"], (one["standing"], _COLOURS[one["standing"]]), one["check"],
            _short(one["p_value"]), one["reason"], "" if one["entry"] is None else str(one["entry"]),
        ]
        for one in facts["left_out"]
    ]  # fmt: skip
    names = ("round", "site", "what was done", "check", "p", "reason, as recorded", "entry")
    to.grid(names, rows, (9, 17, 15, 17, 9, 56, 9), right=(0, 4, 6))


def _decisions(to: Document, facts: Mapping[str, Any]) -> None:
    to.heading("Releases and decisions")
    if not facts["checks"]:
        to.words("The record tells of no check of an adapter of this run on public drawings.")
    for one in facts["checks"]:
        to.words(f"{one['at']}: {one['words']}")
    if not facts["releases"]:
        to.words("The record tells of no release of an adapter of this run.")
    for one in facts["releases"]:
        despite = f", although something stood against it: {one['despite']}" if one["despite"] else ""
        to.words(f"{one['at']}: the adapter of round {one['round']} was released by {one['by']}{despite}. SHA-256:")
        to.code(one["adapter"])
    for one in facts["decisions"]:
        to.words(f"{one['at']}, entry {one['entry']}: {one['words']}")


def _verification(to: Document, facts: Mapping[str, Any]) -> None:
    check = facts["verification"]
    to.heading("Verification")
    seen = [f"{site} ({f'up to {size} entries' if size else 'nothing'})" for site, size in check["cosigned_by"].items()]
    rows = [
        ("entries", f"{check['entries']}; a signed checkpoint covers {check['covered_by_a_checkpoint']}"),
        ("root", check["root"]),
        ("co-signed by", ", ".join(seen) or "nobody: the federation has no active site"),
        ("server's key", facts["key"]),
    ]
    if not facts["pinned"]:
        rows.append(("", "known by the record's own word alone: compare it"))
    if facts["authority"]:
        rows += [("authority", facts["authority"]["words"]), ("its SHA-256", facts["authority"]["hex"])]
    rows.append(("adapters", f"{check['adapters']} were held to their rounds"))
    to.facts_list(rows, mono=("root", "server's key", "its SHA-256"))
    for title, found, colour in (("Faults", check["faults"], BAD), ("Remarks", check["remarks"], INK)):
        if found:
            to.heading(title, 1)
        for one in found:
            where = "" if one["entry"] is None else f"entry {one['entry']}: "
            to.words(f"{where}{one['words']} ({one['what']})", colour)


def _checkpoints(to: Document, facts: Mapping[str, Any]) -> None:
    to.heading("Checkpoints")
    if not facts["checkpoints"]:
        to.words("No checkpoint covers this run yet: nothing that stands here is signed.", BAD)
        return
    to.words(
        "Each says how many entries the ledger had and the root of their tree, signed by the server. A site that "
        "co-signed one has seen that the ledger still held everything from before."
    )
    rows = [
        [
            str(one["size"]),
            one["root"],
            ", ".join(f"{sign['site']} ({sign['at']})" for sign in one["cosigned"]) or "nobody yet",
            "yes" if one["covers"] else "no",
        ]
        for one in facts["checkpoints"]
    ]
    to.grid(("entries", "root", "co-signed by", "covers all rounds"), rows, (10, 36, 42, 12), right=(0,), mono=(1,))
    to.heading("The last of them, exactly as signed", 1)
    to.code(facts["checkpoints"][-1]["note"].rstrip("\n"))


def _steps(to: Document, facts: Mapping[str, Any]) -> None:
    to.heading("How to verify this yourself")
    for number, step in enumerate(facts["steps"], 1):
        to.words(f"{number}. {step['words']}")
        if step["type"]:
            to.code(step["type"])


def _law(to: Document, facts: Mapping[str, Any]) -> None:
    to.heading("Facts by requirement")
    to.words(
        "Facts of the record, set beside the requirements that people ask about. They certify nothing and are no legal "
        "advice: whether a requirement is met depends on what no record knows."
    )
    for law in facts["law"]:
        to.heading(law["law"], 1)
        to.words(law["note"], FAINT)
        rows = [[item["number"], item["title"], " ".join(item["facts"])] for item in law["items"]]
        to.grid(("where", "what", "what the record says"), rows, (17, 25, 68))


def _mark(cell: Mapping[str, Any] | None) -> Cell:
    return (cell["mark"], _COLOURS[cell["standing"]]) if cell else ""


def _short(value: object) -> str:
    return "" if value is None or value == 0 else format(value, ".3g") if isinstance(value, float) else str(value)
