"""``bottega evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.settings import EMBEDDED_BASE


def evaluate(
    data: Annotated[Path, typer.Option(help="Folder of real drawings (imagefolder convention).")],
    adapter: Annotated[
        Path | None, typer.Option(help="An adapter's folder or weights file; the bare base when left out.")
    ] = None,
    base: Annotated[str, typer.Option(help="The base model that the adapter was trained on.")] = EMBEDDED_BASE,
    count: Annotated[int, typer.Option(min=8, help="Drawings to generate for the distances.")] = 256,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps (DDIM).")] = 50,
    guidance: Annotated[float, typer.Option(min=1.0, max=30.0, help="Guidance scale; 1 switches it off.")] = 7.5,
    seed: Annotated[int, typer.Option(min=0, help="First seed.")] = 0,
    inception: Annotated[
        Path | None,
        typer.Option(help="Inception weights for FID and KID; the embedded drawing classifier when left out."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge an adapter against real drawings: FID, KID, PSNR, SSIM.

    FID and KID compare generated with real drawings in the features of a drawing classifier (or Inception). PSNR and
    SSIM say how well the base's autoencoder can hold these drawings at all: the ceiling of what any adapter can draw.
    """
    from deploy.drawing import judge_adapter

    judgement = judge_adapter(
        data=data,
        adapter=adapter,
        base=base,
        count=count,
        steps=steps,
        guidance=guidance,
        seed=seed,
        inception=inception,
    )
    if json_:
        typer.echo(json.dumps(judgement.as_dict()))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("better", style="dim")
    for name, value, better in (
        (f"FID ({judgement.features})", f"{judgement.fid:.2f}", "lower"),
        (f"KID ({judgement.features})", f"{judgement.kid:.4f}", "lower"),
        ("PSNR of the autoencoder, dB", f"{judgement.psnr:.2f}", "higher"),
        ("SSIM of the autoencoder", f"{judgement.ssim:.4f}", "higher"),
    ):
        table.add_row(name, value, better)
    console = Console()
    console.print(table)
    console.print(f"{judgement.generated} generated against {judgement.real} real drawings", style="dim")
    if adapter is None:
        console.print("Next: the same with --adapter, to see what training changed.")
