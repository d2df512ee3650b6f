"""One picture: from the bytes of a file to clean RGB pixels, or a reason why not.

A reason is a short slug. It never holds a file name or anything else of the drawing.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]
"""uint8 RGB, shape [size, size, 3]."""


class SkippedError(Exception):
    """A picture is left out. Never reaches a person: it is counted by ``reason``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Cleaned:
    """A picture made fit.

    Attributes:
        pixels: uint8 RGB [size, size, 3].
        digest: SHA-256 (hex) of the pixels at the picture's own size, whatever the file's format: equal drawings have
            equal digests.
        handled: What had to be converted, as slugs.
    """

    pixels: Pixels
    digest: str
    handled: tuple[str, ...]


def clean(data: bytes, size: int, max_pixels: int) -> Cleaned:
    """Decode and clean a picture.

    Args:
        data: The file's bytes.
        size: Width and height wanted: the shorter side is scaled to it, the middle cut out.
        max_pixels: Pictures of more pixels are skipped by their header, undecoded.

    Raises:
        SkippedError: ``not-a-picture``, ``too-many-pixels``, ``animated``, ``truncated`` or ``too-thin``.
    """
    image = _opened(data, max_pixels)
    handled = _peculiarities(image)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            image = ImageOps.exif_transpose(image)
            flat = _rgb(image)
    except (
        OSError,
        SyntaxError,
        ValueError,
        IndexError,
        EOFError,
        TypeError,
        KeyError,
        OverflowError,
        MemoryError,
    ) as cause:
        raise SkippedError("truncated") from cause
    if min(flat.size) < 8 or max(flat.size) > 20 * min(flat.size):
        raise SkippedError("too-thin")
    digest = hashlib.sha256(f"{flat.size}".encode() + flat.tobytes()).hexdigest()
    # Reducing with a box filter over the whole footprint keeps thin pen lines as grey instead of dropping them.
    fitted = ImageOps.fit(
        flat, (size, size), Image.Resampling.BOX if min(flat.size) >= 2 * size else Image.Resampling.LANCZOS
    )
    return Cleaned(np.asarray(fitted, dtype=np.uint8), digest, handled)


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bombs by a limit of its own; ours is stricter
            image = Image.open(io.BytesIO(data))
            frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as cause:
        raise SkippedError("too-many-pixels") from cause
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        TypeError,
        KeyError,
        IndexError,
        OverflowError,
    ) as cause:
        raise SkippedError("not-a-picture") from cause
    if image.width * image.height > max_pixels:
        raise SkippedError("too-many-pixels")
    if frames > 1:
        raise SkippedError("animated")
    return image


def _peculiarities(image: Image.Image) -> tuple[str, ...]:
    kinds = {
        "one-bit": image.mode == "1",
        "sixteen-bit": image.mode.startswith("I") or image.mode == "F",
        "cmyk": image.mode in ("CMYK", "YCbCr", "LAB", "HSV"),
        "alpha": "A" in image.mode or "transparency" in image.info,
        "palette": image.mode in ("P", "PA"),
        "grey": image.mode in ("L", "LA"),
    }
    return tuple(kind for kind, found in kinds.items() if found)


def _rgb(image: Image.Image) -> Image.Image:
    """Return the picture as RGB on white paper."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bit(image).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        over = image.convert("RGBA")
        paper = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, over).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit (or wider) greys to 8 bits; Pillow's own conversion would cut them off at 255."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("not finite")
    top = 65535.0 if image.mode.startswith("I") else 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
    return Image.fromarray(np.rint(np.clip(values / top, 0.0, 1.0) * 255).astype(np.uint8))
