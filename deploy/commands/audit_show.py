"""How rounds, sites and what they cost are shown on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from deploy.commands.audit_options import marked, number, show, table


def show_rounds(found: Sequence[dict[str, Any]]) -> None:
    """Print a table of rounds, as :func:`security.audit.rounds.row` has them."""
    from security.audit.people import day

    columns = ("run", "round", "opened (UTC)", "outcome", "averaged", "left out", "silent", "\u03b5", "entries")
    shown = table(*columns, right=("round", "averaged", "\u03b5"))
    for one in found:
        averaged = f"{len(one['averaged'])} of {len(one['asked'])}" if one["work"] == "train" else ""
        out = ", ".join([*one["left_out"], *(f"{name} (taken back)" for name in one["taken_back"])])
        where = f"{one['first_entry']} to {one['last_entry']}"
        shown.add_row(
            one["run"], str(one["round"]), day(one["opened"]), one["outcome"], averaged,
            f"[red]{out}[/]" if out else "", ", ".join(one["silent"]), number(one["epsilon"]), where,
        )  # fmt: skip
    show(shown)


def show_one_round(facts: dict[str, Any]) -> None:
    """Print one round, as :func:`security.audit.people.round_facts` has it."""
    why = f", because {escape(facts['why'])}" if facts["why"] else ""
    show(f"[bold]round {facts['round']}[/] of run {facts['run']} ({facts['work']}): {facts['outcome']}{why}")
    closed = f" to {facts['closed']}, entry {facts['closed_by_entry']}" if facts["closed"] else ""
    show(f"opened   {facts['opened']}, entry {facts['opened_by_entry']}{closed}")
    if facts["openings"] > 1:
        show(f"         for the {facts['openings']}. time: what was told of earlier tries no longer holds")
    show(f"rule     {escape(facts['rule'] or '')}\ndetector {escape(facts['detector'] or 'none')}")
    show(f"adapter  {facts['adapter'] or 'none'}\nfrom     {facts['started_from']}\n")
    columns = ("site", "verdict", "check", "p", "norm", "weight", "\u03b5 so far", "entry", "sealed update (SHA-256)")
    shown = table(*columns, right=("p", "norm", "weight", "\u03b5 so far", "entry"))
    for one in facts["updates"]:
        spent = (one.get("privacy") or {}).get("epsilon")
        shown.add_row(
            one["site"], marked(one["standing"]), f"{one['check']} {one['check_name']}" if one.get("check") else "",
            number(one.get("p_value")), number(one.get("norm")), number(one.get("weight")), number(spent),
            "" if one["entry"] is None else str(one["entry"]), (one.get("sealed") or "")[:16],
        )  # fmt: skip
    show(shown)
    for one in facts["updates"]:
        if reason := one.get("taken_back", one).get("reason"):
            show(f"\n{one['site']}: {escape(reason)}")


def show_one_site(facts: dict[str, Any]) -> None:
    """Print one site, as :func:`security.audit.people.site_facts` has it."""
    from security.audit.people import day

    show(f"[bold]{facts['site']}[/] ({facts['member']}): {facts['status']}")
    age = "" if facts["keys_age_days"] is None else f", {facts['keys_age_days']:g} days old"
    show(f"joined   {facts['joined'] or 'not yet'}")
    show(f"keys     since {facts['keys_since'] or 'never'}{age}, changed {facts['rotations']} times\n")
    shown = table("run", "begun (UTC)", "rounds", "how it stands", "\u03b5", "of", right=("rounds", "\u03b5", "of"))
    for one in facts["runs"]:
        stands = ", ".join(f"{count} {marked(word)}" for word, count in one["stands"].items())
        spent = number(one["epsilon"]), number(one["limit_epsilon"])
        shown.add_row(one["run"], day(one["started"]), str(one["asked"]), stands, *spent)
    show(shown if facts["runs"] else "it has taken part in no run")
    for one in facts["runs"]:
        for told in one["rounds"]:
            if told["reason"]:
                by = f" by check {escape(told['check'])}" if told["check"] else ""
                show(
                    f"\nround {told['round']} of {one['run']}: {marked(told['standing'])}{by}: {escape(told['reason'])}"
                )
    show("")
    for told in facts["history"]:
        show(f"{told['entry']:>6}  {told['at']}  {escape(told['words'])}")


def show_privacy(found: Sequence[dict[str, Any]]) -> None:
    """Print what runs cost sites, as :func:`security.audit.people.privacy_rows` has it."""
    columns = ("run", "site", "\u03b5", "of", "\u03b4", "unit", "sigma", "clip", "rate", "steps", "\u03b5 by round")
    shown = table(*columns, right=columns[2:5] + columns[6:10])
    for one in found:
        none = "[red]no privacy[/]" if one["private"] is False else ""
        shown.add_row(
            one["run"], one["site"], number(one["epsilon"]) or none, number(one["limit_epsilon"]), number(one["delta"]),
            one["unit"] or "", number(one["sigma"]), number(one["clip"]), number(one["rate"]), str(one["steps"] or ""),
            "  ".join(number(spent) for spent in one["epsilon_by_round"].values()),
        )  # fmt: skip
    show(shown)
    whole = {one["run"]: (one["site_epsilon"], one["limit_site_epsilon"]) for one in found if one["limit_site_epsilon"]}
    for run, (cost, limit) in whole.items():
        show(f"\nrun {run} protects each site as a whole, too: \u03b5 {number(cost) or 'not told'} of {number(limit)}")
