"""A site's drawings: a folder in the ``imagefolder`` convention of Hugging Face Datasets, read with care.

The convention is read here and not by ``datasets.load_dataset``: that fails as a whole on one bad picture or line,
writes an Arrow copy of every drawing to a cache, and names files in its errors. What is read is the same:
``metadata.jsonl`` with ``file_name`` and ``text`` (further columns are kept out, but for ``drawer``), or a ``.txt``
beside the picture, or one caption for all.

Nothing here ever names a file or tells a caption: what was left out is counted by reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from client.pictures import Pixels, SkippedError, clean
from common.errors import DrawingsError
from common.settings import Positive, Settings

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
_LARGEST_FILE = 256 * 2**20
_LARGEST_METADATA = 256 * 2**20


class DrawingSettings(Settings):
    """How a site's folder is read."""

    size: Positive = 64
    """Width and height that drawings are brought to, pixels; the base's own."""
    default_caption: str | None = None
    """For drawings without one; without a default they are skipped."""
    held_out_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    """Share that is never trained on."""
    max_pixels: Positive = 64_000_000
    """Pictures of more pixels are skipped undecoded."""
    max_caption_characters: Positive = 300
    """Longer captions are cut at a word."""


@dataclass(frozen=True)
class Drawing:
    """One drawing.

    Attributes:
        digest: SHA-256 (hex) of its decoded content.
        caption: What it shows.
        drawer: Who drew it, where the metadata says so.
        pixels: uint8 RGB [size, size, 3].
    """

    digest: str
    caption: str
    drawer: str | None
    pixels: Pixels


@dataclass(frozen=True)
class Drawings:
    """What a folder holds.

    Attributes:
        train: To train on, by digest.
        held_out: To measure on, by digest.
        skipped: Left out, counted by reason.
        handled: Converted or mended, counted by what.
    """

    train: tuple[Drawing, ...]
    held_out: tuple[Drawing, ...]
    skipped: Mapping[str, int]
    handled: Mapping[str, int]


@dataclass(frozen=True)
class _Entry:
    file: Path
    caption: str | None
    drawer: str | None


def load_drawings(folder: Path, settings: DrawingSettings) -> Drawings:
    """Read a folder.

    Guarantees: the split depends on the drawings' content alone, so renaming or moving a file changes nothing; no
    content is on both sides; the order is that of the digests.

    Raises:
        DrawingsError: The folder is missing, is none, cannot be read, or holds no drawing that can be used.
    """
    skipped: Counter[str] = Counter()
    handled: Counter[str] = Counter()
    found: dict[str, Drawing] = {}
    for entry in _entries(_checked(folder), skipped):
        try:
            drawing = _drawing(entry, settings, handled)
        except SkippedError as why:
            skipped[why.reason] += 1
            continue
        if drawing.digest in found:
            skipped["duplicate"] += 1
            drawing = min(found[drawing.digest], drawing, key=lambda d: (d.caption, d.drawer or ""))
        found[drawing.digest] = drawing
    if not found:
        counts = ", ".join(f"{n} {reason}" for reason, n in sorted(skipped.items())) or "an empty folder"
        raise DrawingsError(
            "the folder holds no drawing that can be used", got=counts, expected="pictures with captions"
        )
    train, held_out = _split([found[d] for d in sorted(found)], settings.held_out_fraction)
    return Drawings(train, held_out, MappingProxyType(dict(skipped)), MappingProxyType(dict(handled)))


def _checked(folder: Path) -> Path:
    try:
        if not folder.exists():
            raise DrawingsError("the folder of drawings does not exist", got=str(folder), expected="a folder")
        if not folder.is_dir():
            raise DrawingsError("the folder of drawings is a file", got=str(folder), expected="a folder")
        next(folder.iterdir(), None)
        return folder.resolve()
    except OSError as cause:
        raise DrawingsError("the folder of drawings cannot be read", got=cause.strerror or "an error") from None


def _entries(folder: Path, skipped: Counter[str]) -> Iterator[_Entry]:
    """Yield every picture of the folder once, with what the metadata says of it."""
    told = _metadata(folder, skipped)
    for file in sorted(_pictures(folder, skipped)):
        row = told.pop(file, {})
        caption, drawer = row.get("text"), row.get("drawer")
        if caption is None:
            caption = _beside(file, skipped)
        yield _Entry(file, caption if isinstance(caption, str) else None, drawer if isinstance(drawer, str) else None)
    skipped.update({"named-but-missing": len(told)} if told else {})


def _pictures(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.suffix.lower() not in SUFFIXES or any(p.startswith(".") for p in file.relative_to(folder).parts):
            continue
        if not file.resolve().is_relative_to(folder):
            skipped["outside-the-folder"] += 1
        elif file.is_file():
            yield file


def _metadata(folder: Path, skipped: Counter[str]) -> dict[Path, dict[str, object]]:
    """Return the metadata's rows by file; what cannot be read is counted."""
    rows: dict[Path, dict[str, object]] = {}
    for table in sorted(folder.rglob("metadata.jsonl")):
        try:
            if table.stat().st_size > _LARGEST_METADATA:
                skipped["metadata-too-large"] += 1
                continue
            lines = table.read_bytes().splitlines()
        except OSError:
            skipped["metadata-unreadable"] += 1
            continue
        for line in filter(None, map(bytes.strip, lines)):
            try:
                row = json.loads(line.decode("utf-8"))
                file = (table.parent / str(row["file_name"])).resolve()
                inside = file.is_relative_to(folder)
            except UnicodeDecodeError:
                skipped["metadata-not-utf8"] += 1
            except (ValueError, KeyError, TypeError, OSError, RecursionError):
                skipped["metadata-line-unreadable"] += 1
            else:
                if inside:
                    rows[file] = row
                else:
                    skipped["outside-the-folder"] += 1
    return rows


def _beside(file: Path, skipped: Counter[str]) -> str | None:
    note = file.with_suffix(".txt")
    try:
        return note.read_text(encoding="utf-8") if note.is_file() else None
    except (OSError, UnicodeDecodeError):
        skipped["caption-unreadable"] += 1
        return None


def _drawing(entry: _Entry, settings: DrawingSettings, handled: Counter[str]) -> Drawing:
    caption = " ".join((entry.caption or "").split())
    if not caption:
        caption = settings.default_caption or ""
        if not caption:
            raise SkippedError("no-caption")
        handled["default-caption"] += 1
    if len(caption) > settings.max_caption_characters:
        cut = caption[: settings.max_caption_characters]
        caption = cut.rsplit(" ", 1)[0] if " " in cut else cut
        handled["caption-cut"] += 1
    try:
        if entry.file.stat().st_size > _LARGEST_FILE:
            raise SkippedError("file-too-large")
        data = entry.file.read_bytes()
    except OSError as cause:
        raise SkippedError("unreadable") from cause
    cleaned = clean(data, settings.size, settings.max_pixels)
    handled.update(cleaned.handled)
    return Drawing(cleaned.digest, caption, entry.drawer, cleaned.pixels)


def _split(drawings: list[Drawing], fraction: float) -> tuple[tuple[Drawing, ...], tuple[Drawing, ...]]:
    """Split by digest: a drawing's side depends on itself, but for the one that has to be held out so that one is."""
    held = [d for d in drawings if int(d.digest[:8], 16) / 2**32 < fraction]
    train = [d for d in drawings if int(d.digest[:8], 16) / 2**32 >= fraction]
    if fraction and not held and len(train) > 1:
        held.append(train.pop(0))
    if not train and len(held) > 1:
        train.append(held.pop())
    return tuple(train), tuple(held)
