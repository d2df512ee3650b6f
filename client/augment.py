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


def to_tensor(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return uint8 RGB pictures [h, w, 3] as one float32 tensor [n, 3, h, w] in [-1, 1]."""
    unit = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255.0
    return unit * 2.0 - 1.0


def augment(batch: Tensor, settings: AugmentSettings, chance: torch.Generator) -> Tensor:
    """Return a varied copy of float32 [n, 3, h, w] in [-1, 1]; the same generator state gives the same result."""
    n = len(batch)
    out = batch
    if settings.flip:
        mirrored = torch.rand(n, 1, 1, 1, generator=chance) < 0.5
        out = torch.where(mirrored, out.flip(3), out)
    if settings.rotation_degrees:
        angle = (torch.rand(n, generator=chance) * 2 - 1) * torch.pi / 180 * settings.rotation_degrees
        out = _turned(out, angle)
    if settings.contrast:
        factor = 1 + (torch.rand(n, 1, 1, 1, generator=chance) * 2 - 1) * settings.contrast
        paper = out.amax((2, 3), keepdim=True)  # contrast is taken against the paper, which keeps its colour
        out = (paper + (out - paper) * factor).clamp(-1, 1)
    return out


def _turned(batch: Tensor, angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    zero = torch.zeros_like(cos)
    turn = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(turn, list(batch.shape), align_corners=False)
    # The border is repeated outwards: new corners are the paper that is there.
    return F.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)
