"""Drawing with the trained adapter: DDIM sampling (Song et al. 2021) with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray
from torch import Tensor

from common.models import Base

DEFAULT_STEPS = 50
DEFAULT_GUIDANCE = 7.5


def sample(
    base: Base,
    prompts: Sequence[str],
    *,
    seed: int,
    steps: int = DEFAULT_STEPS,
    guidance: float = DEFAULT_GUIDANCE,
    batch: int = 16,
) -> NDArray[np.uint8]:
    """Draw one picture for each prompt with the base as it stands (LoRA and all).

    The picture of a prompt depends on ``seed`` and the prompt's place alone, not on the batch it is drawn in.

    Args:
        base: The base; it is put into evaluation mode.
        prompts: What to draw.
        seed: First seed; picture ``i`` starts from the noise of ``seed + i``.
        steps: Denoising steps.
        guidance: Guidance scale (Ho and Salimans 2022); 1 switches it off.
        batch: Pictures drawn at once; changes memory and speed only.

    Returns:
        uint8 RGB pictures [n, h, w, 3].
    """
    base.unet.eval()
    pipeline = base.pipeline
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    # With a zero terminal signal guidance over-exposes; the rescale is the remedy of arXiv 2305.08891, section 3.4.
    rescale = 0.7 if pipeline.scheduler.config.get("rescale_betas_zero_snr") else 0.0
    pictures = []
    for at in range(0, len(prompts), batch):
        some = list(prompts[at : at + batch])
        noise = torch.cat([starting_noise(base, seed + at + i) for i in range(len(some))])
        out = pipeline(
            some,
            latents=noise,
            num_inference_steps=steps,
            guidance_scale=guidance,
            guidance_rescale=rescale,
            output_type="np",
        ).images
        pictures.append(np.rint(np.nan_to_num(out) * 255).astype(np.uint8))
    return np.concatenate(pictures) if pictures else np.zeros((0, base.pixels, base.pixels, 3), np.uint8)


def starting_noise(base: Base, seed: int) -> Tensor:
    """Return the noise that a picture starts from, float32 [1, c, h, w]; made on the CPU so that devices agree."""
    size = int(base.unet.config.sample_size)
    shape = (1, int(base.unet.config.in_channels), size, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(base.device)
