"""``bottega adapter``: where a released adapter comes from, checked offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from security.manifest import Manifest
    from security.provenance import Examined

adapter_app = typer.Typer(help="Check where a released adapter comes from.", no_args_is_help=True)

Shown = Annotated[
    Path,
    typer.Argument(help="A released folder, one file in it, or a picture (PNG).", metavar="FILE_OR_FOLDER"),
]
What = Annotated[Path, typer.Argument(help="A released folder, or one file in it.", metavar="FILE_OR_FOLDER")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_UNVOUCHED = (
    "\nNobody here vouches for this: it was held against the key that lies with it, and that can be changed as well."
    "\nAsk the federation for its key by another way and give it with --key, or name a member's home with --home."
)


@adapter_app.command()
def verify(
    where: What,
    key: Annotated[
        str | None,
        typer.Option(help="The key of the federation's server (NAME+ID+KEY, or a file of it), as it was told to you."),
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="A home that knows the server: its own, or that of a site, operator or auditor.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check a released adapter against its signed manifest. Exits with 0 when everything holds, else with 1.

    Nothing is asked of anybody: this works offline. The key must be known from elsewhere than the files (--key or
    --home); without, everything is compared by its own word and is not to be believed.

    With other tools: the manifest is a DSSE envelope, Ed25519, around canonical JSON (RFC 8785); keys and the ledger's
    checkpoint are C2SP's; a file's CID is CIDv1 of the whole file as one raw block, SHA-256.
    """
    from common.errors import ProvenanceError
    from deploy.trusted_keys import trusted_keys
    from security.provenance import examine

    if where.suffix.lower() == ".png":
        raise ProvenanceError(
            "a picture is not held against a federation's key: it is signed by whoever drew it",
            advice="`bottega adapter show PICTURE` says what it was drawn with, if it was not changed since.",
        )
    trusted = trusted_keys(key, home, where)
    found = examine(where, trusted)
    if json_:
        typer.echo(json.dumps(_facts(where, found, vouched=bool(trusted)), ensure_ascii=False))
    else:
        _show_checks(found)
        if not trusted:
            typer.echo(_UNVOUCHED, err=True)
        elif found.holds:
            typer.echo(f"\nNext: bottega adapter show {where}", err=True)
    raise typer.Exit(0 if found.holds else 1)


@adapter_app.command("show")
def show_adapter(where: Shown, json_: Json = False) -> None:
    """Show what the manifest of a released adapter says: base, run, sites, privacy, files. It is not checked here.

    Of a picture, show its content credentials: whether a model drew it, and which. That it is as it was signed is
    checked; who signed it is not, for no authority vouches for that.
    """
    from security.manifest import MANIFEST, read_manifest_file

    if where.suffix.lower() == ".png":
        _show_picture(where, json_=json_)
        return
    folder = where if where.is_dir() else where.parent
    manifest, envelope, _ = read_manifest_file(folder / MANIFEST)
    if json_:
        told = {**manifest.model_dump(mode="json"), "signed_by": envelope.key_id, "verified": False}
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    _print_rows(_rows(manifest))
    typer.echo(f"\nThis is what it says of itself. Next: bottega adapter verify {where} --key KEY", err=True)


def _show_picture(file: Path, *, json_: bool) -> None:
    from deploy.picture_facts import facts_of_picture

    facts = facts_of_picture(file)
    if json_:
        # Escaped, for whoever signed the picture chose these words.
        typer.echo(json.dumps({**facts, "unchanged": True, "vouched": False}))
        return
    _print_rows(facts.items())
    typer.echo(
        "\nThe picture is as it was signed. Nobody here vouches for who signed it, or for what it says.", err=True
    )


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, escape(value))
    Console(highlight=False).print(table)


def _facts(where: Path, found: Examined, *, vouched: bool) -> dict[str, object]:
    return {
        "where": str(where),
        "holds": found.holds,
        "vouched": vouched,
        "key": str(found.key) if found.key else None,
        "checks": [{"what": one.what, "holds": one.holds, "found": one.found} for one in found.checks],
        "manifest": found.manifest.model_dump(mode="json") if found.manifest else None,
    }


def _show_checks(found: Examined) -> None:
    console = Console(highlight=False)
    for one in found.checks:
        mark = "[green]holds[/]" if one.holds else "[red]WRONG[/]"
        console.print(f"{mark}  {escape(one.what)}{escape(f': {one.found}') if one.found else ''}", soft_wrap=True)
    wrong = sum(not one.holds for one in found.checks)
    console.print(f"\n{'everything holds' if found.holds else f'{wrong} of {len(found.checks)} checks do not hold'}")


def _rows(told: Manifest) -> Iterator[tuple[str, str]]:
    yield "federation", told.federation
    yield "run", f"{told.run}, round {told.round}; {told.rounds} of {told.rounds_ordered} rounds trained it"
    yield "released", f"{told.released_at}, by {told.software}"
    yield "base", f"{told.base.name}, SHA-256 {told.base.digest}"
    yield "adapter", f"{told.adapter.method}, rank {told.adapter.rank}, {', '.join(told.adapter.targets)}"
    if told.taught is not None:
        yield "taught by", f"{len(told.taught)} sites: {', '.join(map(str, told.taught))}"
    if told.asked is not None:
        yield "sites asked", f"{len(told.asked)}: {', '.join(map(str, told.asked))}; who of them taught it is protected"
    drawings, sites = told.privacy, told.site_privacy
    yield (
        "privacy",
        f"each {drawings.unit}: epsilon at most {drawings.epsilon:g}, delta {drawings.delta:g}"
        if drawings
        else "none: it may remember drawings",
    )
    if sites:
        yield "privacy of sites", f"epsilon {sites.epsilon:g}, delta {sites.delta:g}"
    for words in told.against:
        yield "against it", words
    if told.despite:
        yield "released because", told.despite
    yield "ledger", " ".join(told.checkpoint.split("\n")[:3])
    for file in told.files:
        yield file.name, f"{file.bytes} bytes, SHA-256 {file.sha256}, {file.cid}"
