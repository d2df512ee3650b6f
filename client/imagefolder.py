"""A folder in the ``imagefolder`` convention of Hugging Face Datasets, read row by row.

The convention: pictures anywhere below the folder; a ``metadata.jsonl`` or ``metadata.csv`` beside or above them with
``file_name`` (relative to the metadata) and ``text``; further columns are passed over, but for ``drawer``. A ``.txt``
beside a picture may hold its caption instead.

It is read here and not by ``datasets.load_dataset("imagefolder")``, because one bad file may not stop a site.
Measured on datasets 5.2: one line that is not UTF-8 or not JSON fails the whole folder; a row without its picture
fails the pass over it with an error that holds the path, and a damaged picture fails it too; a picture without a row
vanishes without a word; captions and paths are copied to a cache outside the site's home. On a folder without fault
both read the same.

Nothing outside the folder is ever opened: rows and links that lead out of it are counted and left.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from client.reasons import Skip

SUFFIXES = frozenset(
    {
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jfif",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    }
)
"""Files that are taken for pictures; what they are is decided by their content."""
_NOT_READ = frozenset(
    {".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".psd", ".svg", ".eps", ".pdf", ".tga", ".dng", ".cr2", ".nef"}
)
_TABLES = frozenset({"metadata.jsonl", "metadata.csv"})
_LARGEST_TABLE = 256 * 2**20
_LONGEST_NOTE = 65_536

Row = dict[str, object]


@dataclass(frozen=True)
class Entry:
    """A picture's file and what is said of it.

    Attributes:
        file: A regular file inside the folder.
        caption: As written, or None.
        drawer: Who drew it, as written, or None.
    """

    file: Path
    caption: str | None = field(repr=False)
    drawer: str | None = field(repr=False)


def read_folder(folder: Path, skipped: Counter[Skip]) -> Iterator[Entry]:
    """Yield every picture of a folder once.

    Args:
        folder: An absolute path without links in it.
        skipped: Counts what is left out on the way.
    """
    found = _Found()
    for file in _walk(folder, found, skipped):
        found.sort(file)
    rows = _rows(folder, found, skipped)
    for file in found.pictures:
        # Two files whose names differ in how accents are written share a row: neither loses it by the other.
        row = rows.get(_key(file), {})
        caption = _text(row.get("text")) or _beside(file, found, skipped)
        yield Entry(file, caption, _text(row.get("drawer")))
    for key in rows.keys() - {_key(file) for file in found.pictures}:
        if key not in found.refused and key not in found.not_read:
            skipped[Skip.FORMAT_NOT_READ if key in found.others else Skip.NAMED_BUT_MISSING] += 1
    if found.not_read:
        skipped[Skip.FORMAT_NOT_READ] += len(found.not_read)
    if unread := sum(file.name == "metadata.parquet" for file in found.others.values()):
        skipped[Skip.METADATA_NOT_READ] += unread


@dataclass
class _Found:
    pictures: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    others: dict[str, Path] = field(default_factory=dict)
    not_read: set[str] = field(default_factory=set)
    """Keys of pictures in formats that are not read."""
    refused: set[str] = field(default_factory=set)
    """Keys of files that are counted already."""

    def sort(self, file: Path) -> None:
        suffix = file.suffix.lower()
        if suffix in SUFFIXES:
            self.pictures.append(file)
        elif file.name in _TABLES:
            self.tables.append(file)
        elif suffix in _NOT_READ:
            self.not_read.add(_key(file))
        else:
            self.others[_key(file)] = file


def _walk(folder: Path, found: _Found, skipped: Counter[Skip]) -> Iterator[Path]:
    """Yield the regular files below a folder in a fixed order; hidden ones, and folders behind links, are passed over.

    A loop and not a recursion: folders may be nested deeper than Python calls can be.
    """
    waiting = [os.fspath(folder)]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as listing:
                items = sorted((i for i in listing if not i.name.startswith(".")), key=lambda i: i.name)
        except OSError:
            skipped[Skip.UNREADABLE] += 1
            continue
        for item in items:
            path = Path(item.path)
            try:
                why_not = _refusal(item, folder)
                is_file = item.is_file()
            except OSError:
                why_not, is_file = Skip.UNREADABLE, False
            if why_not is not None:
                skipped[why_not] += 1
                found.refused.add(_key(path))
            elif is_file:
                yield path
            elif item.is_dir(follow_symlinks=False):
                waiting.append(item.path)


def _refusal(item: os.DirEntry[str], folder: Path) -> Skip | None:
    if item.is_symlink() and not Path(os.path.realpath(item.path)).is_relative_to(folder):
        return Skip.OUTSIDE_THE_FOLDER
    readable = item.is_file() or item.is_dir()
    relevant = Path(item.name).suffix.lower() in SUFFIXES or item.name in _TABLES
    return Skip.UNREADABLE if relevant and not readable else None  # a pipe or a device, say: reading it may never end


def _key(path: Path | str) -> str:
    """Return what rows and files are matched by: some systems write accents in names as two characters, some as one."""
    return unicodedata.normalize("NFC", os.path.normpath(path))


def _text(value: object) -> str | None:
    """Return a cell's text; None when there is none. Whole numbers are text too: drawers are often numbered."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and value.strip() else None


def _rows(folder: Path, found: _Found, skipped: Counter[Skip]) -> dict[str, Row]:
    """Return the rows of all metadata by the key of the picture they name."""
    rows: dict[str, Row] = {}
    for table in found.tables:
        lines = _lines(table, skipped)
        for row in _csv_rows(lines, skipped) if table.suffix == ".csv" else _json_rows(lines, skipped):
            name = row.get("file_name")
            if not isinstance(name, str) or not name:
                skipped[Skip.METADATA_LINE_UNREADABLE] += 1
                continue
            path = os.path.normpath(table.parent / name)
            if not Path(path).is_relative_to(folder):
                skipped[Skip.OUTSIDE_THE_FOLDER] += 1
                continue
            if _key(path) in rows:
                skipped[Skip.METADATA_REPEATED] += 1
            rows[_key(path)] = row
    return rows


def _lines(table: Path, skipped: Counter[Skip]) -> Iterator[str]:
    """Yield a table's lines that are UTF-8 and not blank."""
    try:
        if table.stat().st_size > _LARGEST_TABLE:
            skipped[Skip.METADATA_TOO_LARGE] += 1
            return
        data = table.read_bytes()
    except OSError:
        skipped[Skip.UNREADABLE] += 1
        return
    for line in data.removeprefix(codecs.BOM_UTF8).splitlines():
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            skipped[Skip.METADATA_NOT_UTF8] += 1
        else:
            if text.strip():
                yield text


def _json_rows(lines: Iterator[str], skipped: Counter[Skip]) -> Iterator[Row]:
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            skipped[Skip.METADATA_LINE_UNREADABLE] += 1


def _csv_rows(lines: Iterator[str], skipped: Counter[Skip]) -> Iterator[Row]:
    reader = csv.DictReader(f"{line}\n" for line in lines)  # a quoted cell may go on over several lines
    while True:
        try:
            row = next(reader, None)
        except csv.Error:
            skipped[Skip.METADATA_LINE_UNREADABLE] += 1
            continue
        if row is None:
            return
        yield dict(row)


def _beside(file: Path, found: _Found, skipped: Counter[Skip]) -> str | None:
    note = found.others.get(_key(file.with_suffix(".txt")))
    if note is None:
        return None
    try:
        with note.open(encoding="utf-8-sig") as text:
            return _text(text.read(_LONGEST_NOTE))
    except UnicodeDecodeError:
        skipped[Skip.CAPTION_UNREADABLE] += 1
    except OSError:
        skipped[Skip.UNREADABLE] += 1
    return None
