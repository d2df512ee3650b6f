"""The studios of a demo: folders of drawings, made by rule or brought along."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from client.drawings import Drawing
from common.errors import DrawingsError
from common.procedural import STUDIOS, Studio, studio_drawings

DRAWINGS_EACH = 400
"""Enough that noise which hides any one of them leaves what they have in common."""

VANDALS_DRAWINGS = 200

PUBLIC = 64
"""Public drawings like the studios', to check an adapter on."""

PUBLIC_SEED = 20_261_127
"""No demo is likely to be run with it."""


@dataclass(frozen=True)
class StudioFolder:
    """One site of a demo: its name (a DNS label) and its folder in the imagefolder convention."""

    name: str
    folder: Path


def make_studios(target: Path, count: int, seed: int, each: int = DRAWINGS_EACH) -> list[StudioFolder]:
    """Draw ``each`` drawings of each of ``count`` procedural studios into ``target`` and return their folders.

    Raises:
        DrawingsError: More studios are asked for than there are.
    """
    if not 1 <= count <= len(STUDIOS):
        raise DrawingsError(
            "there are not so many procedural studios",
            got=count,
            expected=f"1 to {len(STUDIOS)}",
            advice="Bring your own drawings with --data DIR, one folder a site.",
        )
    chosen = list(STUDIOS.values())[:count]
    return [StudioFolder(s.name, _drawn(s, target / s.name, seed, each)) for s in chosen]


def make_vandal(target: Path, name: str, seed: int) -> StudioFolder:
    """Draw what a hostile studio trains on, in the style and of the subjects of the first procedural studio."""
    model = next(iter(STUDIOS.values()))
    return StudioFolder(name, _drawn(replace(model, name=name), target / name, seed + 1, VANDALS_DRAWINGS))


def public_like_studios(count: int, pixels: int) -> list[Drawing]:
    """Return drawings like those of the first ``count`` procedural studios that are in none of their folders."""
    chosen = list(STUDIOS.values())[:count]
    each = [studio_drawings(studio, PUBLIC // count, PUBLIC_SEED, size=pixels) for studio in chosen]
    return [Drawing.of(d.picture, d.caption) for own in each for d in own]


def find_studios(data: Path, most: int | None) -> list[StudioFolder]:
    """Return the folders of ``data``, one a site, by name.

    Raises:
        DrawingsError: ``data`` is no folder of folders, or two names become the same.
    """
    if not data.is_dir():
        raise DrawingsError(
            "the folder of drawings is not there", got=str(data), expected="a folder that holds one folder a site"
        )
    folders = sorted(f for f in data.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise DrawingsError("the folder holds no folders", got=str(data), expected="one folder of drawings a site")
    studios = [StudioFolder(_label(f.name), f.resolve()) for f in folders][:most]
    if len({s.name for s in studios}) != len(studios):
        raise DrawingsError("two folders have names that become the same site name", advice="Rename one of them.")
    return studios


def _drawn(studio: Studio, folder: Path, seed: int, each: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, drawing in enumerate(studio_drawings(studio, each, seed)):
        name = f"{i:04d}.png"
        Image.fromarray(drawing.picture).save(folder / name)
        rows.append(json.dumps({"file_name": name, "text": drawing.caption}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def _label(name: str) -> str:
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")
    if not label:
        raise DrawingsError(
            "a folder's name cannot become a site's name", got=ascii(name)[:80], expected="a letter or a digit in it"
        )
    return label
