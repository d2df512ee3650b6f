"""``bottega draw``."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from common.settings import EMBEDDED_BASE

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.models import Base


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
    credentials: Annotated[
        Path | None,
        typer.Option(help="Folder of the key that signs pictures.", show_default="the user's configuration"),
    ] = None,
    no_credentials: Annotated[
        bool, typer.Option("--no-credentials", help="Leave out the content credentials.")
    ] = False,
    with_prompt: Annotated[
        bool, typer.Option("--with-prompt", help="Put the prompt into the content credentials.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Draw with a trained adapter.

    The same prompt, seed and adapter give the same picture. Each carries content credentials (C2PA): that a model drew
    it, by which base and adapter, and for which federation and run where the adapter has a manifest; the prompt only if
    you ask for that. They are signed by a key of your own, made on first use, that no authority vouches for.
    """
    from PIL import Image

    from common.sampling import sample
    from deploy.drawing import equipped_base

    model = equipped_base(base, adapter)
    sign = _signer(model, adapter, credentials, with_prompt=with_prompt) if not no_credentials else _unsigned
    prompts = [p for p in prompt for _ in range(count)]
    pictures = sample(model, prompts, seed=seed, steps=steps, guidance=guidance)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for i, picture in enumerate(pictures):
        file, png = out / f"drawing-{seed + i:06d}.png", io.BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        file.write_bytes(sign(png.getvalue(), prompts[i]))
        files.append({"file": str(file), "prompt": prompts[i], "seed": seed + i, "credentials": not no_credentials})
    if json_:
        typer.echo(json.dumps(files))
        return
    console = Console(highlight=False)
    for row in files:
        console.print(row["file"], soft_wrap=True)
    if adapter is None:
        console.print("Next: the same with what a federation learned: add --adapter.")


def _signer(
    model: Base, adapter: Path | None, folder: Path | None, *, with_prompt: bool
) -> Callable[[bytes, str], bytes]:
    """Return what puts credentials into a picture (PNG) of a prompt; whatever could go wrong does so now."""
    from deploy.credentials import Credentials, default_folder, facts_of

    signing, facts = Credentials.in_folder(folder or default_folder()), facts_of(model.digest, adapter)
    return lambda png, prompt: signing.signed(png, {**facts, **({"prompt": prompt} if with_prompt else {})})


def _unsigned(png: bytes, _prompt: str) -> bytes:
    return png
