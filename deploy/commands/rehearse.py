"""``bottega run rehearse``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from common.errors import HomeError
from common.settings import RunSettings, read_toml


def rehearse_run(
    settings: Annotated[
        Path | None, typer.Argument(help="The TOML file of the run's settings; the defaults when left out.")
    ] = None,
    sites: Annotated[int, typer.Option(min=1, help="How many sites the run will ask.")] = 4,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("rehearsal.safetensors"),
    drawings: Annotated[
        tuple[int, int], typer.Option(help="How many drawings a site has, at the least and at the most.")
    ] = (40, 120),
    seed: Annotated[int, typer.Option(min=0, help="Decides drawings, training and noise.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end and nothing else.")] = False,
) -> None:
    """Rehearse a run: train simulated sites on procedural drawings, so that the detector knows honest updates.

    Settings, base and number of sites must be the run's own. It takes as long as the sites' training in that many
    rounds, on this machine; nothing of anybody's is used, and nothing but features of updates is kept.
    """
    from common.models import load_base
    from deploy.rehearsing import rehearse, rounds_needed

    told = read_toml(RunSettings, settings) if settings else RunSettings()
    needed = rounds_needed(told, sites)  # before the base is loaded: what cannot be rehearsed is said at once
    base = load_base(told.base)
    with Progress(console=Console(stderr=True), disable=json_) as progress:
        task = progress.add_task(f"{needed} rounds of {sites} sites", total=needed)
        made = rehearse(base, told, sites, seed, drawings, lambda done: progress.update(task, completed=done))
    _write(out, made.to_bytes())
    facts = {"file": str(out), "rows": len(made.rows.values), "calibrating": len(made.rows.calibrating)}
    if json_:
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"{facts['rows']} honest updates are in {out}; {facts['calibrating']} of them calibrate")
    run = shlex.quote(str(settings)) if settings else ""
    typer.echo(f"\nNext: bottega run start {run} --rehearsal {shlex.quote(str(out))}", err=True)


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as cause:
        raise HomeError("the rehearsal cannot be written", got=cause.strerror, advice="Name another --out.") from None
