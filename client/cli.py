"""``bottega site`` and ``bottega data``."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from client.cli_budget import add_budget
from client.cli_data import data_app
from client.cli_health import add_health
from client.cli_ledger import add_ledger
from client.cli_runs import runs_app
from common.errors import HomeError
from common.logs import Level, carried_out, set_up_logs
from common.paths import SiteHome, SuperNodeHome
from common.settings import read_toml
from security.cli_passphrase import add_passphrase
from security.names import Role, SpiffeId

if TYPE_CHECKING:
    from client.settings import SiteSettings
    from common.proto import bottega_pb2 as pb

__all__ = ["data_app", "site_app"]

site_app = typer.Typer(help="Run a site: a studio with private drawings.", no_args_is_help=True)
site_app.add_typer(runs_app)
add_health(site_app)
add_budget(site_app)
add_ledger(site_app)
add_passphrase(site_app, "site", lambda home: [SiteHome(home)])

Home = Annotated[Path, typer.Option(help="The site's home folder.")]


class Part(StrEnum):
    """What of a site runs as a process of its own."""

    AGENT = "agent"
    SUPERNODE = "supernode"


@site_app.command()
def start(
    home: Home = Path("site"),
    part: Annotated[
        Part | None,
        typer.Option(help="Start this one alone, as another user starts the other; a SuperNode has a home of its own."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Log one JSON object a line.")] = False,
    log_level: Annotated[Level, typer.Option(help="What is less is not logged.")] = Level.INFO,
) -> None:
    """Start the site: its agent, and the SuperNode that connects it with the federation.

    Stays in the foreground until Ctrl-C or SIGTERM, and logs to standard error. Exits with 0 when
    it was told to end, with 77 when the operator revoked the site, and with 1 for any other reason.
    """
    from client.serving import run_site, run_supernode

    def ready(status: pb.Status) -> None:
        if not json_:
            typer.echo(f"{status.site} is up, with {status.drawings} drawings to train on")
            typer.echo(f"\nNext: bottega site status --home {home}", err=True)

    set_up_logs(json_=json_, level=log_level)
    place = home.absolute()
    if part is Part.SUPERNODE:
        work = partial(run_supernode, SuperNodeHome(place))
    else:
        work = partial(run_site, SiteHome(place), ready, apart=part is Part.AGENT)
    code = carried_out(logging.getLogger("bottega.site"), work)
    # A step of training may still be running in a thread. Its task is lost and is never answered twice, so nothing is
    # gained by waiting for it.
    sys.stdout.flush()
    os._exit(code)


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
    from client.joining import join_as_site

    settings = join_as_site(SiteHome(home.absolute()), token, str(data.absolute()), wait, partial(typer.echo, err=True))
    _moved_in(settings, home)


@site_app.command()
def request(
    name: Annotated[str, typer.Argument(help="The name that the site is to have.")],
    federation: Annotated[str, typer.Option(help="The federation's name, as its operator gives it.")],
    home: Home = Path("site"),
    out: Annotated[Path | None, typer.Option(help="Where to write the request; NAME.request when left out.")] = None,
) -> None:
    """Ask to join without a network: make this site's keys and write a request, to be handed to the operator."""
    from client.offline import write_request

    file = out or Path(f"{name}.request")
    seen = write_request(SiteHome(home.absolute()), SpiffeId(federation, Role.SITE, name), file)
    typer.echo(f"the request is in {file}; the operator must see these words:\n{seen.words}")
    after = f"bottega site accept {name}.grant --data DIR --home {home}"
    typer.echo(f"\nNext: hand it to the operator, and with what they answer: {after}", err=True)


@site_app.command()
def accept(
    grant: Annotated[Path, typer.Argument(help="The operator's answer to a request.")],
    data: Annotated[Path, typer.Option(help="The folder of drawings.")],
    home: Home = Path("site"),
    authority: Annotated[
        str | None, typer.Option(help="The authority's fingerprint in hex; asked for by its words when left out.")
    ] = None,
) -> None:
    """Settle in with the operator's answer to a request; again, with a newer one, it renews the certificate."""
    from client.cli_belief import believed
    from client.moving_in import move_in_site
    from client.offline import read_grant

    place = SiteHome(home.absolute())
    opened = read_grant(place, grant, frozenset({Role.SITE}), believed(authority))
    _moved_in(move_in_site(place, opened, str(data.absolute())), home)


@site_app.command("rotate-keys")
def rotate(home: Home = Path("site")) -> None:
    """Go over to new keys under the same name, countersigned by the old ones. Stop the site first.

    Cut off at any moment, the same command goes on where it stood.
    """
    from client.agent_socket import is_alive
    from client.rotation import rotate_keys
    from client.settings import SiteSettings

    place = SiteHome(home.absolute())
    settings = read_toml(SiteSettings, place.settings)
    if is_alive(place.socket):
        raise HomeError("the site is running with its old keys", advice="Stop it, then run the same command again.")
    if settings.registry is None:
        raise HomeError("the site knows no registry", expected="`registry` in site.toml")
    keys = rotate_keys(place, SpiffeId(settings.federation, Role.SITE, settings.name), settings.registry)
    typer.echo(f"{settings.name} has new keys: {keys.fingerprint.words}")
    typer.echo(f"\nNext: bottega site start --home {home}", err=True)


@site_app.command()
def status(
    home: Home = Path("site"),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether the site's agent is up, what it is doing, and which runs wait for the studio's word.

    In the home of a SuperNode that runs apart it tells of that.
    """
    from client.agent_socket import get_status
    from client.approvals import Approvals

    place = SiteHome(home.absolute())
    if not place.settings.exists() and SuperNodeHome(place.root).lock.exists():
        _supernode_status(home, json_=json_)
        return
    found = get_status(place.socket)
    waiting = [asked.run for asked in Approvals(place.approvals).list() if asked.status == "waiting"]
    if found is None:
        typer.echo(
            json.dumps({"up": False})
            if json_
            else f"no agent answers; start it with `bottega site start --home {home}`"
        )
        sys.exit(1)
    standing = found.standing
    facts = {
        "up": True,
        "site": found.site,
        "doing": found.doing,
        "drawings": found.drawings,
        "held_out": found.held_out,
        "base_digest": found.base_digest,
        "confinement": found.confinement,
        "roster_version": standing.roster_version or None,
        "certificate_until": _time(standing.certificate_until_ms),
        "last_contact": _time(standing.last_contact_ms),
        "trouble": standing.trouble or None,
        "waiting_runs": waiting,
    }
    _show(facts, json_=json_)
    if waiting:
        typer.echo(f"\nNext: bottega site approve-run {waiting[-1]} --home {home} (or refuse-run)", err=True)


def _supernode_status(home: Path, *, json_: bool) -> None:
    from client.agent_socket import is_alive
    from client.apart import is_held
    from client.confinement import confinement_status

    place = SuperNodeHome(home.absolute())
    up = is_held(place.lock)
    facts = {"up": up, "part": "supernode", "agent_answers": is_alive(place.socket)}
    _show(facts | ({"confinement": confinement_status(place)} if up else {}), json_=json_)
    if not up:
        typer.echo(f"\nNext: bottega site start --part supernode --home {home}", err=True)
        sys.exit(1)


def _show(facts: Mapping[str, object], *, json_: bool) -> None:
    if json_:
        typer.echo(json.dumps(facts))
        return
    console = Console(highlight=False)
    for name, value in facts.items():
        words = ", ".join(value) if isinstance(value, list) else value
        console.print(f"{name.replace('_', ' '):18} {'none' if words in (None, '') else words}", soft_wrap=True)


def _moved_in(settings: SiteSettings, home: Path) -> None:
    typer.echo(f"{settings.name} belongs to {settings.federation}; its home is {home}")
    typer.echo(f"\nNext: bottega site start --home {home}", err=True)


def _time(ms: int) -> str | None:
    """Return a time as RFC 3339 has it; None for none."""
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat(timespec="seconds") if ms else None
