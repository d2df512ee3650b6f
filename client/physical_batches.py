"""How many units' gradients are computed together, so that a step keeps to the memory that a studio gives it.

The logical batch, the whole Poisson sample, is the same whatever this says (:mod:`client.private_training`). It follows
from the base and the shape of the adapter, not from drawings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from client.training import example_losses
from common.models import Base

_MIB = 2**20
_SLACK = 2.0
"""Times what is counted: backward passes hold more for moments, and allocators keep what was freed (measured: 1.6)."""

_GRADIENTS = 3 * 4
"""Bytes that a trained number takes a row: its gradient in float32, a copy on the CPU, a clipped one."""


def fitting(base: Base, parameters: list[nn.Parameter], draws: int, most_mib: int, at_once: int) -> int:
    """Return how many units to compute together: at most ``at_once``, and at least one.

    Args:
        base: With LoRA attached.
        parameters: What is trained.
        draws: Rows a unit.
        most_mib: Memory of a step beside the base and the drawings, MiB.
        at_once: What would be computed together with memory enough.
    """
    a_row = _SLACK * (_kept_a_row(base) + _GRADIENTS * sum(parameter.numel() for parameter in parameters))
    return max(1, min(at_once, int(most_mib * _MIB / (a_row * draws))))


def _kept_a_row(base: Base) -> int:
    """Return the bytes that a forward pass of one row keeps for the backward pass, parameters not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*base.unet.parameters(), *base.unet.buffers())}
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no storage is freed and its place taken by another

    def keep(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    config = base.unet.config
    latents = torch.zeros(1, int(config.in_channels), int(config.sample_size), int(config.sample_size))
    words = base.encode_text([""]).cpu()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        example_losses(base, latents, words, torch.zeros_like(latents), torch.zeros(1, dtype=torch.long))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
