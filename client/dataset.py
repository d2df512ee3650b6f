"""A site's drawings as the U-Net sees them: latents encoded once, captions encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.augment import AugmentSettings, augment, to_tensor
from client.drawings import Drawing
from common.models import Base


@dataclass(frozen=True)
class TrainingSet:
    """Latents and text states of one split, on the CPU.

    Attributes:
        views: float32 [n, v, c, h, w]: ``v`` encoded views of each drawing, the first one unaugmented.
        states: float32 [captions + 1, tokens, width]; the last one is the empty caption.
        caption: int64 [n]: which row of ``states`` belongs to each drawing.
    """

    views: Tensor
    states: Tensor
    caption: Tensor

    def __len__(self) -> int:
        """Return the number of drawings."""
        return len(self.views)

    def latents(self, index: Tensor, chance: torch.Generator) -> Tensor:
        """Return one view of each drawing in ``index``, chosen by ``chance``."""
        view = torch.randint(self.views.shape[1], (len(index),), generator=chance)
        return self.views[index, view]

    def first_view(self, index: Tensor) -> Tensor:
        """Return the unaugmented view of each drawing in ``index``."""
        return self.views[index, 0]

    def text(self, index: Tensor, dropped: Tensor) -> Tensor:
        """Return the text states of each drawing in ``index``, of the empty caption where ``dropped``."""
        row = self.caption[index].masked_fill(dropped, len(self.states) - 1)
        return self.states[row]


def encode(
    base: Base, drawings: Sequence[Drawing], settings: AugmentSettings | None = None, views: int = 1, seed: int = 0
) -> TrainingSet:
    """Encode drawings and captions, each on its own.

    In batches they would take two thirds to nine tenths of the time, but how a batch rounds depends on how many are in
    it: one drawing more or less would then change the others, and an adapter made for it could enlarge that at will.

    Args:
        base: The base whose autoencoder and text encoder are used.
        drawings: The split.
        settings: How the further views are augmented; none are made when left out.
        views: Views a drawing, the plain one counted in. More views cost memory, not training time.
        seed: Decides the augmentation, with each drawing's digest: the views of one do not depend on the others.
    """
    rounds = []
    for v in range(views if settings is not None else 1):
        parts = []
        for drawing in drawings:
            pixels = to_tensor(drawing.pixels)
            if v and settings is not None:
                pixels = augment(pixels, settings, _chance(seed, v, drawing))
            parts.append(base.encode_pictures(pixels).cpu())
        rounds.append(torch.cat(parts) if parts else torch.zeros(0, *_latent_shape(base)))
    captions = sorted({d.caption for d in drawings})
    row = {caption: i for i, caption in enumerate(captions)}
    texts = [*captions, ""]
    states = torch.cat([base.encode_text([text]).cpu() for text in texts])
    return TrainingSet(
        torch.stack(rounds, 1), states, torch.tensor([row[d.caption] for d in drawings], dtype=torch.int64)
    )


def _chance(seed: int, view: int, drawing: Drawing) -> torch.Generator:
    """Return a generator for one view of one drawing."""
    sha = hashlib.sha256(f"{seed}/{view}/{drawing.digest}".encode())
    return torch.Generator().manual_seed(int.from_bytes(sha.digest()[:8], "big"))


def _latent_shape(base: Base) -> tuple[int, int, int]:
    size = int(base.unet.config.sample_size)
    return int(base.unet.config.in_channels), size, size
