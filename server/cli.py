"""``bottega server``, and with it ``bottega run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.paths import ServerHome
from common.settings import read_toml
from server.cli_members import add_commands
from server.cli_runs import run_app

__all__ = ["run_app", "server_app"]

server_app = typer.Typer(help="Run a federation server.", no_args_is_help=True)

Home = Annotated[Path, typer.Option(help="The server's home folder.")]


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
