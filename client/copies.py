"""Copies: whether a model draws again what it was trained on.

A picture counts as a copy when its nearest training drawing is much nearer than training drawings are to each other
(after Carlini et al., USENIX Security 2023, arXiv 2301.13188, who compare with distances to other training pictures).
Distances are Euclidean between pictures in grey at 32 x 32: a copy that went through an autoencoder stays close, and
two drawings of the same thing by different hands do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.errors import DrawingsError

Pictures: TypeAlias = NDArray[np.uint8]

WITHIN = 0.5
"""A copy lies within this share of the distance at which a training drawing typically has its nearest other one."""

FEWEST = 2
_SIDE = 32


@dataclass(frozen=True)
class Copies:
    """How many drawn pictures are copies.

    Attributes:
        share: Of the pictures, those that are copies.
        nearest: The least distance of a picture to a training drawing, in typical distances of training drawings to
            their nearest other one; 1 is as near as two of them are to each other.
    """

    share: float
    nearest: float


def find_copies(drawn: Pictures, training: Pictures) -> Copies:
    """Return how many pictures repeat a training drawing.

    Args:
        drawn: What the model drew, uint8 RGB ``[n, h, w, 3]``.
        training: What it was trained on, uint8 RGB ``[m, h, w, 3]``, no two alike.

    Raises:
        DrawingsError: There is no picture, or there are fewer than two drawings, so that nothing is typical.
    """
    if len(drawn) == 0 or len(training) < FEWEST:
        raise DrawingsError(
            "there is too little to look for copies in", got=f"{len(drawn)} pictures, {len(training)} drawings",
            expected=f"at least 1 picture and {FEWEST} drawings",
        )  # fmt: skip
    ours, known = _small(drawn), _small(training)
    others = _distances(known, known)
    others.fill_diagonal_(torch.inf)
    typical = others.min(1).values.median()
    near = _distances(ours, known).min(1).values / typical.clamp_min(torch.finfo(torch.float32).tiny)
    return Copies(float((near < WITHIN).float().mean()), float(near.min()))


def _distances(some: Tensor, others: Tensor) -> Tensor:
    # The fast way, by a matrix product, is wrong for what lies close together, and that is what is looked for.
    return torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist")


def _small(pictures: Pictures) -> Tensor:
    grey = torch.from_numpy(np.ascontiguousarray(pictures)).float().mean(3)[:, None] / 255
    return F.interpolate(grey, (_SIDE, _SIDE), mode="area").flatten(1)
