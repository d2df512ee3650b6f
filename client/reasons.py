"""Why a drawing is left out, and what is done to one that is kept: the words that counts are kept under.

These slugs are all that is ever said of a drawing in a log, an error or a report. They name no file and no caption.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Skip(StrEnum):
    """Why a picture, or a line that describes one, is left out."""

    ANIMATED = "animated"
    CAPTION_UNREADABLE = "caption-unreadable"
    DUPLICATE = "duplicate"
    FILE_TOO_LARGE = "file-too-large"
    FORMAT_NOT_READ = "format-not-read"
    METADATA_LINE_UNREADABLE = "metadata-line-unreadable"
    METADATA_NOT_READ = "metadata-not-read"
    METADATA_NOT_UTF8 = "metadata-not-utf8"
    METADATA_REPEATED = "metadata-repeated"
    METADATA_TOO_LARGE = "metadata-too-large"
    NAMED_BUT_MISSING = "named-but-missing"
    NO_CAPTION = "no-caption"
    NOT_A_PICTURE = "not-a-picture"
    OUTSIDE_THE_FOLDER = "outside-the-folder"
    TOO_MANY_PIXELS = "too-many-pixels"
    TOO_SMALL = "too-small"
    TOO_THIN = "too-thin"
    TRUNCATED = "truncated"
    UNREADABLE = "unreadable"


class Handling(StrEnum):
    """What a picture or caption was, and was converted from."""

    ALPHA = "alpha"
    CAPTION_CUT = "caption-cut"
    CAPTION_MENDED = "caption-mended"
    CMYK = "cmyk"
    DEFAULT_CAPTION = "default-caption"
    GREY = "grey"
    ONE_BIT = "one-bit"
    OTHER_COLOURS = "other-colours"
    PALETTE = "palette"
    SEVERAL_DRAWERS = "several-drawers"
    SIXTEEN_BIT = "sixteen-bit"
    TURNED = "turned"


MEANINGS: Mapping[Skip | Handling, str] = {
    Skip.ANIMATED: "more than one frame or page; save the one you mean as a picture of its own",
    Skip.CAPTION_UNREADABLE: "the .txt beside it is not UTF-8 text",
    Skip.DUPLICATE: "the same drawing of the same drawer again",
    Skip.FILE_TOO_LARGE: "the file is larger than 512 MiB",
    Skip.FORMAT_NOT_READ: "save it as PNG, JPEG, WebP, TIFF, BMP, GIF or PPM",
    Skip.METADATA_LINE_UNREADABLE: "a line of metadata that is no row with a `file_name`",
    Skip.METADATA_NOT_READ: "a metadata.parquet; write it as metadata.jsonl",
    Skip.METADATA_NOT_UTF8: "a line of metadata that is not UTF-8; save the file as UTF-8",
    Skip.METADATA_REPEATED: "a row for a picture that has one already; the last row counts",
    Skip.METADATA_TOO_LARGE: "a metadata file larger than 256 MiB",
    Skip.NAMED_BUT_MISSING: "a row of metadata whose picture is not there",
    Skip.NO_CAPTION: "no `text` in the metadata, no .txt beside it and no default caption",
    Skip.NOT_A_PICTURE: "the content is no picture, whatever its name says",
    Skip.OUTSIDE_THE_FOLDER: "a link or a row of metadata that leads out of the folder",
    Skip.TOO_MANY_PIXELS: "over the limit on pixels; never decoded",
    Skip.TOO_SMALL: "a side shorter than 8 pixels",
    Skip.TOO_THIN: "more than 20 times as long as wide; the middle would show too little of it",
    Skip.TRUNCATED: "the file is cut short or damaged",
    Skip.UNREADABLE: "the system did not let it be read",
    Handling.ALPHA: "transparency laid on white paper",
    Handling.CAPTION_CUT: "a long caption cut at a word",
    Handling.CAPTION_MENDED: "control characters taken out of a caption",
    Handling.CMYK: "printing inks brought to RGB",
    Handling.DEFAULT_CAPTION: "given the default caption",
    Handling.GREY: "grey brought to RGB",
    Handling.ONE_BIT: "black and white brought to RGB, then scaled with greys",
    Handling.OTHER_COLOURS: "another colour space brought to RGB",
    Handling.PALETTE: "palette colours brought to RGB",
    Handling.SEVERAL_DRAWERS: "the same drawing under another drawer's name; it counts for each of them",
    Handling.SIXTEEN_BIT: "more than 8 bits a grey, scaled to 8",
    Handling.TURNED: "turned upright as its camera noted (EXIF)",
}
"""One sentence for each slug, for `bottega data check`."""


class SkippedError(Exception):
    """A picture is left out. Never reaches a person: it is counted by ``reason``."""

    def __init__(self, reason: Skip) -> None:
        super().__init__(reason)
        self.reason = reason
