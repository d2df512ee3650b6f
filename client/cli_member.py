"""``bottega member``: operators and auditors who work from a machine of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import SettingsError
from common.paths import MemberHome
from security.cli_passphrase import add_passphrase
from security.names import Role, SpiffeId

if TYPE_CHECKING:
    from common.settings import MemberSettings

member_app = typer.Typer(help="Be an operator or auditor from a machine of your own.", no_args_is_help=True)

Home = Annotated[Path, typer.Option(help="The folder to work from.")]

ROLES = frozenset({Role.OPERATOR, Role.AUDITOR})

add_passphrase(member_app, "member", lambda home: [MemberHome(home)])


@member_app.command()
def join(
    token: Annotated[str, typer.Argument(help="The invitation, as the operator gave it.")],
    home: Home = Path("member"),
    wait: Annotated[float, typer.Option(help="Seconds to wait for the operator's decision.")] = 3600,
) -> None:
    """Join a federation as an operator or auditor. Cut off at any moment, the same command goes on."""
    from client.joining import join_as_member

    _moved_in(join_as_member(MemberHome(home.absolute()), token, wait, partial(typer.echo, err=True)), home)


@member_app.command()
def request(
    name: Annotated[str, typer.Argument(help="The name that you are to have.")],
    federation: Annotated[str, typer.Option(help="The federation's name, as its operator gives it.")],
    role: Annotated[str, typer.Option(help="operator or auditor.")] = "operator",
    home: Home = Path("member"),
    out: Annotated[Path | None, typer.Option(help="Where to write the request; NAME.request when left out.")] = None,
) -> None:
    """Ask to join without a network: make keys and write a request, to be handed to the operator."""
    from client.offline import write_request

    file = out or Path(f"{name}.request")
    who = SpiffeId(federation, _role(role), name)
    seen = write_request(MemberHome(home.absolute()), who, file)
    typer.echo(f"the request is in {file}; the operator must see these words:\n{seen.words}")
    typer.echo(f"\nNext: bottega member accept {name}.grant --home {home}", err=True)


@member_app.command()
def accept(
    grant: Annotated[Path, typer.Argument(help="The operator's answer to a request.")],
    home: Home = Path("member"),
    authority: Annotated[
        str | None, typer.Option(help="The authority's fingerprint in hex; asked for by its words when left out.")
    ] = None,
) -> None:
    """Settle in with the operator's answer to a request; again, with a newer one, it renews the certificate."""
    from client.cli_belief import believed
    from client.moving_in import move_in_member
    from client.offline import read_grant

    place = MemberHome(home.absolute())
    _moved_in(move_in_member(place, read_grant(place, grant, ROLES, believed(authority))), home)


@member_app.command("rotate-keys")
def rotate(home: Home = Path("member")) -> None:
    """Go over to new keys under the same name, countersigned by the old ones. Cut off, the same command goes on."""
    from client.rotation import rotate_keys
    from common.settings import MemberSettings, read_toml

    place = MemberHome(home.absolute())
    settings = read_toml(MemberSettings, place.settings)
    who = SpiffeId(settings.federation, Role(settings.role), settings.name)
    keys = rotate_keys(place, who, settings.registry)
    typer.echo(f"{settings.name} has new keys: {keys.fingerprint.words}")


@member_app.command("browser-key")
def browser_key(
    file: Annotated[Path, typer.Argument(help="Where to write it, such as auditor.p12; it must not exist.")],
    home: Home = Path("member"),
) -> None:
    """Write your certificate and its key as a file that browsers take, to read a server's dashboard from elsewhere.

    The password that is printed opens it. Certificates run out after some days: make another then, and throw this away.
    """
    from client.browser_key import make_browser_key
    from common.settings import MemberSettings, read_toml

    place = MemberHome(home.absolute())
    settings = read_toml(MemberSettings, place.settings)
    made = make_browser_key(place, SpiffeId(settings.federation, Role(settings.role), settings.name), file)
    typer.echo(f"{file} lets a browser in as {settings.name} until {made.until:%Y-%m-%d %H:%M} UTC")
    typer.echo(f"password  {made.password}")
    typer.echo("\nNext: import it into the browser, then open the address that `bottega audit serve` prints", err=True)


def _role(text: str) -> Role:
    if text not in ROLES:
        raise SettingsError("--role does not fit", got=text[:20], expected="operator or auditor")
    return Role(text)


def _moved_in(settings: MemberSettings, home: Path) -> None:
    typer.echo(f"{settings.name} belongs to {settings.federation} as {settings.role}; the home is {home}")
    typer.echo(f"\nNext: bottega run list --home {home}", err=True)
