"""``bottega site receipts`` and ``bottega site ledger``: what a site knows of its federation's ledger, offline."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import HomeError, LedgerError
from common.paths import SiteHome
from security.names import Role, SpiffeId

if TYPE_CHECKING:
    from client.receipts import Receipt
    from client.settings import SiteSettings
    from client.witness import Witness
    from security.entries import Update
    from security.keys import VerifyKey

Home = Annotated[Path, typer.Option(help="The site's home folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

receipts_app = typer.Typer(
    help="What the federation's ledger says of this site's answers, each with a proof. Works offline.",
    invoke_without_command=True,
)
ledger_app = typer.Typer(
    help="The federation's ledger as this site has witnessed it. Works offline.", invoke_without_command=True
)


def add_ledger(app: typer.Typer) -> None:
    """Add both groups to ``bottega site``."""
    app.add_typer(receipts_app, name="receipts")
    app.add_typer(ledger_app, name="ledger")


@receipts_app.callback()
def receipts(context: typer.Context, home: Home = Path("site"), json_: Json = False) -> None:
    """List the receipts: for each round the verdict that is in the ledger, and why."""
    context.obj = home
    if context.invoked_subcommand is not None:
        return
    told = [(receipt, _entry(receipt)) for receipt in _kept(home)]
    if json_:
        typer.echo(json.dumps([_facts(receipt, entry) for receipt, entry in told]))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "round", "verdict", "by check", "entry", "why"):
        table.add_column(name, justify="right" if name in {"round", "entry"} else "left")
    for receipt, entry in told:
        place = (entry.run, str(entry.round), entry.verdict, entry.check_name, str(receipt.index))
        table.add_row(*place, entry.reason or "")
    Console(highlight=False).print(table)
    if not told:
        typer.echo("no receipts yet: the first comes with the task after the first round")
    typer.echo(f"\nNext: bottega site receipts --home {home} verify", err=True)


@receipts_app.command()
def verify(context: typer.Context, json_: Json = False) -> None:
    """Check every receipt: the server's signature, the proof that the entry is in its ledger, and that it is of ours.

    Exits with 1 when one does not hold. The server is not asked: its key is the one that was pinned at joining.
    """
    from client.receipts import Receipts

    settings, key = _known(context.obj)
    book, wrong = Receipts(_receipts(context.obj), _me(settings)), list[str]()
    kept = _kept(context.obj)
    for receipt in kept:
        try:
            book.check(receipt, key)
        except LedgerError as why:
            wrong.append(f"entry {receipt.index}: {why}")
    if json_:
        typer.echo(json.dumps({"receipts": len(kept), "wrong": wrong}))
    else:
        for line in wrong:
            typer.echo(line)
        typer.echo(f"{len(kept) - len(wrong)} of {len(kept)} receipts hold")
    raise typer.Exit(int(bool(wrong)))


@ledger_app.callback()
def ledger(context: typer.Context, home: Home = Path("site"), json_: Json = False) -> None:
    """Show how much of the ledger this site has witnessed, and whether it still believes it. Exits with 1 if not."""
    context.obj = home
    if context.invoked_subcommand is not None:
        return
    witness = _witness(home)
    last, distrust = witness.last, witness.distrust
    if json_:
        note = None if last is None else last.note.decode()
        size = None if last is None else last.checkpoint.size
        typer.echo(json.dumps({"size": size, "distrust": distrust, "checkpoint": note}))
    elif last is None:
        typer.echo("this site has not seen its federation's ledger yet")
    else:
        typer.echo(f"{last.checkpoint.size} entries of {last.checkpoint.origin} witnessed")
        typer.echo(last.note.decode())
    if distrust and not json_:
        typer.echo(f"BELIEVED NO MORE: {distrust}", err=True)
        typer.echo(f"\nNext: speak with the operator; then: bottega site ledger --home {home} forget", err=True)
    raise typer.Exit(int(bool(distrust)))


@ledger_app.command()
def forget(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Begin anew with whatever ledger the server shows next. The evidence stays in the home, in `witness`.

    For a server that came back from a backup, and only after its operator has explained it: from here on the site can
    no longer tell what was changed before.
    """
    if not yes:
        typer.confirm("Believe whatever ledger the server shows next?", abort=True)
    _witness(context.obj).forget()
    typer.echo("forgotten: the next checkpoint is believed as it is")
    typer.echo(f"\nNext: bottega site status --home {context.obj}", err=True)


def _kept(home: Path) -> list[Receipt]:
    from client.receipts import Receipts

    settings, _ = _known(home)
    return list(Receipts(_receipts(home), _me(settings)).kept())


def _entry(receipt: Receipt) -> Update:
    from security.entries import Update, read_entry

    entry = read_entry(receipt.entry)
    if not isinstance(entry, Update):
        raise LedgerError("a receipt is of no answer", got=entry.kind, expected="an update")
    return entry


def _facts(receipt: Receipt, entry: Update) -> dict[str, object]:
    seconds = dt.datetime.fromisoformat(entry.at).timestamp()
    return {"index": receipt.index, "at_s": seconds, **entry.model_dump(mode="json", exclude={"kind", "at"})}


def _witness(home: Path) -> Witness:
    from client.witness import Witness
    from security.identity import Identity
    from security.key_folder import open_key_folder

    settings, key = _known(home)
    place = SiteHome(home.absolute())
    return Witness(place.witness, Identity.load(open_key_folder(place), _me(settings)), lambda: key)


def _known(home: Path) -> tuple[SiteSettings, VerifyKey]:
    """Return the settings of a site and the key of its federation's server."""
    from client.settings import SiteSettings
    from client.settling import known_roster
    from common.settings import read_toml

    place = SiteHome(home.absolute())
    if not place.settings.is_file():
        raise HomeError("there is no site in this folder", got=home, expected=f"{place.settings.name} in it")
    return read_toml(SiteSettings, place.settings), known_roster(place).server.peer.verify


def _me(settings: SiteSettings) -> SpiffeId:
    return SpiffeId(settings.federation, Role.SITE, settings.name)


def _receipts(home: Path) -> Path:
    return SiteHome(home.absolute()).witness / "receipts"
