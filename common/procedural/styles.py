"""How it is drawn: each style renders strokes to a picture the way a hand with that tool would.

``PUBLIC`` styles train the embedded base; ``STUDIO`` styles are kept from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from common.procedural.shapes import Points, Sketch, Stroke

Rng = np.random.Generator
Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
Style = Callable[[Sketch, Rng, int, "Palette | None"], Picture]

SUPERSAMPLE = 3
"""Styles draw at three times the size and are scaled down, which is cheaper than antialiased drawing."""


@dataclass(frozen=True)
class Palette:
    """The colours of paper and pigment, 8-bit RGB."""

    paper: Colour
    ink: Colour


PALETTES: Mapping[str, Palette] = MappingProxyType(
    {
        "sepia": Palette((244, 232, 208), (96, 56, 24)),
        "blue": Palette((248, 248, 250), (32, 56, 140)),
        "green": Palette((244, 248, 240), (24, 96, 56)),
        "red": Palette((252, 244, 240), (160, 40, 32)),
        "grey": Palette((200, 200, 196), (40, 40, 44)),
        "night": Palette((28, 30, 44), (232, 228, 212)),
    }
)
"""Colourings that a public drawing may have beside its style's own; a caption names them."""


class _Sheet:
    """A supersampled sheet: an 8-bit coverage mask (0 paper, 255 full ink) and a pen to mark it."""

    def __init__(self, size: int, rng: Rng, wobble: float) -> None:
        self.pixels = size * SUPERSAMPLE
        self.rng = rng
        self.wobble = wobble
        self.mask = Image.new("L", (self.pixels, self.pixels), 0)
        self.pen = ImageDraw.Draw(self.mask)

    def by_hand(self, points: Points) -> Points:
        """Return points in pixels with the smooth error of a hand that draws them."""
        noise = self.rng.normal(0.0, self.wobble, points.shape)
        if len(noise) > 4:
            kernel = np.ones(3) / 3
            noise = np.stack([np.convolve(noise[:, k], kernel, mode="same") for k in (0, 1)], axis=1)
        return (points + noise) * self.pixels

    def line(self, points: Points, width: float, value: int = 255) -> None:
        """Draw an even line of ``width`` (fraction of the sheet)."""
        xy = [tuple(p) for p in self.by_hand(points)]
        self.pen.line(xy, fill=value, width=max(1, round(width * self.pixels)), joint="curve")

    def swelling(self, points: Points, thin: float, thick: float, value: int = 255) -> None:
        """Draw a line that swells towards its middle, as a brush or a nib does."""
        xy = self.by_hand(points)
        n = len(xy)
        radius = (thin + (thick - thin) * np.sin(np.linspace(0.15, np.pi - 0.15, n))) * self.pixels / 2
        for i in range(n - 1):
            a, b, w = xy[i], xy[i + 1], radius[i]
            self.pen.line([tuple(a), tuple(b)], fill=value, width=max(1, round(2 * w)))
            self.pen.ellipse([b[0] - w, b[1] - w, b[0] + w, b[1] + w], fill=value)

    def area(self, points: Points, value: int) -> None:
        """Fill the area that ``points`` bound."""
        self.pen.polygon([tuple(p) for p in points * self.pixels], fill=value)

    def hatch(self, stroke: Stroke, spacing: float, angle: float, width: float, value: int = 255) -> None:
        """Lay parallel lines inside a closed stroke."""
        region = Image.new("1", self.mask.size, 0)
        ImageDraw.Draw(region).polygon([tuple(p) for p in stroke.points * self.pixels], fill=1)
        lines = Image.new("L", self.mask.size, 0)
        pen = ImageDraw.Draw(lines)
        d = np.array([np.cos(angle), np.sin(angle)])
        n = np.array([-d[1], d[0]])
        for offset in np.arange(-0.75, 0.75, spacing) + self.rng.uniform(0, spacing):
            middle = np.array([0.5, 0.5]) + n * (offset + self.rng.normal(0, spacing * 0.12))
            ends = self.by_hand(np.stack([middle - d, middle + d]))
            pen.line([tuple(e) for e in ends], fill=value, width=max(1, round(width * self.pixels)))
        self.mask.paste(lines, (0, 0), Image.composite(lines, Image.new("L", lines.size, 0), region))

    def coverage(self, size: int, blur: float = 0.0) -> NDArray[np.float32]:
        """Return the mask at the picture's size, float32 [size, size] in [0, 1]."""
        mask = self.mask.filter(ImageFilter.GaussianBlur(blur * self.pixels)) if blur else self.mask
        return np.asarray(mask.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255.0


def _colour(cover: NDArray[np.floating[Any]], palette: Palette) -> Picture:
    paper, ink = np.array(palette.paper, np.float32), np.array(palette.ink, np.float32)
    picture: Picture = np.rint(paper + (ink - paper) * np.clip(cover, 0, 1)[..., None]).astype(np.uint8)
    return picture


def _grain(rng: Rng, size: int, coarse: int = 1) -> NDArray[np.float32]:
    noise = rng.random((size // coarse + 1, size // coarse + 1), dtype=np.float32)
    return np.kron(noise, np.ones((coarse, coarse), np.float32))[:size, :size]


def pencil(sketch: Sketch, rng: Rng, size: int, palette: Palette | None = None) -> Picture:
    """Thin grey lines, drawn twice, with light even shading."""
    sheet = _Sheet(size, rng, 0.006)
    for s in sketch:
        if s.closed and s.tone > 0.15:
            sheet.area(s.points, int(40 + 70 * s.tone))
    for s in sketch:
        for _ in range(2):
            sheet.line(s.points, 0.012, int(rng.integers(120, 185)))
    cover = sheet.coverage(size) * (0.82 + 0.3 * _grain(rng, size))
    return _colour(cover, palette or Palette((250, 249, 245), (48, 48, 52)))


def ink(sketch: Sketch, rng: Rng, size: int, palette: Palette | None = None) -> Picture:
    """Crisp black contours; only the darkest areas are filled."""
    sheet = _Sheet(size, rng, 0.003)
    for s in sketch:
        if s.closed and s.tone > 0.65:
            sheet.area(s.points, 255)
        sheet.swelling(s.points, 0.012, 0.03)
    return _colour(sheet.coverage(size), palette or Palette((255, 255, 255), (8, 8, 12)))


def hatching(sketch: Sketch, rng: Rng, size: int, palette: Palette | None = None) -> Picture:
    """Fine contours, areas shaded by parallel and crossed lines."""
    sheet = _Sheet(size, rng, 0.004)
    angle = rng.uniform(0.6, 1.0)
    for s in sketch:
        if s.closed and s.tone > 0.1:
            sheet.hatch(s, 0.085 - 0.045 * s.tone, angle, 0.014)
            if s.tone > 0.55:
                sheet.hatch(s, 0.085, angle + np.pi / 2, 0.014)
        sheet.line(s.points, 0.018)
    return _colour(sheet.coverage(size), palette or Palette((253, 252, 248), (24, 24, 28)))


def charcoal(sketch: Sketch, rng: Rng, size: int, palette: Palette | None = None) -> Picture:
    """Broad soft lines and smudged areas on grained paper."""
    sheet = _Sheet(size, rng, 0.008)
    for s in sketch:
        if s.closed and s.tone > 0.1:
            sheet.area(s.points, int(70 + 110 * s.tone))
    for s in sketch:
        sheet.line(s.points, 0.05, int(rng.integers(190, 240)))
    cover = sheet.coverage(size, blur=0.012) * (0.55 + 0.75 * _grain(rng, size, 2) * (0.6 + 0.4 * _grain(rng, size)))
    return _colour(cover, palette or Palette((240, 236, 228), (30, 28, 28)))


def brush(sketch: Sketch, rng: Rng, size: int, palette: Palette | None = None) -> Picture:
    """Broad strokes that swell, over a pale wash."""
    sheet = _Sheet(size, rng, 0.006)
    for s in sketch:
        if s.closed and s.tone > 0.2:
            sheet.area(s.points, int(50 + 60 * s.tone))
    for s in sketch:
        sheet.swelling(s.points, 0.02, 0.085)
    return _colour(sheet.coverage(size, blur=0.004), palette or Palette((255, 253, 248), (16, 16, 24)))


def blueprint(sketch: Sketch, rng: Rng, size: int, palette: Palette | None = None) -> Picture:
    """White even lines with a faint grid on blueprint blue."""
    sheet = _Sheet(size, rng, 0.0015)
    for k in np.arange(0.125, 1.0, 0.125):
        sheet.line(np.array([[k, 0.0], [k, 1.0]]), 0.008, 50)
        sheet.line(np.array([[0.0, k], [1.0, k]]), 0.008, 50)
    for s in sketch:
        sheet.line(s.points, 0.02, 240)
    return _colour(sheet.coverage(size), palette or Palette((24, 60, 148), (236, 244, 255)))


def sanguine(sketch: Sketch, rng: Rng, size: int, palette: Palette | None = None) -> Picture:
    """Red chalk on buff paper: soft contours, slanted hatching."""
    sheet = _Sheet(size, rng, 0.006)
    for s in sketch:
        if s.closed and s.tone > 0.1:
            sheet.hatch(s, 0.05, 2.3, 0.03, 170)
        sheet.line(s.points, 0.034, 225)
    cover = sheet.coverage(size, blur=0.006) * (0.7 + 0.45 * _grain(rng, size))
    return _colour(cover, palette or Palette((232, 206, 168), (158, 52, 30)))


def scratchboard(sketch: Sketch, rng: Rng, size: int, palette: Palette | None = None) -> Picture:
    """Bright scratches on black: contours and dense hatching in the light areas."""
    sheet = _Sheet(size, rng, 0.004)
    for s in sketch:
        if s.closed:
            sheet.hatch(s, 0.04 + 0.05 * s.tone, 0.2, 0.016, 215)
        sheet.line(s.points, 0.024)
    return _colour(sheet.coverage(size), palette or Palette((14, 14, 16), (248, 244, 230)))


def stipple(sketch: Sketch, rng: Rng, size: int, palette: Palette | None = None) -> Picture:
    """Green ink dots along the contours and, denser with tone, inside the areas."""
    sheet = _Sheet(size, rng, 0.004)
    p, dot = sheet.pixels, 0.013
    spots = [s.points[rng.random(len(s.points)) < 0.95] for s in sketch]
    for s in sketch:
        if s.closed and s.tone > 0.1:
            region = Image.new("1", (p, p), 0)
            ImageDraw.Draw(region).polygon([tuple(q) for q in s.points * p], fill=1)
            inside = np.asarray(region)
            tries = rng.random((int(500 * s.tone), 2))
            keep = inside[(tries[:, 1] * p).astype(int), (tries[:, 0] * p).astype(int)]
            spots.append(tries[keep])
    for x, y in np.vstack(spots) * p + rng.normal(0, 0.004 * p, (sum(map(len, spots)), 2)):
        sheet.pen.ellipse([x - dot * p, y - dot * p, x + dot * p, y + dot * p], fill=255)
    return _colour(sheet.coverage(size), palette or Palette((238, 244, 226), (20, 92, 60)))


def _table(*styles: Style) -> Mapping[str, Style]:
    return MappingProxyType({f.__name__: f for f in styles})


PUBLIC = _table(pencil, ink, hatching, charcoal, brush)
STUDIO = _table(blueprint, sanguine, scratchboard, stipple)
