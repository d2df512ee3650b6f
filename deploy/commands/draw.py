"""``bottega draw``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.settings import EMBEDDED_BASE


def draw(
    prompt: Annotated[list[str], typer.Option(help="What to draw; give it again for more drawings.")],
    adapter: Annotated[
        Path | None, typer.Option(help="An adapter's folder or weights file; the bare base when left out.")
    ] = None,
    base: Annotated[str, typer.Option(help="The base model that the adapter was trained on.")] = EMBEDDED_BASE,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps (DDIM).")] = 50,
    guidance: Annotated[float, typer.Option(min=1.0, max=30.0, help="Guidance scale; 1 switches it off.")] = 7.5,
    seed: Annotated[int, typer.Option(min=0, help="First seed; the n-th drawing starts from seed + n.")] = 0,
    count: Annotated[int, typer.Option(min=1, max=1000, help="Drawings a prompt.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("drawings"),
    json_: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Draw with a trained adapter.

    The same prompt, seed and adapter give the same picture.
    """
    from PIL import Image

    from common.sampling import sample
    from deploy.drawing import equipped_base

    model = equipped_base(base, adapter)
    prompts = [p for p in prompt for _ in range(count)]
    pictures = sample(model, prompts, seed=seed, steps=steps, guidance=guidance)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for i, picture in enumerate(pictures):
        file = out / f"drawing-{seed + i:06d}.png"
        Image.fromarray(picture).save(file)
        files.append({"file": str(file), "prompt": prompts[i], "seed": seed + i})
    if json_:
        typer.echo(json.dumps(files))
        return
    console = Console(highlight=False)
    for row in files:
        console.print(row["file"], soft_wrap=True)
    if adapter is None:
        console.print("Next: the same with what a federation learned: add --adapter.")
