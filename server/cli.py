"""``bottega server`` and ``bottega run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.paths import ServerHome
from common.settings import RunSettings, read_toml
from server.cli_members import add_commands
from server.store import Store

server_app = typer.Typer(help="Run a federation server.", no_args_is_help=True)
run_app = typer.Typer(help="Start, resume and list runs.", no_args_is_help=True)

Home = Annotated[Path, typer.Option(help="The server's home folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


add_commands(server_app)


@server_app.command("init")
def init_server(
    home: Home = Path("server"),
    name: Annotated[str, typer.Option(help="The federation's name: DNS labels joined by dots.")] = "studios.bottega",
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address that sites reach this server by; they are told the first."),
    ] = None,
) -> None:
    """Make a federation: its authority, the server's keys and certificate, its settings. Again, it changes nothing."""
    from security.authority import load_certificate
    from security.enrolment import certificate_fingerprint
    from server.founding import found
    from server.settings import ServerSettings

    place, reached_by = ServerHome(home.absolute()), host or ["127.0.0.1"]
    there = place.settings.is_file()
    if not there:
        found(place, ServerSettings(federation=name, reached_by=reached_by[0]), [*reached_by, "localhost"])
    seen = certificate_fingerprint(load_certificate(place.authority_certificate))
    told = read_toml(ServerSettings, place.settings)
    typer.echo(f"federation {told.federation} {'lives' if there else 'was made'} in {place.root}")
    typer.echo(f"authority  {seen.hex}\n           {seen.words}")
    typer.echo(f"\nNext: bottega server start --home {home}", err=True)


@server_app.command("start")
def start_server(home: Home = Path("server")) -> None:
    """Start the server: the SuperLink that sites connect to, and what runs the rounds.

    Stays in the foreground until Ctrl-C or SIGTERM.
    """
    from server.serving import run_server

    run_server(ServerHome(home.absolute()))


@run_app.command("start")
def start_run(
    home: Home = Path("server"),
    settings: Annotated[
        Path | None, typer.Option(help="A TOML file with run settings; the defaults when left out.")
    ] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this run after its last closed round.")] = None,
    json_: Json = False,
) -> None:
    """Start a run on a running server, or resume one."""
    from server import submitting

    place = ServerHome(home.absolute())
    if resume is not None:
        submitting.resume_run(place, resume)
        run = resume
    else:
        run = submitting.start_run(place, read_toml(RunSettings, settings) if settings else RunSettings())
    typer.echo(
        json.dumps({"run": run})
        if json_
        else f"run {run} has started; follow it with `bottega run show {run} --home {home}`"
    )


@run_app.command("list")
def list_runs(home: Home = Path("server"), json_: Json = False) -> None:
    """List the runs of a server, the latest first."""
    with _opened(home) as store:
        rows = store.runs()
    if json_:
        typer.echo(
            json.dumps([{"run": r.run, "status": r.status, "error": r.error, "started_at": r.started_at} for r in rows])
        )
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "status", "what went wrong"):
        table.add_column(name)
    for r in rows:
        table.add_row(r.run, r.status, r.error)
    Console().print(table if rows else "no run yet; start one with `bottega run start`")


@run_app.command("show")
def show_run(
    run: Annotated[str, typer.Argument(help="A run's id.")], home: Home = Path("server"), json_: Json = False
) -> None:
    """Show the rounds of a run: who was admitted, who was refused by which check."""
    with _opened(home) as store:
        row = store.run(run)
        rounds = [(r, store.verdicts(run, r.round)) for r in store.rounds(run)]
    if json_:
        shown = [{**vars(r), "verdicts": [vars(v) for v in verdicts]} for r, verdicts in rounds]
        typer.echo(json.dumps({"run": run, "status": row.status, "error": row.error, "rounds": shown}))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("round", "work", "outcome", "admitted", "refused"):
        table.add_column(name)
    for r, verdicts in rounds:
        refused = ", ".join(f"{v.site} ({v.check})" for v in verdicts if not v.admitted)
        table.add_row(
            str(r.round), r.work, r.outcome, f"{sum(v.admitted for v in verdicts)}/{r.asked}", refused or "none"
        )
    console = Console()
    console.print(f"run {run}: {row.status} {row.error}")
    console.print(table)


def _opened(home: Path) -> Store:
    from common.errors import HomeError

    place = ServerHome(home.absolute())
    if not place.settings.is_file():
        raise HomeError(
            "there is no federation server in this folder", got=str(home), expected=f"{place.settings.name} in it"
        )
    return Store(place.database)
