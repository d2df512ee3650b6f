"""``bottega run check``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

if TYPE_CHECKING:
    from deploy.releasing import Looked
    from server.house import House
    from server.store import Store


def check_run(
    run: Annotated[str, typer.Argument(help="A run's id.")],
    number: Annotated[
        int | None, typer.Option("--round", help="Which round's; the last that closed when left out.")
    ] = None,
    drawings: Annotated[
        Path | None,
        typer.Option(help="Folder of public drawings like the sites' own; procedural ones when left out."),
    ] = None,
    home: Annotated[Path, typer.Option(help="The server's home folder.")] = Path("server"),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Check the adapter of a run on public drawings, before it is released. It needs no site.

    It is measured how well the base draws public drawings without and with the adapter, and fixed prompts are drawn
    with both, one row above the other: look at them. Both are recorded.

    On drawings like the sites' own (--drawings) an adapter must surely do better than the bare base. Procedural
    drawings only tell whether it forgot how to draw. Whether it gives a site's drawings away only the site can see:
    each is asked for a last look.
    """
    from common.paths import ServerHome
    from server.house import open_house
    from server.store import Store

    house = open_house(ServerHome(home.absolute()))
    with Store(house.home.database) as store:
        looked = check_and_show(house, store, run, number, drawings=drawings, quiet=json_)
    if json_:
        typer.echo(json.dumps({**looked.entry.model_dump(mode="json"), "picture": str(looked.picture)}))
        return
    if not looked.entry.worse:
        which = "" if number is None else f" --round {number}"
        typer.echo(f"\nNext: bottega run export {run}{which} --home {shlex.quote(str(home))}", err=True)


def check_and_show(
    house: House, store: Store, run: str, number: int | None, *, drawings: Path | None = None, quiet: bool
) -> Looked:
    """Check and, unless ``quiet``, say what was found; see :func:`deploy.releasing.check_round`."""
    from deploy.releasing import check_round, of_folder

    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as progress:
        task = progress.add_task("checking it on public drawings", total=3)
        looked = check_round(
            house, store, run, number, alike=of_folder(drawings) if drawings else None,
            seen=lambda: progress.advance(task),
        )  # fmt: skip
    if not quiet:
        told = looked.entry
        typer.echo(f"round {told.round}: {told.words()}", err=True)
        typer.echo(f"look at the fixed prompts, without it above and with it below: {looked.picture}", err=True)
    return looked
