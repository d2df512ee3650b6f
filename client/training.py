"""Local training of an adapter on latents, without any knowledge of Flower, envelopes or the server.

The loss is that of latent diffusion (Rombach et al. 2022): ``L = E ||target - model(x_t, t, caption)||^2`` over
the schedule's timesteps, where the target is the noise or the velocity as the base's own configuration says.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from client.coordinates import Coordinates, coordinates_of
from client.dataset import TrainingSet
from common.adapter_schema import Adapter
from common.errors import TrainingError
from common.models import Base, LoraFactors, load_adapter
from common.settings import LoraSettings, TrainingSettings

HELD_OUT_SEED = 20_260_101
"""Fixed for ever: held-out losses of different rounds, runs and sites are taken on the same noise."""


@dataclass(frozen=True)
class TrainingResult:
    """What one round of local training yields.

    Attributes:
        delta: Change of what was trained, flat float32 in schema order (``LoraSettings.trained``).
        loss: Mean training loss over the steps.
        examples: Drawings in the training split.
        seconds: Wall-clock time.
    """

    delta: NDArray[np.float32]
    loss: float
    examples: int
    seconds: float


def train(
    base: Base,
    adapter: Adapter,
    data: TrainingSet,
    lora: LoraSettings,
    settings: TrainingSettings,
    seed: int,
    after_step: Callable[[], None] = lambda: None,
) -> TrainingResult:
    """Train the adapter for ``settings.steps`` steps and return how it changed.

    The U-Net must already carry LoRA layers that fit ``adapter``. The same inputs and seed give the same result on
    the same machine with the same number of threads.

    Args:
        base: The frozen base with LoRA attached to its U-Net.
        adapter: The factors to start from.
        data: The site's latents and captions.
        lora: Which factors are trained.
        settings: Steps, batch, learning rate.
        seed: Decides batches, noise, timesteps and dropped captions.
        after_step: Called after each step; what it raises ends the training.

    Raises:
        TrainingError: There is nothing to train on, or the loss is not finite.
    """
    if len(data) == 0:
        raise TrainingError("there is no drawing to train on", got="0 drawings", expected="at least 1")
    began = time.monotonic()
    factors = LoraFactors(base.unet)
    factors.load(adapter)
    coordinates = coordinates_of(factors, lora, adapter.schema)
    losses = []
    for loss in _steps(base, coordinates, data, settings, seed):
        losses.append(loss)
        after_step()
    delta = coordinates.change()
    if not np.isfinite(delta).all() or not all(map(math.isfinite, losses)):
        raise TrainingError("training diverged", got="a loss that is not finite", expected="a smaller learning rate")
    return TrainingResult(delta, float(np.mean(losses)), len(data), time.monotonic() - began)


def _steps(
    base: Base, coordinates: Coordinates, data: TrainingSet, settings: TrainingSettings, seed: int
) -> Iterator[float]:
    torch.manual_seed(seed)  # LoRA dropout draws from the global generator
    chance = torch.Generator().manual_seed(seed)
    accelerator = Accelerator(
        mixed_precision="bf16" if settings.precision == "bf16" and base.device.type == "cuda" else "no",
        gradient_accumulation_steps=settings.accumulate,
        cpu=base.device.type == "cpu",
    )
    optimiser = torch.optim.AdamW(
        coordinates.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    base.unet.train()
    for _ in range(settings.steps):
        total = 0.0
        for _ in range(settings.accumulate):
            with accelerator.autocast():
                loss = _batch_loss(base, data, settings, chance)
            accelerator.backward(loss / settings.accumulate)
            total += float(loss.detach()) / settings.accumulate
        coordinates.pull()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        coordinates.push()
        yield total
    base.unet.eval()


def _batch_loss(base: Base, data: TrainingSet, settings: TrainingSettings, chance: torch.Generator) -> Tensor:
    index = torch.randint(len(data), (settings.batch,), generator=chance)
    latents = data.latents(index, chance)
    words = data.text(index, torch.rand(len(index), generator=chance) < settings.caption_dropout)
    noise = torch.randn(latents.shape, generator=chance)
    t = _stratified_timesteps(len(index), int(base.schedule.config.num_train_timesteps), chance)
    return example_losses(base, latents, words, noise, t).mean()


def _stratified_timesteps(count: int, most: int, chance: torch.Generator) -> Tensor:
    """Return ``count`` timesteps, each uniform on its own, together spread evenly.

    One draw from each of ``count`` equal strata, in random order (Kingma et al. 2021, "Variational Diffusion
    Models", appendix I.1): the same expectation, less variance than independent draws.
    """
    strata = torch.randperm(count, generator=chance)
    return ((strata + torch.rand(count, generator=chance)) / count * most).long().clamp_(max=most - 1)


def example_losses(base: Base, latents: Tensor, words: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the loss of each example, float32 [n]."""
    latents, words, noise, t = (x.to(base.device) for x in (latents, words, noise, t))
    noisy = base.schedule.add_noise(latents, noise, t)
    guess = base.unet(noisy, t, words).sample
    kind = base.schedule.config.prediction_type
    if kind == "epsilon":
        target = noise
    elif kind == "v_prediction":
        target = base.schedule.get_velocity(latents, noise, t)
    else:
        raise TrainingError(
            "the base predicts something that cannot be trained", got=kind, expected="epsilon or v_prediction"
        )
    return F.mse_loss(guess.float(), target.float(), reduction="none").mean((1, 2, 3))


def held_out_loss(base: Base, adapter: Adapter | None, data: TrainingSet, settings: TrainingSettings) -> float:
    """Return the mean loss on the held-out drawings; see :func:`held_out_losses`."""
    return float(held_out_losses(base, adapter, data, settings).mean())


@torch.no_grad()
def held_out_losses(base: Base, adapter: Adapter | None, data: TrainingSet, settings: TrainingSettings) -> Tensor:
    """Return the loss on each held-out drawing, on noise and timesteps that never change.

    Args:
        base: The base; LoRA attached when ``adapter`` is given.
        adapter: The factors to measure; the U-Net is taken as it is when left out.
        data: The held-out latents and captions.
        settings: How many drawings and draws.

    Returns:
        float32 ``[draws, drawings]``.

    Raises:
        TrainingError: There is no held-out drawing.
    """
    if len(data) == 0:
        raise TrainingError("there is no held-out drawing to measure on", got="0 drawings", expected="at least 1")
    if adapter is not None:
        load_adapter(base.unet, adapter)
    base.unet.eval()
    chance = torch.Generator().manual_seed(HELD_OUT_SEED)
    few = torch.arange(min(len(data), settings.held_out_most))
    index = few.repeat(settings.held_out_draws)
    most = int(base.schedule.config.num_train_timesteps)
    t = _stratified_timesteps(len(index), most, chance)
    latents, words = data.first_view(index), data.text(index, torch.zeros(len(index), dtype=torch.bool))
    noise = torch.randn(latents.shape, generator=chance)
    parts = zip(*(x.split(32) for x in (latents, words, noise, t)), strict=True)
    return torch.cat([example_losses(base, *part) for part in parts]).reshape(settings.held_out_draws, len(few))
