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
from client.reasons import MEANINGS, Skip

FEW = 32
"""Fewer drawings to train on than this are few: an adapter learns them by heart."""

data_app = typer.Typer(help="Look at a site's drawings before training on them.", no_args_is_help=True)


@data_app.callback()
def _group() -> None:
    """Keep `check` a command of its own name."""


@data_app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of drawings, as `data` in site.toml names it.")
    ],
    size: Annotated[int, typer.Option(min=8, max=4096, help="Width and height drawings are brought to, pixels.")] = 64,
    caption: Annotated[str | None, typer.Option(help="Caption for drawings that have none.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a site would train on: how many drawings, what was converted, what is skipped and why.

    DIR holds pictures (PNG, JPEG, WebP, TIFF, BMP, GIF, PPM), also in folders
    below it. Their captions stand in a metadata.jsonl, one line a picture:
    {"file_name": "boats/01.png", "text": "an ink drawing of a boat"}
    or in a metadata.csv with the same columns, or in a .txt beside each
    picture, or are one --caption for all that have none.

    Nothing is written and nothing leaves the machine. What is printed names
    no file and no caption: it can be shown to others.
    """
    found = load_drawings(folder, DrawingSettings(size=size, default_caption=(caption or "").strip() or None))
    both = (*found.train, *found.held_out)
    captions = len(Counter(d.caption for d in both))
    drawers = len({d.drawer for d in both if d.drawer})
    if json_:
        facts = {
            "train": len(found.train),
            "held_out": len(found.held_out),
            "captions": captions,
            "drawers": drawers,
            "handled": dict(found.handled),
            "skipped": dict(found.skipped),
        }
        typer.echo(json.dumps(facts))
        return
    console = Console(highlight=False)
    console.print(_table(found, captions, drawers))
    console.print(f"\nNext: {_next_step(found)}")


def _table(found: Drawings, captions: int, drawers: int) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("drawings", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("meaning", style="dim")
    table.add_row("to train on", str(len(found.train)), "the adapter learns from these", style="bold")
    table.add_row("held out", str(len(found.held_out)), "never trained on; what was learned is measured on them")
    table.add_row("captions", str(captions), "different ones")
    if drawers:
        table.add_row("drawers", str(drawers), "different people who drew")
    for slug, count in sorted(found.handled.items()):
        table.add_row(slug, str(count), f"converted: {MEANINGS[slug]}")
    for reason, count in sorted(found.skipped.items()):
        table.add_row(reason, str(count), f"skipped: {MEANINGS[reason]}", style="yellow")
    return table


def _next_step(found: Drawings) -> str:
    if found.skipped.get(Skip.NO_CAPTION):
        return "give the drawings without a caption one, in metadata.jsonl or as `default_caption` (here: --caption)."
    if len(found.train) < FEW:
        return (
            f"add drawings if you can; with fewer than {FEW} an adapter learns them by heart. It works with these too."
        )
    return "name this folder as `data` in site.toml and run `bottega site start`."
