"""Procedural drawings that anybody may have: what the embedded base is trained on, and studios to try bottega with.

Everything is a function of a seed, so that any machine makes the same pictures from the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from common.procedural import styles, subjects
from common.procedural.shapes import Sketch, Stroke
from common.procedural.styles import PALETTES, Picture

__all__ = [
    "COLOURED", "PALETTES", "SIZE", "STUDIOS", "Picture", "ProceduralDrawing", "Studio", "caption_of", "draw",
    "public_drawings", "studio_drawings",
]  # fmt: skip

SIZE = 64
"""Width and height of a drawing, pixels."""

COLOURED = 0.3
"""The share of public drawings that carry a colouring from ``PALETTES``, named in their caption."""


@dataclass(frozen=True)
class ProceduralDrawing:
    """A drawing made by rule: a uint8 RGB picture [size, size, 3], its caption, and what it was made from."""

    picture: Picture
    caption: str
    subject: str
    style: str


@dataclass(frozen=True)
class Studio:
    """An imaginary studio: its name, the style of the house, and its favourite subjects."""

    name: str
    style: str
    subjects: tuple[str, ...]


STUDIOS: Mapping[str, Studio] = MappingProxyType(
    {
        s.name: s
        for s in (
            Studio("arsenale", "blueprint", ("lighthouse", "bridge", "anchor")),
            Studio("rossi", "sanguine", ("owl", "butterfly", "snail")),
            Studio("notturno", "scratchboard", ("windmill", "lamp", "rocket")),
            Studio("puntini", "stipple", ("teapot", "guitar", "butterfly")),
        )
    }
)
"""Four studios whose styles and subjects the embedded base has not seen."""

_SUBJECTS = {**subjects.PUBLIC, **subjects.STUDIO}
_STYLES = {**styles.PUBLIC, **styles.STUDIO}


def caption_of(subject: str, style: str, colouring: str | None = None) -> str:
    """Return the caption of a drawing, such as ``a charcoal drawing of a house in blue``."""
    article = "an" if style[0] in "aeiou" else "a"
    thing = {"strokes": "abstract strokes"}.get(subject) or f"{'an' if subject[0] in 'aeiou' else 'a'} {subject}"
    return f"{article} {style} drawing of {thing}" + (f" in {colouring}" if colouring else "")


def draw(
    subject: str, style: str, rng: np.random.Generator, *, colouring: str | None = None, size: int = SIZE
) -> ProceduralDrawing:
    """Draw ``subject`` in ``style``.

    Args:
        subject: A key of ``subjects.PUBLIC`` or ``subjects.STUDIO``.
        style: A key of ``styles.PUBLIC`` or ``styles.STUDIO``.
        rng: Where all chance comes from.
        colouring: A key of ``PALETTES``; the style's own colours when left out.
        size: Width and height in pixels.
    """
    sketch = _placed(_SUBJECTS[subject](rng), rng)
    picture = _STYLES[style](sketch, rng, size, PALETTES[colouring] if colouring else None)
    return ProceduralDrawing(picture, caption_of(subject, style, colouring), subject, style)


def public_drawings(count: int, seed: int, *, size: int = SIZE) -> Iterator[ProceduralDrawing]:
    """Yield ``count`` public drawings, every subject in every style in turn."""
    pairs = [(subject, style) for subject in subjects.PUBLIC for style in styles.PUBLIC]
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        subject, style = pairs[i % len(pairs)]
        colouring = str(rng.choice(list(PALETTES))) if rng.random() < COLOURED else None
        yield draw(subject, style, rng, colouring=colouring, size=size)


def studio_drawings(studio: Studio, count: int, seed: int, *, size: int = SIZE) -> Iterator[ProceduralDrawing]:
    """Yield ``count`` drawings of one studio, its subjects in turn."""
    for i in range(count):
        rng = np.random.default_rng((seed, *studio.name.encode(), i))
        yield draw(studio.subjects[i % len(studio.subjects)], studio.style, rng, size=size)


def _placed(sketch: Sketch, rng: np.random.Generator) -> Sketch:
    """Return the sketch a little turned, scaled and moved, and sometimes mirrored, as no two drawings sit alike."""
    angle, scale = rng.normal(0, 0.07), rng.uniform(0.82, 1.02)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        turn = turn @ np.diag([-1.0, 1.0])
    move = 0.5 + rng.normal(0, 0.025, 2)
    return [Stroke((s.points - 0.5) @ turn.T + move, s.closed, s.tone) for s in sketch]
