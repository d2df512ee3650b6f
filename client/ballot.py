"""A site's ballot: how far some adapters bring its held-out drawings (``server/cross_validation.py``).

Every drawing has the same say: the vector of what it gained by each adapter is taken at unit length, and the vectors
are added up. So one drawing changes the sum by at most 1, and Gaussian noise on it makes the ballot differentially
private. For that to hold, what one drawing says must not depend on which others there are: noise and timesteps at which
its loss is taken come from its own latent and from nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.dataset import TrainingSet
from client.training import example_losses
from client.units import Unit
from common.adapter_schema import Adapter
from common.models import Base, load_adapter
from common.tracing import phase
from security.accounting import Steps
from security.clipping import clip_and_sum, nothing
from security.noise import NoiseSource, add_noise

DRAWS = 2
"""Of noise and timestep for each drawing; the second timestep lies as far from the end as the first from the start."""

LEAST = 1e-4
"""Of a drawing's loss: the least gain that it has anything to say about. Rounding is a thousandth of that."""


@dataclass(frozen=True)
class Secrecy:
    """What protects the drawings in a ballot.

    Attributes:
        steps: One, with its noise; the rate is the chance of a drawing to be looked at.
        source: Where noise and coins come from.
    """

    steps: Steps
    source: NoiseSource


@phase("ballot")
def cast(
    base: Base, adapter: Adapter, candidates: Sequence[Adapter], held_out: TrainingSet, units: Sequence[Unit],
    secrecy: Secrecy | None = None,
) -> list[float]:  # fmt: skip
    """Return a ballot: numbers whose ratios count; none when there is nothing to say.

    Guarantees, when it is secret: it is a function of a Poisson sample of the units, to which each adds a vector of at
    most unit length, and of Gaussian noise of the multiplier. It has as many numbers without any unit as with many.

    Args:
        base: With LoRA attached that fits the adapters.
        adapter: The run's; the first number is about it.
        candidates: Where the round began, and then those that the other numbers are about.
        held_out: The drawings.
        units: Those that are looked at; rows of ``held_out``.
        secrecy: Without it, the drawings are not protected.
    """
    if not candidates:
        return []
    seen = _sampled(units, secrecy) if secrecy else list(units)
    gains = _gains(base, [candidates[0], adapter, *candidates[1:]], held_out, seen)
    lengths = torch.linalg.vector_norm(gains, dim=1, keepdim=True)
    said = clip_and_sum(torch.where(lengths > 0, gains / lengths, 0.0), 1.0) if len(gains) else nothing(
        len(candidates), 1.0
    )  # fmt: skip
    total = add_noise(said, secrecy.steps.multiplier, secrecy.source).total if secrecy else said.total
    length = float(torch.linalg.vector_norm(total))
    return (total / length).tolist() if length > 0 else []


def _sampled(units: Sequence[Unit], secrecy: Secrecy) -> list[Unit]:
    coins = secrecy.source.uniforms(len(units))
    return [unit for unit, coin in zip(units, coins, strict=True) if coin <= secrecy.steps.rate]


@torch.no_grad()
def _gains(base: Base, adapters: Sequence[Adapter], held_out: TrainingSet, units: Sequence[Unit]) -> Tensor:
    """Return how much less each adapter but the first errs than the first, by unit, float32 [units, adapters - 1].

    A unit for which that is less than :data:`LEAST` of its loss, by all adapters together, says nothing: what is left
    of so small a difference is rounding, and taken at unit length rounding would be as loud as any drawing.
    """
    rows = torch.tensor([row for unit in units for row in unit.rows], dtype=torch.int64)
    draws = _draws(base, held_out, rows)
    by_row = torch.stack([_losses(base, adapter, held_out, rows, draws) for adapter in adapters], 1)
    parts = by_row.split([len(unit.rows) for unit in units]) if units else ()
    losses = torch.stack([part.mean(0) for part in parts]) if parts else torch.zeros(0, len(adapters))
    gains = losses[:, :1] - losses[:, 1:]
    loud = torch.linalg.vector_norm(gains, dim=1, keepdim=True) > LEAST * losses[:, :1]
    return torch.where(loud, gains, 0.0)


Draws = tuple[Tensor, Tensor]
"""Noise and timesteps, float32 [n draws, c, h, w] and int64 [n draws]."""


def _draws(base: Base, held_out: TrainingSet, rows: Tensor) -> Draws:
    latents = held_out.first_view(rows)
    most = int(base.schedule.config.num_train_timesteps)
    noise, steps = [], []
    for latent in latents:
        chance = torch.Generator().manual_seed(zlib.crc32(latent.numpy().tobytes()))
        noise.append(torch.randn((DRAWS, *latent.shape), generator=chance))
        first = int(torch.randint(most, (1,), generator=chance))
        steps += [first, most - 1 - first]
    return torch.cat(noise) if noise else latents.new_zeros(0, *latents.shape[1:]), torch.tensor(steps)


def _losses(base: Base, adapter: Adapter, held_out: TrainingSet, rows: Tensor, draws: Draws) -> Tensor:
    """Return the mean loss of each row over its draws, float32 [n]."""
    if not len(rows):
        return torch.zeros(0)
    load_adapter(base.unet, adapter)
    base.unet.eval()
    index = rows.repeat_interleave(DRAWS)
    text = held_out.text(index, torch.zeros(len(index), dtype=torch.bool))
    # Each drawing in a batch of its own: in one with others, its last bits would hang on which others there are.
    parts = zip(*(x.split(DRAWS) for x in (held_out.first_view(index), text, *draws)), strict=True)
    losses = torch.cat([example_losses(base, *part) for part in parts])
    return losses.double().cpu().view(-1, DRAWS).mean(1).float()
