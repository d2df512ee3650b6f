"""Training with differential privacy: DP-SGD on LoRA (arXiv 1607.00133), one gradient a unit.

A unit is a drawing, or all drawings of one artist (:mod:`client.units`). A step draws a Poisson sample of the units:
each is in it with the same chance, on its own, and an empty sample is a step like any other. Each unit's gradient is
the mean over several draws of noise and timestep (noise multiplicity, DPDM, arXiv 2210.09929), which costs no privacy;
then it is clipped, and noise is added once to the sum. However many units fit into memory at a time, the sum is that of
the whole sample.

**Every batch has one shape.** Which kernel computes a row, and so how it rounds, can depend on how many rows there are.
With an honest adapter that moves a gradient by some 4e-7 of the clip; with one whose numbers were made for it, by up to
1.9 clips, for one drawing more (measured, 32-bit floats). So a batch that is not full is filled up with rows that count
for nothing: then the others change no bit of a gradient, whatever they are.

**What one unit can change** is its own clipped gradient and nothing else: timesteps are spread evenly over the draws
of one unit, never over the batch, and no layer of the U-Net looks across drawings. The coins of sampling are as
secret as the noise, since amplification by sampling holds only against who does not know them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from client.coordinates import Coordinates, coordinates_of
from client.dataset import TrainingSet
from client.per_drawing import forget, per_drawing_gradients, rows_of
from client.training import TrainingResult, example_losses
from client.units import Unit
from common.adapter_schema import Adapter
from common.errors import PrivacyError, TrainingError
from common.models import Base, LoraFactors
from common.settings import LoraSettings, TrainingSettings
from security.clipping import Clipped, clip_and_sum, nothing
from security.noise import NoiseSource, add_noise

_PLANTED_AT_ONCE = 64


@dataclass(frozen=True)
class Mechanism:
    """How the steps of one round are made private.

    Args:
        multiplier: Noise multiplier sigma.
        clip: Largest L2 norm of one drawing's gradient.
        rate: The chance of a drawing to be in a step's sample, in (0, 1].
        multiplicity: Draws of noise and timestep a drawing, averaged before the clip.
        at_once: Units whose gradients are computed together; of no effect on the result but its rounding. Never fewer
            are: so a large number costs time where samples are small.

    Raises:
        PrivacyError: A number is out of its range.
    """

    multiplier: float
    clip: float
    rate: float = 1.0
    multiplicity: int = 4
    at_once: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise PrivacyError("a sampling rate lies in (0, 1]", got=self.rate)
        if self.multiplicity < 1 or self.at_once < 1:
            raise PrivacyError("a drawing is drawn at least once", got=min(self.multiplicity, self.at_once))


def train_privately(
    base: Base,
    adapter: Adapter,
    data: TrainingSet,
    lora: LoraSettings,
    settings: TrainingSettings,
    mechanism: Mechanism,
    source: NoiseSource,
    after_step: Callable[[int], None] = lambda _: None,
    planted: Tensor | None = None,
    units: Sequence[Unit] | None = None,
    expected: float | None = None,
) -> TrainingResult:
    """Train the adapter for ``settings.steps`` private steps and return how it changed.

    Args:
        base: The frozen base with LoRA attached to its U-Net.
        adapter: The factors to start from.
        data: The site's latents and captions.
        lora: Which factors are trained.
        settings: Steps and learning rate; ``batch`` and ``accumulate`` are of no effect.
        mechanism: Noise, clip and sampling.
        source: Where noise and the coins of sampling come from.
        after_step: Called after each step with how many are done; what it raises ends the training. At that time the
            ``grad`` of what is trained holds what the step released: the noised mean, in clips.
        planted: Gradients of drawings that do not exist, float32 ``[m, d]`` in schema order: they are sampled, clipped
            and noised like those of drawings (:mod:`client.privacy_audit`). No divisor counts them.
        units: What is sampled and clipped as one; each row of the data on its own when left out.
        expected: How many units a step is said to sample, what the sum is divided by. A number that may be known;
            when left out, the rate times the number of units, which then is.

    Returns:
        The change. Its ``loss`` is NaN: a loss over drawings would tell of them.

    Raises:
        TrainingError: There is nothing to train on, or the change is not finite.
        PrivacyError: The mechanism is out of range.
    """
    if len(data) == 0:
        raise TrainingError("there is no drawing to train on", got="0 drawings", expected="at least 1")
    began = time.monotonic()
    factors = LoraFactors(base.unet)
    factors.load(adapter)
    coordinates = coordinates_of(factors, lora, adapter.schema)
    optimiser = torch.optim.AdamW(
        coordinates.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    rows = [(row,) for row in range(len(data))] if units is None else [unit.rows for unit in units]
    divisor = (mechanism.rate * len(rows) if expected is None else expected) * mechanism.clip
    with per_drawing_gradients(base.unet):
        for step in range(settings.steps):
            clipped = _clipped(base, coordinates, data, rows, settings, mechanism, source, planted)
            noised = add_noise(clipped, mechanism.multiplier, source)
            _set_gradients(coordinates.trained, noised.total / divisor)
            optimiser.step()
            coordinates.push()
            after_step(step + 1)
    delta = coordinates.change()
    if not np.isfinite(delta).all():
        raise TrainingError("training diverged", got="a change that is not finite", expected="a smaller learning rate")
    return TrainingResult(delta, math.nan, len(rows), time.monotonic() - began)


def poisson_sample(count: int, rate: float, source: NoiseSource) -> Tensor:
    """Return the drawings of one step: each of ``count`` with chance ``rate``, on its own; int64, possibly empty."""
    return torch.from_numpy(np.flatnonzero(source.uniforms(count) <= rate))


def _clipped(
    base: Base,
    coordinates: Coordinates,
    data: TrainingSet,
    rows: Sequence[tuple[int, ...]],
    settings: TrainingSettings,
    mechanism: Mechanism,
    source: NoiseSource,
    planted: Tensor | None = None,
) -> Clipped:
    units = len(rows)
    everything = units + (0 if planted is None else len(planted))
    sample = poisson_sample(everything, mechanism.rate, source)
    total = nothing(coordinates.size, mechanism.clip)
    own = [rows[unit] for unit in sample[sample < units].tolist()]
    seeds = [int(seed * 2**53) for seed in source.uniforms(len(own))]
    for at in range(0, len(own), mechanism.at_once):
        few = slice(at, at + mechanism.at_once)
        gradients = _gradients(base, coordinates.factors, data, own[few], seeds[few], settings, mechanism)
        total = total + clip_and_sum(coordinates.of(gradients), mechanism.clip)
    if planted is not None:
        for strange in (sample[sample >= units] - units).split(_PLANTED_AT_ONCE):
            total = total + clip_and_sum(planted[strange], mechanism.clip)
    return total


def _gradients(
    base: Base,
    parameters: list[nn.Parameter],
    data: TrainingSet,
    few: Sequence[tuple[int, ...]],
    seeds: Sequence[int],
    settings: TrainingSettings,
    mechanism: Mechanism,
) -> Tensor:
    """Return the gradient of each unit, the mean over its draws: float32 ``[len(few), d]``, on the CPU.

    There are at most ``at_once`` units. The chance of each comes from its own seed: so it is the same in any batch.
    """
    draws, wanted, missing = mechanism.multiplicity, len(few), mechanism.at_once - len(few)
    each = [_drawn(base, data, rows, seed, settings, draws) for rows, seed in zip(few, seeds, strict=True)]
    latents, words, noise, t = (torch.cat(parts) for parts in zip(*each, *[each[0]] * missing, strict=True))
    forget(parameters)
    example_losses(base, latents, words, noise, t).sum().backward()
    own = slice(wanted * draws)
    rows = torch.cat([rows_of(p)[own].reshape(wanted * draws, -1).float().cpu() for p in parameters], dim=1)
    forget(parameters)
    return rows if draws == 1 else rows.reshape(wanted, draws, -1).mean(1)


def _drawn(
    base: Base, data: TrainingSet, rows: tuple[int, ...], seed: int, settings: TrainingSettings, draws: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return latents, text states, noise and timesteps of each draw of a unit, ``[draws, ...]``.

    Each draw is of one of the unit's rows, whichever chance says: so a unit of many drawings takes no longer.
    """
    chance = torch.Generator().manual_seed(seed)
    index = torch.tensor(rows)[torch.randint(len(rows), (draws,), generator=chance)]
    latents = data.latents(index, chance)
    words = data.text(index, torch.rand(draws, generator=chance) < settings.caption_dropout)
    noise = torch.randn(latents.shape, generator=chance)
    most = int(base.schedule.config.num_train_timesteps)
    spread = (torch.arange(draws) + torch.rand(draws, generator=chance)) / draws
    return latents, words, noise, (spread * most).long().clamp_(max=most - 1)


def _set_gradients(parameters: list[nn.Parameter], flat: Tensor) -> None:
    at = 0
    for parameter in parameters:
        piece = flat[at : at + parameter.numel()]
        parameter.grad = piece.reshape(parameter.shape).to(parameter.device, parameter.dtype)
        at += parameter.numel()
