"""One picture: from the bytes of a file to clean RGB pixels, or a reason why not.

The bytes may be anything. What a picture claims of itself is looked at before it is decoded, and only by decoders of
a few plain formats: Pillow would otherwise run Ghostscript on a file that says it is PostScript.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from client.reasons import Handling, Skip, SkippedError

Pixels = NDArray[np.uint8]
"""uint8 RGB, shape [size, size, 3]."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
PIXEL_CEILING = 89_478_485
"""No limit on pixels can be set higher: from here on Pillow itself warns of a decompression bomb."""
SHORTEST_SIDE = 8
LONGEST_TO_SHORTEST = 20

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture of each EXIF orientation upright (Exif 2.32, 4.6.4)."""

_KINDS = {
    "1": Handling.ONE_BIT,
    "L": Handling.GREY,
    "LA": Handling.GREY,
    "La": Handling.GREY,
    "P": Handling.PALETTE,
    "PA": Handling.PALETTE,
    "CMYK": Handling.CMYK,
    "YCbCr": Handling.OTHER_COLOURS,
    "LAB": Handling.OTHER_COLOURS,
    "HSV": Handling.OTHER_COLOURS,
}

# Pillow's loggers quote a file's tags, which may hold titles and names.
logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class Cleaned:
    """A picture made fit.

    Attributes:
        pixels: uint8 RGB [size, size, 3].
        digest: SHA-256 (hex) of the upright RGB pixels at the picture's own size, and of nothing else: it does not
            depend on the file's name, format or metadata, nor on ``size``.
        handled: What had to be converted.
    """

    pixels: Pixels
    digest: str
    handled: tuple[Handling, ...]


def clean(data: bytes, size: int, max_pixels: int) -> Cleaned:
    """Decode and clean a picture.

    Args:
        data: The file's bytes; they may be anything.
        size: Width and height wanted, pixels: the shorter side is scaled to it, the middle cut out.
        max_pixels: Pictures of more pixels are skipped by their header, undecoded.

    Raises:
        SkippedError: ``not-a-picture``, ``too-many-pixels``, ``animated``, ``too-small``, ``too-thin`` or
            ``truncated``. Nothing else is raised, whatever the bytes are.
    """
    with _quiet():
        image = _opened(data)
        _check_header(image, max_pixels)
        try:
            image.load()
            handled = _peculiarities(image)
            upright = _upright(image)
            flat = to_rgb(upright)
        except Exception as cause:
            # Decoders of foreign bytes raise what they like (struct.error, zlib.error, AssertionError, ...).
            raise SkippedError(Skip.TRUNCATED) from cause
    if upright is not image:
        handled = (*handled, Handling.TURNED)
    digest = hashlib.sha256(b"%dx%d " % flat.size + flat.tobytes()).hexdigest()
    return Cleaned(fit(flat, size), digest, handled)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a decoded picture of any mode as 8-bit RGB on white paper.

    More than 8 bits a grey are scaled, never cut off; what is transparent becomes white.

    Raises:
        ValueError: A value is not finite.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bit(image).convert("RGB")
    if image.mode in ("La", "RGBa"):  # colours multiplied by alpha
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        over = image.convert("RGBA")
        paper = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(paper, over).convert("RGB")
    return image.convert("RGB")


def fit(flat: Image.Image, size: int) -> Pixels:
    """Scale the shorter side to ``size`` and cut out the middle.

    Reducing takes the Hamming filter: it weighs the whole footprint, so that a thin line turns grey and does not
    drop out; it has no negative lobes, so that white paper gets no halo and a line keeps the ink it has. (Of 136
    pen drawings from 105 to 64 pixels, lines stay darker than with Lanczos or bicubic, and the mean ink is kept to
    0.1 %; a box filter is darker still but makes even lines uneven.) Enlarging takes the bicubic filter.

    Returns:
        uint8 RGB [size, size, 3].
    """
    reduces = min(flat.size) > size
    method = Image.Resampling.HAMMING if reduces else Image.Resampling.BICUBIC
    return np.asarray(ImageOps.fit(flat, (size, size), method), dtype=np.uint8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings to ourselves; make one of a decompression bomb an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as cause:
        raise SkippedError(Skip.TOO_MANY_PIXELS) from cause
    except Exception as cause:  # readers of foreign headers raise what they like
        raise SkippedError(Skip.NOT_A_PICTURE) from cause


def _check_header(image: Image.Image, max_pixels: int) -> None:
    short, long = sorted(image.size)
    if short * long > max_pixels:
        raise SkippedError(Skip.TOO_MANY_PIXELS)
    if _has_frames(image):
        raise SkippedError(Skip.ANIMATED)
    if short < SHORTEST_SIDE:
        raise SkippedError(Skip.TOO_SMALL)
    if long > LONGEST_TO_SHORTEST * short:
        raise SkippedError(Skip.TOO_THIN)


def _has_frames(image: Image.Image) -> bool:
    if image.format == "MPO":  # a camera's JPEG with previews after the picture: the first frame is the picture
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception as cause:  # a GIF looks for its second frame only now
        raise SkippedError(Skip.TRUNCATED) from cause


def _peculiarities(image: Image.Image) -> tuple[Handling, ...]:
    mode = image.mode
    kind = Handling.SIXTEEN_BIT if mode in ("I", "F") or mode.startswith("I;16") else _KINDS.get(mode)
    alpha = Handling.ALPHA if image.has_transparency_data else None
    return tuple(found for found in (kind, alpha) if found)


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF says; the same object when there is nothing to turn."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - broken EXIF tells no orientation, and the picture itself may be good
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale greys of more than 8 bits to 8; Pillow's own conversion would cut them off at 255."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ValueError("not finite")
    scaled = np.multiply(values, 255.0 / _white(image.mode, float(values.max(initial=0))), dtype=np.float32)
    np.rint(scaled.clip(0.0, 255.0, out=scaled), out=scaled)
    if image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0:
        # A TIFF in which 0 is white; Pillow turns these round for 8 bits, not for 16.
        np.subtract(255.0, scaled, out=scaled)
    return Image.fromarray(scaled.astype(np.uint8))


def _white(mode: str, lightest: float) -> float:
    """Return what counts as white: formats with 16 bits say so, wider ones leave it to be guessed."""
    steps = (65535.0, 2.0**31 - 1) if mode.startswith("I") else (1.0, 255.0, 65535.0)
    return next((step for step in steps if lightest <= step), lightest)
