"""``bottega server status | doctor``: how a server is."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from common.paths import ServerHome

Home = Annotated[Path, typer.Option(help="The server's home folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def add_health(app: typer.Typer) -> None:
    """Add the commands to ``bottega server``."""
    for command in (status, doctor):
        app.command()(command)


def status(home: Home = Path("server"), json_: Json = False) -> None:
    """Say whether the server is up and what it is doing: members, runs, certificates. Exits with 1 when it is down."""
    from server.health import server_status

    found = server_status(ServerHome(home.absolute()))
    if json_:
        typer.echo(json.dumps(found))
    else:
        _show(found)
        typer.echo(f"\nNext: {_next_step(found, home)}", err=True)
    raise typer.Exit(0 if found["up"] else 1)


def doctor(home: Home = Path("server"), json_: Json = False) -> None:
    """Check everything that a server needs, and say how to mend what is wrong. Exits with 1 when anything is.

    Works whether the server is up or down, and changes nothing.
    """
    from common.checkup import examine, report
    from server.health import server_checks

    raise typer.Exit(report(examine(server_checks(ServerHome(home.absolute()))), json_=json_))


def _show(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for name, words in _lines(found):
        console.print(f"{name:12} {words}", markup=False, soft_wrap=True)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    ports = ", ".join(f"{name} {number}" for name, number in found["ports"].items())
    members = [f"{count} {status} {role}s" for role, each in found["members"].items() for status, count in each.items()]
    online = "not known" if found["online"] is None else ", ".join(found["online"]) or "none"
    return [
        ("federation", f"{found['federation']}, reached by {found['reached_by']}"),
        ("up", f"since {found['since']}" if found["up"] else "no"),
        ("ports", ports or "none"),
        ("members", ", ".join(members) or "none yet"),
        ("waiting", ", ".join(found["waiting"]) or "nobody"),
        ("online", online),
        ("runs", ", ".join(f"{one['run']} {one['status']}" for one in found["last_runs"]) or "none yet"),
        ("certificate", f"until {_day(found['certificates']['server'])}"),
        ("authority", f"until {_day(found['certificates']['authority'])}"),
        ("roster", f"version {found['roster_version']}"),
        ("disk", f"{found['disk_free_bytes'] / 2**30:.1f} GiB free"),
    ]


def _day(until: str) -> str:
    when = dt.datetime.fromisoformat(until)
    return f"{when:%Y-%m-%d %H:%M} UTC, {(when - dt.datetime.now(dt.UTC)).days} days"


def _next_step(found: dict[str, Any], home: Path) -> str:
    if not found["up"]:
        return f"bottega server start --home {home}"
    if found["waiting"]:
        return f"bottega server sites --home {home}, compare the words, then approve"
    return f"bottega server doctor --home {home}"
