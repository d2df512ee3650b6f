"""Pixels to tensors, and what is varied in them: small turns, contrast, mirroring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from common.settings import Settings


class AugmentSettings(Settings):
    """What may be varied; each can be switched off. They act on views beyond the first (`views` in site.toml)."""

    flip: bool = False
    """Mirror half of the views. Off: writing, and the hand of a right-handed artist, must not be mirrored."""
    rotation_degrees: Annotated[float, Field(ge=0.0, le=45.0)] = 4.0
    """Largest turn to either side; 0 for none."""
    contrast: Annotated[float, Field(ge=0.0, le=0.9)] = 0.1
    """Contrast is multiplied by 1 plus or minus at most this; 0 for none."""


def to_tensor(pictures: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return pixels as a model takes them.

    Args:
        pictures: uint8 RGB: one picture [h, w, 3], a batch [n, h, w, 3], or a sequence of pictures of equal size.

    Returns:
        float32 [n, 3, h, w] in [-1, 1]: 0 becomes -1, 255 becomes 1.
    """
    stacked = np.stack(pictures) if isinstance(pictures, Sequence) else np.array(pictures)
    batch = torch.from_numpy(stacked[None] if stacked.ndim == 3 else stacked)
    return batch.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def augment(batch: Tensor, settings: AugmentSettings, chance: torch.Generator) -> Tensor:
    """Return a varied copy; the same generator state gives the same result.

    Args:
        batch: float32 [n, 3, h, w] in [-1, 1]; left as it is.
        settings: What is varied, and how far. With all switched off, an equal copy is returned.
        chance: Decides. It may live on another device than ``batch``.

    Returns:
        float32 [n, 3, h, w] in [-1, 1].
    """
    out = batch.clone()
    if settings.flip:
        out = torch.where(_uniform(batch, chance) < 0.5, out.flip(3), out)
    if settings.rotation_degrees:
        signed = 2 * _uniform(batch, chance).flatten() - 1
        out = _turned(out, torch.deg2rad(signed * settings.rotation_degrees))
    if settings.contrast:
        factor = 1 + (2 * _uniform(batch, chance) - 1) * settings.contrast
        paper = out.amax((2, 3), keepdim=True)  # contrast is taken against the paper, which keeps its colour
        out = paper + (out - paper) * factor
    return out.clamp_(-1, 1)


def _uniform(batch: Tensor, chance: torch.Generator) -> Tensor:
    """Return one number in [0, 1) for each picture, [n, 1, 1, 1]."""
    return torch.rand(len(batch), 1, 1, 1, generator=chance, device=chance.device).to(batch.device)


def _turned(batch: Tensor, angle: Tensor) -> Tensor:
    """Turn each picture about its middle by its angle, radians."""
    height, width = batch.shape[2:]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # The grid's units are half a width and half a height, so the sines carry the ratio of the two.
    rows = [torch.stack([cos, -sin * height / width, zero], 1), torch.stack([sin * width / height, cos, zero], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(batch.shape), align_corners=False)
    # Bicubic: a turn by 4 degrees leaves thin pen lines visibly darker than bilinear does. The border is repeated
    # outwards: new corners are the paper that is there.
    return F.grid_sample(batch, grid, mode="bicubic", padding_mode="border", align_corners=False)
