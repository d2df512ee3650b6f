"""``bottega site runs | approve-run | refuse-run``: a person's word on the runs that ask for it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import HomeError
from common.paths import SiteHome

if TYPE_CHECKING:
    from client.approvals import Approvals, AskedRun

runs_app = typer.Typer()

Home = Annotated[Path, typer.Option(help="The site's home folder.")]
Run = Annotated[str, typer.Argument(help="A run's id, as `bottega site runs` shows it.")]


@runs_app.command("runs")
def list_runs(
    home: Home = Path("site"), json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the runs that asked to be allowed (`ask = true` in the house rules), the latest first."""
    asked = _approvals(home).list()
    if json_:
        typer.echo(json.dumps([_facts(one) for one in asked]))
        return
    if not asked:
        typer.echo("no run has asked; with `ask = true` in [rules] of site.toml each new run does")
        return
    Console(highlight=False).print(_table(asked))
    waiting = [one.run for one in asked if one.status == "waiting"]
    if waiting:
        typer.echo(f"\nNext: bottega site approve-run {waiting[-1]} --home {home} (or refuse-run)", err=True)


@runs_app.command("approve-run")
def approve_run(run: Run, home: Home = Path("site")) -> None:
    """Allow a run, as it asked, for as long as it lasts. A task that is held goes on at once."""
    changed = _approvals(home).approve(run)
    typer.echo(f"run {run} is approved" if changed else f"run {run} was approved before; nothing was changed")


@runs_app.command("refuse-run")
def refuse_run(
    run: Run,
    home: Home = Path("site"),
    reason: Annotated[str, typer.Option(help="Why; it is sent to the server, and the run's operator reads it.")] = "",
) -> None:
    """Refuse a run: this site takes no further task of it. An approved one may be refused too."""
    changed = _approvals(home).refuse(run, reason)
    typer.echo(f"run {run} is refused" if changed else f"run {run} was refused before; nothing was changed")


def _approvals(home: Path) -> Approvals:
    from client.approvals import Approvals

    place = SiteHome(home.absolute())
    if not place.settings.is_file():
        raise HomeError("there is no site in this folder", got=home, expected=f"{place.settings.name} in it")
    return Approvals(place.approvals)


def _table(asked: Sequence[AskedRun]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))  # all of it in 80 columns
    for column in ("run", "status", "operator", "base", "rank", "steps", "rounds", "first asked"):
        table.add_column(column, no_wrap=column in {"run", "status"}, overflow="fold")
    for one in asked:
        wish, settings = one.wish, one.wish.settings
        table.add_row(
            one.run, one.status, wish.operator, wish.base_digest[:8], str(settings.lora.rank),
            str(settings.steps), str(settings.rounds), _local(one.asked_at_ms),
        )  # fmt: skip
    return table


def _facts(one: AskedRun) -> dict[str, object]:
    return {
        "run": one.run, "status": one.status, "reason": one.reason or None, "asked_at_ms": one.asked_at_ms,
        "decided_at_ms": one.decided_at_ms, **one.wish.model_dump(mode="json"),
    }  # fmt: skip


def _local(ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(ms / 1000, dt.UTC).astimezone():%d %b %H:%M}"
