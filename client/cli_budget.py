"""``bottega site budget``: what was spent of the privacy of a site's drawings, and what is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import HomeError
from common.paths import SiteHome
from common.settings import read_toml

if TYPE_CHECKING:
    from client.budget import Account
    from client.budget_settings import BudgetSettings

_WIDE = 24
_SIDES = {"train": ("to train on", "rounds"), "ballot": ("held out", "ballots")}


def add_budget(app: typer.Typer) -> None:
    """Add the command to ``bottega site``."""
    app.command()(budget)


def budget(
    home: Annotated[Path, typer.Option(help="The site's home folder.")] = Path("site"),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what runs have spent of the privacy of the drawings, and what is left. Nothing is changed.

    Drawings that came together have one account; those that were added later have one of their own, and so have those
    that are held out, which ballots cost. What a round may cost is reserved before it trains and counts as spent from
    then on: it never comes back, whatever becomes of the round.
    """
    from client.budget import Budget
    from client.settings import SiteSettings
    from security.key_folder import open_vault

    place = SiteHome(home.absolute())
    if not place.settings.is_file():
        raise HomeError("there is no site in this folder", got=home, expected=f"{place.settings.name} in it")
    settings = read_toml(SiteSettings, place.settings).privacy
    record = Budget(place.budget, open_vault(place), settings) if place.budget.is_dir() else None
    accounts, looks = (record.report(), record.looks) if record else ([], 0)
    if json_:
        facts = [_facts(one, settings) for one in accounts]
        typer.echo(json.dumps({**settings.model_dump(), "looks_taken": looks, "accounts": facts}))
        return
    _show(accounts, settings, looks)
    if not accounts:
        typer.echo("nothing was spent yet: no private run has trained here")
    typer.echo("\nNext: change what may be spent in [privacy] of site.toml, and start the site again", err=True)


def _facts(account: Account, settings: BudgetSettings) -> dict[str, object]:
    runs = [{"run": run, "rounds": rounds, "epsilon": cost} for run, (rounds, cost) in account.by_run.items()]
    return {
        "account": account.cohort, "side": account.side, "drawings": account.drawings, "spent": account.spent,
        "left": max(0.0, settings.epsilon - account.spent), "runs": runs,
    }  # fmt: skip


def _show(accounts: list[Account], settings: BudgetSettings, looks: int) -> None:
    a_run, a_round = (
        "no limit of its own" if one is None else f"at most {one:g}"
        for one in (settings.epsilon_a_run, settings.epsilon_a_round)
    )
    console = Console(highlight=False)
    console.print(
        f"epsilon {settings.epsilon:g} for ever, a run: {a_run}, a round: {a_round}; delta {settings.delta:g}"
    )
    console.print(f"last looks at adapters: {looks} of {settings.looks} taken")
    for account in accounts:
        share = min(1.0, account.spent / settings.epsilon)
        bar = "█" * round(share * _WIDE) + "░" * (_WIDE - round(share * _WIDE))
        left = max(0.0, settings.epsilon - account.spent)
        of, what = _SIDES[account.side]
        spent = f"{account.spent:.2f} of {settings.epsilon:g} spent, {left:.2f} left"
        console.print(f"\n{account.drawings} drawings {of}  {bar}  {spent}", soft_wrap=True)
        table = Table(box=None, pad_edge=False)
        for name in ("run", what, "epsilon"):
            table.add_column(name, justify="left" if name == "run" else "right")
        for run, (rounds, cost) in account.by_run.items():
            table.add_row(run, str(rounds), f"{cost:.2f}")
        console.print(table)
