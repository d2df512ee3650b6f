"""``bottega run export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from server.house import House
    from server.store import Store


def export_run(
    run: Annotated[str, typer.Argument(help="A run's id.")],
    folder: Annotated[Path | None, typer.Argument(help="A new folder; adapter-RUN when left out.")] = None,
    number: Annotated[int | None, typer.Option("--round", help="Which round's; the last when left out.")] = None,
    despite: Annotated[
        str, typer.Option(help="Why, although it failed its check, or a site objects or has not looked; recorded.")
    ] = "",
    named: Annotated[
        list[str] | None,
        typer.Option(
            "--named", help="A site that agreed to be named in the manifest; may be given again.", metavar="SITE"
        ),
    ] = None,
    home: Annotated[Path, typer.Option(help="The server's home folder.")] = Path("server"),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Release the adapter of a run: write it as files that diffusers, ComfyUI and others read.

    Until then it lies encrypted in the server's home. Whoever has the files has what the sites' drawings taught it, so
    each site that taught it is asked for a last look at the end of a run, and may object. And it is checked on public
    drawings, here and now if it was not before (`bottega run check`).

    Beside it lies a signed manifest of what it was made of (`bottega adapter show`). It gives sites pseudonyms, but for
    those that agreed to be named.
    """
    from common.paths import ServerHome
    from security.manifest import MANIFEST, VKEY
    from server.house import open_house
    from server.release import release
    from server.store import Store

    house = open_house(ServerHome(home.absolute()))
    with Store(house.home.database) as store:
        if not despite.strip():  # who says why all the same need not wait for it; that it was not checked is on record
            _checked_before(house, store, run, number, quiet=json_)
        told = release(house, store, run, (folder or Path(f"adapter-{run}")).absolute(), number, despite, named or [])
    key = (told.weights.parent / VKEY).read_text("utf-8").strip()
    if json_:
        facts = {"run": run, "round": told.number, "sha256": told.digest, "weights": str(told.weights)}
        typer.echo(json.dumps({**facts, "manifest": str(told.weights.parent / MANIFEST), "key": key}))
        return
    typer.echo(f"round {told.number} of run {run} is in {told.weights.parent}\nsha256 {told.digest}")
    typer.echo("whoever has it can check it with the federation's key, told by another way than the files:", err=True)
    typer.echo(f"  bottega adapter verify {told.weights.parent} --key {key}", err=True)
    typer.echo(f"\nNext: bottega draw --adapter {told.weights.parent} --prompt TEXT", err=True)


def _checked_before(house: House, store: Store, run: str, number: int | None, *, quiet: bool) -> None:
    """Check the adapter if nobody did; where it cannot be, that stands against the release, and it is said why."""
    from common.errors import BaseModelError
    from deploy.commands.check import check_and_show
    from server.consent import deciding_check
    from server.release import closed_round

    row = closed_round(store, run, number)
    if deciding_check(store, run, row.round) is not None:
        return
    try:
        check_and_show(house, store, run, row.round, quiet=quiet)
    except BaseModelError as why:
        typer.echo(f"it cannot be checked on public drawings here: {why}", err=True)
