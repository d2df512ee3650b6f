"""Which facts of a record speak to which requirement: GDPR (EU 2016/679) and ISO/IEC 42001:2023, Annex A.

Each line is a fact that stands in the record, or says that the record does not tell. None says that a requirement is
met: that depends on what a record cannot know, and is for people to judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Item(NamedTuple):
    """One requirement, by its number and its title, with what the record says to it."""

    number: str
    title: str
    facts: tuple[str, ...]

    def facts_of(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"number": self.number, "title": self.title, "facts": list(self.facts)}


def law_of(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the record of a run says to each requirement.

    Args:
        facts: As :func:`deploy.evidence.evidence_of` gathers them.
    """
    return [
        {
            "law": "Regulation (EU) 2016/679 (GDPR)",
            "note": "It applies where drawings, or who drew them, relate to identified or identifiable people.",
            "items": [item.facts_of() for item in _gdpr(facts)],
        },
        {
            "law": "ISO/IEC 42001:2023, Annex A",
            "note": "Controls of an AI management system; the titles are the standard's.",
            "items": [item.facts_of() for item in _iso(facts)],
        },
    ]


def _gdpr(facts: Mapping[str, Any]) -> list[Item]:
    counts, check = facts["updates"], facts["verification"]
    unrecorded = "The record does not say how long drawings are kept; they stay at the sites."
    return [
        Item("Article 5(1)(a)", "Lawfulness, fairness and transparency", (
            f"Each of the {counts['all']} decisions on an update in this run is in the record, with the number of the "
            "check that made it and, where it was not admitted as it came, the reason in words.",
            f"The record can be read and verified without the server; {_witnesses(facts)}.",
            "On what legal basis drawings are used the record does not say.",
        )),
        Item("Article 5(1)(b)", "Purpose limitation", (
            f"What was trained is what operator {_name(facts['operator'])} signed; the order has the SHA-256 "
            f"{facts['order']}, and its settings stand in this report in full.",
            f"{_count(counts['refused'], 'answer')} did not pass a check of its own, those among them by which a site "
            "said no to a task.",
        )),
        Item("Article 5(1)(c)", "Data minimisation", (
            "An entry of the record has no field for a drawing, a caption or a file name.",
            f"What came from the sites, by the record: {_count(counts['sealed'], 'sealed update')}, one a site and "
            "round.",
        )),
        Item("Article 5(1)(e)", "Storage limitation", (
            unrecorded,
            "The record itself is append-only: names of members, and reasons that people gave, stay in it.",
        )),
        Item("Article 5(1)(f)", "Integrity and confidentiality", (_sealed(facts), _checks(facts))),
        Item("Article 5(2)", "Accountability", (
            f"The record has {check['entries']} entries; a signed checkpoint covers {check['covered_by_a_checkpoint']} "
            f"of them. Verified on {facts['made_at']}, it had {_count(len(check['faults']), 'fault')}.",
        )),
        Item("Article 25(1)", "Data protection by design", (_private(facts),)),
        Item("Article 25(2)", "Data protection by default", (
            "Runs are private unless their order says otherwise. "
            + ("This one's does not." if facts["private"] else
               "This one's does." if facts["private"] is False else "What this one's says this version cannot read."),
        )),
        Item("Article 30(1) and (2)", "Records of processing activities", (
            f"The record names the federation ({facts['federation']}), the operator and the {len(facts['sites'])} "
            "sites by the names they chose. It has no contact details, no purposes beyond the settings, no categories "
            "of data subjects and no time limits for erasure.",
            _recipients(facts),
            "A general description of the security measures (point (g)) is in this report under Article 32.",
        )),
        Item("Article 32(1)(a)", "Pseudonymisation and encryption", (_sealed(facts), _private(facts))),
        Item("Article 32(1)(b)", "Confidentiality, integrity, availability and resilience", (
            _checks(facts), _resilience(facts))),
        Item("Article 32(1)(c)", "Restoring availability after an incident", (
            f"By the record the server came back from a backup {_times(facts['restored'])}, and this run went on "
            f"after a stop {_times(facts['resumed'])}.",
        )),
        Item("Article 32(1)(d)", "Regular testing, assessing and evaluating", (
            _detector(facts),
            f"This report was made from a verification of the whole record on {facts['made_at']}.",
        )),
        Item("Article 32(4)", "Acting on instructions", (
            f"The run was ordered by operator {_name(facts['operator'])} (entry {facts['started_by_entry']}). "
            f"{_count(len(facts['decisions']), 'decision')} of people about its sites stand in the record.",
        )),
    ]  # fmt: skip


def _iso(facts: Mapping[str, Any]) -> list[Item]:
    check = facts["verification"]
    look = next((one for one in facts["rounds"] if one["outcome"] == "measured"), None)
    return [
        Item("A.3.2", "AI roles and responsibilities", (
            f"Operator {_name(facts['operator'])} ordered the run; {', '.join(facts['sites'])} were asked to train. "
            "Roles are in the signed roster and in every member's certificate.",
        )),
        Item("A.4.2 to A.4.4", "Resource documentation, data resources, tooling resources", (
            f"Base model: {facts['base_name'] or 'not told'}, SHA-256 {facts['base']}. Software: {facts['software']}.",
            "Which sites' drawings were trained on stands by round; the drawings themselves are not described.",
        )),
        Item("A.6.2.3", "Documentation of AI system design and development", (
            f"All settings of the run, as they were signed, are in entry {facts['started_by_entry']}.",)),
        Item("A.6.2.4", "AI system verification and validation", (
            _detector(facts),
            f"In round {look['round']} the sites were asked for a last look at the adapter." if look else
            "No last look at the adapter by the sites is in the record.",
        )),
        Item("A.6.2.5", "AI system deployment", (_recipients(facts),)),
        Item("A.6.2.6", "AI system operation and monitoring", (_checks(facts), _resilience(facts))),
        Item("A.6.2.8", "AI system recording of event logs", (
            f"The ledger: {check['entries']} entries in a Merkle tree (RFC 6962), {check['checkpoints']} signed "
            f"checkpoints; {_witnesses(facts)}.",
        )),
        Item("A.7.5", "Data provenance", (
            "For each round the record has which sites were averaged, with which weight, the SHA-256 of each sealed "
            "update, and the SHA-256 of the adapter that came of it.",
        )),
        Item("A.8.3 and A.8.4", "External reporting, communication of incidents", (
            f"Listed in this report, each with its reason: {_count(len(facts['left_out']), 'update')} that did not go "
            f"into the mean as it came, and {_count(len(facts['decisions']), 'decision')} of people about sites.",
        )),
        Item("A.10.2", "Allocating responsibilities", (
            "Sites hold their own keys and privacy budgets and answer each task themselves; the server's decisions on "
            "their answers are in the record, and each site gets a receipt of those on its own.",
        )),
    ]  # fmt: skip


def _sealed(facts: Mapping[str, Any]) -> str:
    return (
        f"Updates travel signed (Ed25519) and encrypted from site to server (HPKE with MLKEM768_X25519, AES-256-GCM), "
        f"as {facts['software']} does it; the record has the SHA-256 of {facts['updates']['sealed']} sealed updates of "
        "this run as they came."
    )


def _checks(facts: Mapping[str, Any]) -> str:
    counts = facts["updates"]
    return (
        f"Of {counts['all']} answers to training tasks {counts['admitted']} were admitted as they came, "
        f"{counts['clipped']} cut down, {counts['rejected']} rejected beside the others, {counts['refused']} refused "
        f"by a check of their own, and {counts['taken back']} taken back in a later round."
    )


def _resilience(facts: Mapping[str, Any]) -> str:
    again = sum(one["openings"] - 1 for one in facts["rounds"])
    kept = sum(one["outcome"] == "kept" for one in facts["rounds"])
    return (
        f"Opened again after being cut off: {_count(again, 'round')} of this run. Closed without changing the adapter: "
        f"{_count(kept, 'round')}."
    )


def _private(facts: Mapping[str, Any]) -> str:
    if facts["private"] is None:
        return "The run's settings are of another version; whether it was private this report cannot say."
    if not facts["private"]:
        return "This run was not private: its updates and its adapter can tell of the drawings they were trained on."
    told = [one for one in facts["privacy"] if one["epsilon"] is not None]
    if not told:
        return "The run was to be private, and no site has told of a private update."
    most = max(told, key=lambda one: one["epsilon"])
    unit = "all drawings of one artist at a site" if most["unit"] == "artist" else "one drawing"
    return (
        f"Sites added noise while they trained, before anything left them. As they signed it, the run cost {unit} at "
        f"most \u03b5 = {most['epsilon']:.3g} at \u03b4 = {most['delta']:g} ({most['site']}); its settings allow "
        f"\u03b5 = {most['limit_epsilon']:g}."
    )


def _detector(facts: Mapping[str, Any]) -> str:
    training = [one for one in facts["rounds"] if one["work"] == "train" and one["closed"]]
    judged = sum(one["detector"] == "judged" for one in training)
    return f"The anomaly detector judged {judged} of {_count(len(training), 'closed round')} of training."


def _recipients(facts: Mapping[str, Any]) -> str:
    if not facts["releases"]:
        return "The record tells of no release of an adapter of this run."
    said = "; ".join(
        f"of round {one['round']}, by {one['by']}, on {one['at'][:10]}"
        + (f", despite what stood against it ({one['despite']})" if one["despite"] else "")
        for one in facts["releases"]
    )
    return f"An adapter of this run was released: {said}. To whom it was given afterwards the record does not say."


def _witnesses(facts: Mapping[str, Any]) -> str:
    seen = facts["verification"]["cosigned_by"]
    signed = [site for site, size in seen.items() if size]
    return f"{len(signed)} of {len(seen)} active sites have co-signed checkpoints of it"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}" + ("" if number == 1 else "s")


def _times(number: int) -> str:
    return {0: "at no time", 1: "once"}.get(number, f"{number} times")


def _name(shown: str) -> str:
    """Return a person's name out of how people say a member: ``operator anna``."""
    return shown.rpartition(" ")[2]
