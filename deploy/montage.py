"""One picture of a demo: for each studio its own drawings, the base's attempts, and the adapter's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.report import SiteGallery

_GAP = 12
_EACH = 4


def write_montage(file: Path, galleries: Sequence[SiteGallery]) -> None:
    """Write the picture, one row a studio, three groups of four across."""
    rows = [_row(g) for g in galleries]
    line = np.full((_GAP // 2, rows[0].shape[1], 3), 255, np.uint8)
    picture = Image.fromarray(np.vstack([part for row in rows for part in (row, line)][:-1]))
    larger = picture.resize((picture.width * 3 // 2, picture.height * 3 // 2), Image.Resampling.LANCZOS)
    larger.save(file, optimize=True)


def _row(gallery: SiteGallery) -> NDArray[np.uint8]:
    groups = [np.hstack(list(g[:_EACH])) for g in (gallery.real, gallery.before, gallery.after)]
    gap = np.full((groups[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.hstack([groups[0], gap, groups[1], gap, groups[2]])
