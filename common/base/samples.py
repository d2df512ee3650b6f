"""The sample grid of the model card: ``python -m common.base.samples [FILE]``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from common.models import load_base
from common.procedural import caption_of, styles, subjects
from common.sampling import sample


def main() -> None:
    """Draw every subject in every style and write the grid."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("samples.png")
    prompts = [caption_of(subject, style) for subject in subjects.PUBLIC for style in styles.PUBLIC]
    pictures = sample(load_base(), prompts, seed=1, steps=50, guidance=4.0, batch=25)
    across = len(styles.PUBLIC)
    rows = [np.hstack(list(pictures[i : i + across])) for i in range(0, len(pictures), across)]
    half = len(rows) // 2 + len(rows) % 2
    left, right = (
        np.vstack(rows[:half]),
        np.vstack([*rows[half:], *[np.full_like(rows[0], 255)] * (2 * half - len(rows))]),
    )
    Image.fromarray(np.hstack([left, right])).save(target, optimize=True)


if __name__ == "__main__":
    main()
