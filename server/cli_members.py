"""``bottega server invite | sites | approve | deny | revoke | reinstate``: who belongs to the federation."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import IdentityError, SettingsError
from security.names import Role

if TYPE_CHECKING:
    from common.proto import registry_pb2 as pb
    from server.office import Office

Home = Annotated[Path, typer.Option(help="The server's home folder, or an operator's own.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The member's name.")]
As = Annotated[str, typer.Option("--role", help="site, operator or auditor.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_commands(app: typer.Typer) -> None:
    """Add the commands to ``bottega server``."""
    for command in (invite, sites, approve, deny, revoke, reinstate):
        app.command()(command)


def invite(
    name: Annotated[str, typer.Argument(help="The name that the newcomer will have.")],
    home: Home = Path("server"),
    ttl: Annotated[str, typer.Option(help="How long the invitation holds, such as 30m, 1h or 2d.")] = "1h",
    auto_approve: Annotated[bool, typer.Option(help="Let in whoever comes with it, without looking.")] = False,
    role: As = "site",
    json_: Json = False,
) -> None:
    """Invite somebody: prints one line for them to paste. It is good once, and secret."""
    token = _office(home).invite(_role(role), name, _duration(ttl), auto_approve=auto_approve)
    if json_:
        typer.echo(json.dumps({"token": token}))
        return
    typer.echo(token)
    after = "" if auto_approve else f"\nthen compare the words and: bottega server approve {name} --home {home}"
    typer.echo(f"\ngive it to {name} by a way you trust; they run: {_joining(role)}{after}", err=True)


def sites(home: Home = Path("server"), json_: Json = False) -> None:
    """List who was invited and who asked to join, with the words to compare, and how it stands with them."""
    found = _office(home).members()
    if json_:
        typer.echo(json.dumps([_facts(row) for row in found]))
        return
    if not found:
        typer.echo(f"nobody was invited yet; invite somebody with `bottega server invite NAME --home {home}`")
        return
    table = Table("name", "role", "status", "fingerprint", "reason")
    for row in found:
        facts = _facts(row)
        if row.suspended:
            facts |= {"status": "suspended", "reason": row.suspended}
        table.add_row(*(str(facts[key]) for key in ("name", "role", "status", "words", "reason")))
    Console().print(table)


def approve(
    name: Annotated[str, typer.Argument(help="The member's name, or the file of a request that you were handed.")],
    home: Home = Path("server"),
    role: As = "site",
    yes: Annotated[bool, typer.Option("--yes", help="Of a file: do not ask whether the words are right.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Of a file: where to write the answer; NAME.grant beside it.")
    ] = None,
) -> None:
    """Let somebody in who waits, or whose request you were handed. Compare the words of their fingerprint first."""
    if Path(name).is_file():
        _approve_file(Path(name), home, out, yes)
        return
    found = _office(home).approve(_role(role), name)
    typer.echo(f"{name} belongs to the federation: {_facts(found)['words']}")
    typer.echo(f"their join goes on by itself; later: bottega run start --home {home}", err=True)


def _approve_file(file: Path, home: Path, out: Path | None, yes: bool) -> None:
    from security.enrolment import open_request
    from security.files import PUBLIC, read_public, replace

    request = read_public(file, error=IdentityError)
    member = open_request(request, now_ms=int(time.time() * 1000)).member
    typer.echo(f"{member.id.role} {member.id.name} of {member.id.federation} asks, with these words:\n"
               f"{member.fingerprint.words}", err=True)  # fmt: skip
    if not yes and not typer.confirm("Are they the words that they told you by another way?"):
        raise typer.Exit(1)
    answer = out or file.parent / f"{member.id.name}.grant"
    replace(answer, [_office(home).bring(request)], error=IdentityError, mode=PUBLIC)
    typer.echo(f"{member.id.name} belongs to the federation; hand them {answer}: only their keys open it")


def deny(
    name: Name,
    reason: Annotated[str, typer.Option(help="The newcomer reads it.")],
    home: Home = Path("server"),
    role: As = "site",
) -> None:
    """Refuse somebody who waits, or take an invitation back."""
    _office(home).deny(_role(role), name, reason)
    typer.echo(f"{name} was refused; the name is free again")


def revoke(
    name: Name,
    reason: Annotated[str, typer.Option(help="Every site reads it in the roster.")],
    home: Home = Path("server"),
    role: As = "site",
) -> None:
    """End somebody's membership, at once and for good."""
    _office(home).revoke(_role(role), name, reason)
    typer.echo(f"{name} was revoked: no call, no task and no update of theirs is taken from now on")


def reinstate(
    name: Name,
    reason: Annotated[str, typer.Option(help="For who reads the record later.")],
    home: Home = Path("server"),
) -> None:
    """Let new runs ask a site again that was suspended since its updates were rejected again and again."""
    _office(home).reinstate(name, reason)
    typer.echo(f"{name} stands well: new runs ask it again")


def _office(home: Path) -> Office:
    from server.offices import open_office

    return open_office(home)


def _joining(role: str) -> str:
    return "bottega site join TOKEN --data DIR" if role == Role.SITE else f"bottega member join TOKEN --home {role}"


def _facts(row: pb.MemberRow) -> dict[str, object]:
    from security.fingerprint import Fingerprint
    from security.names import SpiffeId

    who = SpiffeId.parse(row.spiffe_id)
    words = Fingerprint(row.fingerprint).words if row.fingerprint else ""
    return {
        "name": who.name, "role": who.role, "status": row.status, "words": words,
        "fingerprint": row.fingerprint.hex(), "reason": row.reason, "suspended": row.suspended or None,
        "asked_at_ms": row.asked_at_ms,
        "decided_at_ms": row.decided_at_ms or None,
    }  # fmt: skip


def _role(text: str) -> Role:
    if text not in set(Role) - {Role.SERVER}:
        raise SettingsError("--role does not fit", got=text, expected="site, operator or auditor")
    return Role(text)


def _duration(text: str) -> dt.timedelta:
    parts = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text)
    if parts is None:
        raise SettingsError("--ttl does not fit", got=text[:20], expected="a number and s, m, h or d, such as 1h")
    return dt.timedelta(seconds=int(parts[1]) * _UNITS[parts[2]])
