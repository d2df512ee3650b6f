"""``bottega run draw``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress


def draw_run(
    run: Annotated[str, typer.Argument(help="A run's id.")],
    prompt: Annotated[list[str], typer.Option(help="What to draw; give it again for more drawings in a row.")],
    number: Annotated[
        list[int] | None, typer.Option("--round", help="Which round's; all that closed when left out.")
    ] = None,
    home: Annotated[Path, typer.Option(help="The server's home folder.")] = Path("server"),
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps (DDIM).")] = 50,
    guidance: Annotated[float, typer.Option(min=1.0, max=30.0, help="Guidance scale; 1 switches it off.")] = 7.5,
    seed: Annotated[int, typer.Option(min=0, help="The n-th drawing of a row starts from seed + n.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Draw the same prompts with the adapter of every round, to see what a run learns.

    The pictures stay in the server's home, where `bottega audit serve` shows them with a slider. They are drawn with
    adapters that nobody has released: whoever can open that home or its dashboard sees them.
    """
    from common.paths import ServerHome
    from deploy.round_pictures import closed_rounds, draw_rounds
    from deploy.run_base import base_of_run
    from security.run_order import read_order
    from server.house import open_house
    from server.store import Store

    house = open_house(ServerHome(home.absolute()))
    with Store(house.home.database) as store:
        order = read_order(store.run(run).order)
        closed = [row.round for row in store.rounds(run) if row.adapter_digest is not None]
    numbers = closed_rounds(closed, number or [])
    base = base_of_run(order)
    with Progress(console=Console(stderr=True), disable=json_) as progress:
        task = progress.add_task(f"{len(numbers)} rounds", total=len(numbers))
        files = draw_rounds(
            house, order, base, numbers, prompt,
            seed=seed, steps=steps, guidance=guidance, seen=lambda _number: progress.advance(task),
        )  # fmt: skip
    if json_:
        typer.echo(json.dumps([{"round": n, "file": str(f)} for n, f in zip(numbers, files, strict=True)]))
        return
    for file in files:
        typer.echo(str(file))
    typer.echo(f"\nNext: bottega audit serve --home {shlex.quote(str(home))}", err=True)
