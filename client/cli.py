"""``bottega site`` and ``bottega data``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.cli_data import data_app
from common.paths import SiteHome

__all__ = ["data_app", "site_app"]

site_app = typer.Typer(help="Run a site: a studio with private drawings.", no_args_is_help=True)

Home = Annotated[Path, typer.Option(help="The site's home folder.")]


@site_app.command()
def start(home: Home = Path("site")) -> None:
    """Start the site: its agent, and the courier that connects it with the federation.

    Stays in the foreground until Ctrl-C or SIGTERM.
    """
    from client.serving import run_site

    run_site(SiteHome(home.absolute()))
    # A step of training may still be running in a thread. Its task is lost and is never answered twice, so nothing is
    # gained by waiting for it.
    sys.stdout.flush()
    os._exit(0)


@site_app.command()
def join(
    token: Annotated[str, typer.Argument(help="The invitation, as the operator gave it.")],
    data: Annotated[Path, typer.Option(help="The folder of drawings.")],
    home: Home = Path("site"),
    wait: Annotated[float, typer.Option(help="Seconds to wait for the operator's decision.")] = 3600,
) -> None:
    """Join a federation: make this site's keys, ask, wait for the operator, and settle in.

    Cut off at any moment, the same command goes on where it stood.
    """
    from client.joining import join_federation

    def tell(words: str) -> None:
        typer.echo(words, err=True)

    settings = join_federation(SiteHome(home.absolute()), token, str(data.absolute()), wait, tell)
    typer.echo(f"{settings.name} belongs to {settings.federation}; its home is {home}")
    typer.echo(f"\nNext: bottega site start --home {home}", err=True)


@site_app.command()
def status(
    home: Home = Path("site"),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether the site's agent is up, and what it is doing."""
    from client.agent import get_status

    found = get_status(SiteHome(home.absolute()).socket)
    if found is None:
        typer.echo(
            json.dumps({"up": False})
            if json_
            else f"no agent answers; start it with `bottega site start --home {home}`"
        )
        sys.exit(1)
    facts = {
        "up": True,
        "site": found.site,
        "doing": found.doing,
        "drawings": found.drawings,
        "held_out": found.held_out,
        "base_digest": found.base_digest,
    }
    if json_:
        typer.echo(json.dumps(facts))
        return
    console = Console(highlight=False)
    for name, value in facts.items():
        console.print(f"{name:12} {value}", soft_wrap=True)
