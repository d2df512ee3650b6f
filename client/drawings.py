"""A site's drawings: a folder of pictures becomes clean drawings, split into those to train on and those to measure on.

The folder is read by :mod:`client.imagefolder`, each picture by :mod:`client.pictures`. Whatever is wrong with a
file, a line or a caption, the others are still used. Nothing here ever names a file or tells a caption: what was left
out or converted is counted under the slugs of :mod:`client.reasons`.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import numpy as np
from pydantic import Field, StringConstraints

from client.imagefolder import Entry, read_folder
from client.pictures import PIXEL_CEILING, Pixels, clean
from client.reasons import Handling, Skip, SkippedError
from common.errors import DrawingsError
from common.settings import Positive, Settings

_LARGEST_FILE = 512 * 2**20
_LONGEST_DRAWER = 200
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and halves of characters that JSON can spell but no encoding can hold."""
_PACKING_LEVEL = 1


class DrawingSettings(Settings):
    """How a site's folder is read."""

    size: Annotated[int, Field(ge=8, le=4096)] = 64
    """Width and height that drawings are brought to, pixels; the base's own."""
    default_caption: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = None
    """For drawings without a caption; without a default they are skipped."""
    held_out_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    """Share that is never trained on; 0 for none, and then nothing can be measured."""
    max_pixels: Annotated[int, Field(gt=0, le=PIXEL_CEILING)] = 64_000_000
    """Pictures of more pixels are skipped undecoded: a small file can claim to be a huge picture."""
    max_caption_characters: Positive = 300
    """Longer captions are cut at a word."""


@dataclass(frozen=True)
class Drawing:
    """One drawing. Its ``repr`` tells nothing of it, so that it can stand in a log.

    Attributes:
        digest: SHA-256 (hex) of its decoded pixels at its own size.
        caption: What it shows.
        drawer: Who drew it, where the metadata says so.
        size: Width and height, pixels.
        packed: Its pixels, compressed: a site may have thousands, and pen on paper shrinks to a few per cent.
    """

    digest: str = field(repr=False)
    caption: str = field(repr=False)
    drawer: str | None = field(repr=False)
    size: int
    packed: bytes = field(repr=False)

    @classmethod
    def of(cls, pixels: Pixels, caption: str) -> Drawing:
        """Return the drawing that these pixels are, uint8 RGB ``[size, size, 3]``, at their own size."""
        flat = pixels.tobytes()
        return cls(hashlib.sha256(flat).hexdigest(), caption, None, len(pixels), zlib.compress(flat, _PACKING_LEVEL))

    @property
    def pixels(self) -> Pixels:
        """The pixels, unpacked at every call: uint8 RGB [size, size, 3], read-only."""
        flat = np.frombuffer(zlib.decompress(self.packed), dtype=np.uint8)
        return flat.reshape(self.size, self.size, 3)


@dataclass(frozen=True)
class Drawings:
    """What a folder holds.

    Attributes:
        train: To train on, in the order of their digests; of very few drawings it may be empty.
        held_out: To measure on, likewise.
        skipped: Left out, counted by reason.
        handled: Converted or mended, counted by what; a duplicate counts too.
    """

    train: tuple[Drawing, ...] = field(repr=False)
    held_out: tuple[Drawing, ...] = field(repr=False)
    skipped: Mapping[Skip, int]
    handled: Mapping[Handling, int]


def load_drawings(folder: Path, settings: DrawingSettings) -> Drawings:
    """Read a folder of drawings.

    Guarantees:
        * What becomes of a picture depends on it alone: its side follows from its own digest, and neither another
          picture, nor its name, nor ``size`` moves it. That is what differential privacy needs, where the guarantee
          compares a folder with the same folder without one unit. So a side can come out empty.
        * The same picture is on one side only, and there once for each drawer. Which caption of the same drawer's it
          has does not depend on names either. What a drawer has does not depend on what other drawers have.
        * Whatever the files hold, nothing but :class:`DrawingsError` is raised.

    Args:
        folder: A folder in the imagefolder convention (see :mod:`client.imagefolder`).
        settings: How to read it.

    Raises:
        DrawingsError: The folder is missing, is no folder, cannot be read, or holds no drawing that can be used.
    """
    skipped: Counter[Skip] = Counter()
    handled: Counter[Handling] = Counter()
    kept: dict[tuple[str, str | None], Drawing] = {}
    for entry in read_folder(_checked(folder), skipped):
        try:
            drawing, how = _drawing(entry, settings)
        except SkippedError as why:
            skipped[why.reason] += 1
            continue
        handled.update(how)
        which = drawing.digest, drawing.drawer
        if (same := kept.get(which)) is not None:
            skipped[Skip.DUPLICATE] += 1
            drawing = min(same, drawing, key=_order)
        kept[which] = drawing
    if not kept:
        raise _nothing_usable(skipped)
    if several := len(kept) - len({digest for digest, _ in kept}):
        handled[Handling.SEVERAL_DRAWERS] += several
    train, held_out = _split(sorted(kept.values(), key=_order), settings.held_out_fraction)
    return Drawings(train, held_out, MappingProxyType(dict(skipped)), MappingProxyType(dict(handled)))


def _checked(folder: Path) -> Path:
    advice = "Name a folder that holds pictures and a metadata.jsonl with their captions."
    try:
        if not folder.exists():
            raise DrawingsError("the folder of drawings does not exist", got=str(folder), advice=advice)
        if not folder.is_dir():  # its name may be a drawing's: it is not told
            raise DrawingsError(
                "what is named is no folder of drawings", got="a file", expected="a folder", advice=advice
            )
        next(folder.iterdir(), None)
        return folder.resolve()
    except OSError as cause:
        raise DrawingsError(
            "the folder of drawings cannot be read",
            got=cause.strerror or "an error of the system",
            advice="Give the user that runs the site the right to read the folder and everything in it.",
        ) from None


def _nothing_usable(skipped: Counter[Skip]) -> DrawingsError:
    what = "the folder holds no drawing that can be used"
    if not skipped:
        return DrawingsError(
            what, got="no pictures", advice="Put pictures (PNG, JPEG, WebP, TIFF, ...) into it, and a metadata.jsonl."
        )
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
    if skipped[Skip.NO_CAPTION]:
        advice = "Add captions: `text` in metadata.jsonl, a .txt beside each picture, or one default caption for all."
        return DrawingsError(what, got=counts, expected="pictures with captions", advice=advice)
    return DrawingsError(what, got=counts, expected="pictures with captions")


def _drawing(entry: Entry, settings: DrawingSettings) -> tuple[Drawing, list[Handling]]:
    caption, how = _caption(entry.caption, settings)
    try:
        if entry.file.stat().st_size > _LARGEST_FILE:
            raise SkippedError(Skip.FILE_TOO_LARGE)
        data = entry.file.read_bytes()
    except OSError as cause:
        raise SkippedError(Skip.UNREADABLE) from cause
    cleaned = clean(data, settings.size, settings.max_pixels)
    drawer = _plain(entry.drawer or "")[:_LONGEST_DRAWER] or None
    packed = zlib.compress(cleaned.pixels.tobytes(), _PACKING_LEVEL)
    return Drawing(cleaned.digest, caption, drawer, settings.size, packed), [*how, *cleaned.handled]


def _caption(told: str | None, settings: DrawingSettings) -> tuple[str, list[Handling]]:
    """Return a drawing's caption and what was done to it."""
    how = []
    caption = _plain(told or "")
    if told and caption != " ".join(told.split()):
        how.append(Handling.CAPTION_MENDED)
    if not caption:
        caption = _plain(settings.default_caption or "")
        how = [Handling.DEFAULT_CAPTION]
    if not caption:
        raise SkippedError(Skip.NO_CAPTION)
    most = settings.max_caption_characters
    if len(caption) > most:
        words, space, _ = caption[: most + 1].rpartition(" ")
        caption = words if space else caption[:most]
        how.append(Handling.CAPTION_CUT)
    return caption, how


def _plain(text: str) -> str:
    """Return text on one line, without what is no text."""
    return " ".join(_NOT_TEXT.sub(" ", text).split())


def _order(drawing: Drawing) -> tuple[str, str, str]:
    return drawing.digest, drawing.caption, drawing.drawer or ""


def _split(drawings: list[Drawing], fraction: float) -> tuple[tuple[Drawing, ...], tuple[Drawing, ...]]:
    """Hold out the drawings whose digest is below where ``fraction`` of all digests ends: a coin of each one's own."""
    held_out = tuple(drawing for drawing in drawings if int(drawing.digest[:13], 16) < fraction * 2**52)
    return tuple(drawings[len(held_out) :]), held_out
