"""``bottega server``, and with it ``bottega run``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.logs import Level, carried_out, set_up_logs
from common.paths import ServerHome
from common.settings import read_toml
from security.cli_passphrase import add_passphrase
from server.cli_backup import add_backup
from server.cli_health import add_health
from server.cli_members import add_commands
from server.cli_runs import run_app

if TYPE_CHECKING:
    from server.serving import OpenPorts
    from server.settings import ServerSettings

__all__ = ["run_app", "server_app"]

server_app = typer.Typer(help="Run a federation server.", no_args_is_help=True)

Home = Annotated[Path, typer.Option(help="The server's home folder.")]


add_commands(server_app)
add_health(server_app)
add_backup(server_app)
add_passphrase(server_app, "server", lambda home: [ServerHome(home), ServerHome(home).operator])


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
def start_server(
    home: Home = Path("server"),
    json_: Annotated[bool, typer.Option("--json", help="Log one JSON object a line.")] = False,
    log_level: Annotated[Level, typer.Option(help="What is less is not logged.")] = Level.INFO,
) -> None:
    """Start the server: the SuperLink that sites connect to, what runs the rounds, the registry and the metrics.

    Stays in the foreground until Ctrl-C or SIGTERM, and logs to standard error.
    """
    from server.serving import run_server

    log = logging.getLogger("bottega.server")

    def ready(settings: ServerSettings, ports: OpenPorts) -> None:
        log.info("up: %s", ", ".join(f"{name} {port}" for name, port in ports.items()))
        if not json_:
            _tell_ready(settings, ports, home)

    set_up_logs(json_=json_, level=log_level)
    raise typer.Exit(carried_out(log, lambda: run_server(ServerHome(home.absolute()), ready)))


def _tell_ready(settings: ServerSettings, ports: OpenPorts, home: Path) -> None:
    typer.echo(
        f"{settings.federation} is up, reached by {settings.reached_by}\n"
        f"  fleet     {settings.host}:{ports['fleet']}  (sites, HTTPS)\n"
        f"  registry  {settings.host}:{ports['registry']}  (members, gRPC)\n"
        f"  join      {settings.host}:{ports['door']}  (newcomers, gRPC; open while somebody is expected)\n"
        f"  metrics   {settings.metrics_host}:{ports['metrics']}  (Prometheus, HTTP)\n"
        f"  control   127.0.0.1:{ports['control']}  (this machine alone)"
    )
    typer.echo(f"\nNext: bottega server invite NAME --home {home}", err=True)
