"""``bottega run``: start, watch, stop and list runs, beside the server or from an operator's own machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.settings import RunSettings, read_toml

if TYPE_CHECKING:
    from common.proto import registry_pb2 as pb
    from security.run_order import RunOrder
    from server.office import Office

run_app = typer.Typer(help="Start, watch, stop and list runs.", no_args_is_help=True)

Home = Annotated[Path, typer.Option(help="The server's home folder, or an operator's own.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Run = Annotated[str, typer.Argument(help="A run's id.")]

_UNREHEARSED = (
    "without a rehearsal the detector cannot judge; copies and outsized updates are rejected all the same.\n"
    "make one: bottega run rehearse SETTINGS --sites N, then start with --rehearsal FILE"
)

LOOK_S = 1.0
"""How often `watch` looks."""


@run_app.command("start")
def start_run(
    settings: Annotated[
        Path | None, typer.Argument(help="A TOML file with run settings; the defaults when left out.")
    ] = None,
    home: Home = Path("server"),
    sites: Annotated[
        str | None, typer.Option(help="Names of the sites to ask, with commas between; all active ones when left out.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what each site would be asked, and start nothing.")
    ] = False,
    rehearsal: Annotated[
        Path | None, typer.Option(help="What its detector learns honest updates from: `bottega run rehearse`.")
    ] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this run after its last closed round.")] = None,
    json_: Json = False,
) -> None:
    """Start a run, or resume one. It is signed with the operator's key; sites see who started it."""
    from server.offices import open_office

    office = open_office(home)
    if resume is not None:
        _started(office.resume_run(resume), home, json_)
        return
    from security.run_order import sign_order
    from server.planning import plan_run

    asked = _in_good_standing(office) if sites is None else [name.strip() for name in sites.split(",")]
    told = read_toml(RunSettings, settings) if settings else RunSettings()
    order = plan_run(told, office.operator.id, office.roster(), asked)
    if plan:
        _show_plan(order, json_)
        return
    from server.rehearsals import rehearsal_for

    rehearsed = rehearsal_for(order, rehearsal)
    if told.detector and not rehearsed:
        typer.echo(_UNREHEARSED, err=True)
    _started(office.start_run(sign_order(order, office.operator), rehearsed), home, json_)


def _in_good_standing(office: Office) -> list[str] | None:
    """Return the sites that a run asks by default; None for all active ones."""
    from security.names import Role, SpiffeId

    out = {SpiffeId.parse(row.spiffe_id).name: row.suspended for row in office.members() if row.suspended}
    if not out:
        return None
    for name, why in out.items():
        typer.echo(f"{name} is suspended ({why}) and left out; `bottega server reinstate` ends that", err=True)
    return sorted(p.id.name for p in office.roster() if p.id.role is Role.SITE and p.id.name not in out)


@run_app.command("list")
def list_runs(home: Home = Path("server"), json_: Json = False) -> None:
    """List the runs of a federation, the latest first."""
    from server.offices import open_office

    rows = open_office(home).runs()
    if json_:
        typer.echo(json.dumps([_facts(row) for row in rows]))
        return
    if not rows:
        typer.echo(f"no run yet; start one with `bottega run start --home {home}`")
        return
    table = _table("run", "status", "rounds", "operator", "sites", "what went wrong")
    for row in rows:
        progress = f"{row.closed}/{row.rounds}"
        table.add_row(row.run, row.status, progress, row.operator, str(len(row.sites)), row.error)
    Console().print(table)


@run_app.command("show")
def show_run(run: Run, home: Home = Path("server"), json_: Json = False) -> None:
    """Show the rounds of a run: who was admitted, who was refused by which check."""
    from server.offices import open_office

    shown = open_office(home).run(run)
    if json_:
        typer.echo(json.dumps({**_facts(shown.run), "rounds": [_round_facts(row) for row in shown.rounds]}))
        return
    console = Console(highlight=False)
    console.print(_heading(shown.run))
    table = _table("round", "work", "outcome", "admitted", "refused", "detector")
    for row in shown.rounds:
        table.add_row(*_cells(row))
    console.print(table)


@run_app.command("watch")
def watch_run(run: Run, home: Home = Path("server"), json_: Json = False) -> None:
    """Follow a run: a line a round as it closes, until the run ends. With --json, an object a line."""
    from server.offices import open_office

    office = open_office(home)
    for shown, fresh in _changes(lambda: office.run(run)):
        for row in fresh:
            typer.echo(json.dumps(_round_facts(row)) if json_ else "  ".join(["round", *_cells(row)]))
        if shown.run.status != "running":
            typer.echo(json.dumps(_facts(shown.run)) if json_ else _heading(shown.run))
            typer.echo(f"\nNext: bottega run export {run} --home {home}", err=True)
            raise typer.Exit(0 if shown.run.status == "finished" else 1)


@run_app.command("stop")
def stop_run(run: Run, home: Home = Path("server")) -> None:
    """Stop a run. The rounds that have closed stay."""
    from server.offices import open_office

    row = open_office(home).stop_run(run)
    typer.echo(f"run {row.run} was stopped after {row.closed} of {row.rounds} rounds")
    typer.echo(f"go on with it: bottega run start --resume {row.run} --home {home}", err=True)


def _started(row: pb.RunRow, home: Path, json_: bool) -> None:
    if json_:
        typer.echo(json.dumps(_facts(row)))
        return
    typer.echo(f"run {row.run} has started, ordered by {row.operator}, for {', '.join(row.sites)}")
    typer.echo(f"\nNext: bottega run watch {row.run} --home {home}", err=True)


def _show_plan(order: RunOrder, json_: bool) -> None:
    settings = order.settings
    facts: dict[str, object] = {
        "operator": order.operator.name,
        "sites": list(order.sites),
        "rounds": settings.rounds,
        "base_digest": order.base_digest,
        "layers": len(order.schema.modules),
        "numbers_sent_a_round": order.schema.numel(settings.lora.trained),
        "private": bool(settings.privacy),
    }
    if not settings.privacy:
        facts["drawings_a_round"] = settings.steps * settings.training.batch * settings.training.accumulate
    if json_:
        typer.echo(json.dumps({**facts, "settings": settings.model_dump(mode="json")}))
        return
    console = Console(highlight=False)
    console.print("each site is asked, and nothing was started:")
    asked = settings.lora.model_dump() | (settings.privacy or settings.training).model_dump()
    for_sites = settings.site_privacy.model_dump() if settings.site_privacy else {}
    asked |= {f"site_{name}": value for name, value in for_sites.items()}
    for name, value in (facts | asked | {"encoding": settings.encoding}).items():
        console.print(f"  {name.replace('_', ' '):22} {_words(value)}", soft_wrap=True)


def _changes(look: Callable[[], pb.ShowRunAnswer]) -> Iterator[tuple[pb.ShowRunAnswer, list[pb.RoundRow]]]:
    """Yield the run and its newly closed rounds, each time something was closed or the run ended."""
    told = 0
    while True:
        shown = look()
        closed = [row for row in shown.rounds if row.closed_at_ms]
        if len(closed) > told or shown.run.status != "running":
            yield shown, closed[told:]
            told = len(closed)
        time.sleep(LOOK_S)


def _heading(row: pb.RunRow) -> str:
    return f"run {row.run}, ordered by {row.operator}: {row.status} {row.error}".rstrip()


def _cells(row: pb.RoundRow) -> list[str]:
    refused = ", ".join(f"{v.site} ({v.check})" for v in row.verdicts if not v.admitted)
    admitted = f"{sum(v.admitted for v in row.verdicts)}/{row.asked}"
    return [str(row.round), row.work, row.outcome, admitted, refused or "none", row.detector]


def _facts(row: pb.RunRow) -> dict[str, object]:
    return {
        "run": row.run, "status": row.status, "error": row.error, "operator": row.operator, "sites": list(row.sites),
        "rounds_asked": row.rounds, "rounds_closed": row.closed, "started_at_ms": row.started_at_ms,
        "ended_at_ms": row.ended_at_ms or None,
    }  # fmt: skip


def _round_facts(row: pb.RoundRow) -> dict[str, object]:
    return {
        "round": row.round, "work": row.work, "outcome": row.outcome, "asked": row.asked,
        "opened_at_ms": row.opened_at_ms, "closed_at_ms": row.closed_at_ms or None,
        "adapter_digest": row.adapter_digest or None, "detector": row.detector or None,
        "verdicts": [_verdict_facts(v) for v in row.verdicts],
    }  # fmt: skip


def _verdict_facts(row: pb.VerdictRow) -> dict[str, object]:
    return {
        "site": row.site, "admitted": row.admitted, "number": row.number, "check": row.check, "reason": row.reason,
        "examples": row.examples, "norm": row.norm, "metrics": dict(row.metrics),
    }  # fmt: skip


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name)
    return table


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
