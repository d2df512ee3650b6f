"""The embedded base: a small Stable Diffusion pipeline that ships with bottega, and how it was made.

``model/`` is a diffusers folder; ``classifier/`` the drawing classifier whose features judge drawings.
``python -m common.base.train`` makes both again from nothing but a seed.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def base_folder() -> Path:
    """Return the folder of the embedded base, in diffusers' layout."""
    return Path(str(files(__name__) / "model"))


def classifier_folder() -> Path:
    """Return the folder of the drawing classifier."""
    return Path(str(files(__name__) / "classifier"))
