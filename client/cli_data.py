"""``bottega data``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.drawings import Drawings, DrawingSettings, load_drawings

data_app = typer.Typer(help="Look at a site's drawings before training on them.", no_args_is_help=True)


@data_app.callback()
def _group() -> None:
    """Keep `check` a command of its own name."""


@data_app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(help="A folder of pictures with metadata.jsonl, or captions in .txt files.")
    ],
    size: Annotated[int, typer.Option(min=8, help="Width and height drawings are brought to.")] = 64,
    caption: Annotated[str | None, typer.Option(help="Caption for drawings that have none.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a site would train on: how many drawings, what was converted, what is skipped and why.

    Nothing leaves the machine, and nothing that is printed names a file.
    """
    found = load_drawings(folder, DrawingSettings(size=size, default_caption=caption))
    captions = Counter(d.caption for d in (*found.train, *found.held_out))
    drawers = {d.drawer for d in (*found.train, *found.held_out) if d.drawer}
    if json_:
        facts = {
            "train": len(found.train),
            "held_out": len(found.held_out),
            "captions": len(captions),
            "drawers": len(drawers),
            "handled": dict(found.handled),
            "skipped": dict(found.skipped),
        }
        typer.echo(json.dumps(facts))
        return
    console = Console(highlight=False)
    console.print(_table(found, len(captions), len(drawers)))
    if found.skipped.get("no-caption"):
        console.print("Next: give the drawings without a caption one with --caption, or in metadata.jsonl.")
    else:
        console.print("Next: name this folder as `data` in site.toml and run `bottega site start`.")


def _table(found: Drawings, captions: int, drawers: int) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("drawings")
    table.add_column("count", justify="right")
    rows = [("to train on", len(found.train)), ("held out", len(found.held_out)), ("different captions", captions)]
    rows += [("people who drew", drawers)] if drawers else []
    for name, count in rows:
        table.add_row(name, str(count))
    for title, counts in (("converted", found.handled), ("skipped", found.skipped)):
        for reason, count in sorted(counts.items()):
            table.add_row(f"{title}: {reason}", str(count), style="dim" if title == "converted" else "yellow")
    return table
