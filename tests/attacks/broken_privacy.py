"""The real private training as the audit's subject, and six ways to break it that have been made elsewhere.

Each way swaps one function of :mod:`client.private_training` for one that is wrong. All else stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

import client.private_training as real
from client.dataset import TrainingSet
from client.privacy_audit import Subject
from common.models import Base, attach_lora
from common.settings import LoraSettings, RunSettings, TrainingSettings
from security.accounting import multiplier_for
from security.clipping import Clipped
from security.noise import Noised, NoiseSource, add_noise
from server.start import fresh_state

DELTA = 1e-5

set_gradients = real._set_gradients


def subject_of(base: Base, lora: LoraSettings, steps: int, rate: float, claimed: float) -> Subject:
    """Return private training of one random drawing with the noise that ``claimed`` needs at :data:`DELTA`."""
    adapter = fresh_state(attach_lora(base.unet, lora), RunSettings(lora=lora)).adapter
    latents = torch.randn(1, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    data = TrainingSet(latents, base.encode_text(["an ink drawing of a boat", ""]), torch.zeros(1, dtype=torch.long))
    multiplier = multiplier_for(claimed, DELTA, rate, steps)
    mechanism = real.Mechanism(multiplier, clip=1e-3, rate=rate, multiplicity=1, at_once=1)
    return Subject(base, adapter, data, lora, TrainingSettings(steps=steps), mechanism)


@contextmanager
def swapped(**functions: Callable[..., object]) -> Iterator[None]:
    """Have private training call these instead of its own of the same names."""
    before = {name: getattr(real, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(real, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(real, name, function)


@contextmanager
def no_noise(steps: int) -> Iterator[None]:
    """The noise is forgotten."""

    def add(clipped: Clipped, multiplier: float, source: NoiseSource) -> Noised:
        return Noised(clipped.total, 0.0)

    with swapped(add_noise=add):
        yield


@contextmanager
def noise_too_small(steps: int) -> Iterator[None]:
    """The noise of the whole run is shared out over its steps once too often."""

    def add(clipped: Clipped, multiplier: float, source: NoiseSource) -> Noised:
        return add_noise(clipped, multiplier / math.sqrt(steps), source)

    with swapped(add_noise=add):
        yield


@contextmanager
def clipped_after_averaging(steps: int) -> Iterator[None]:
    """The mean gradient is clipped, not each drawing's, as ``clip_grad_norm_`` would."""

    def clip(units: Tensor, bound: float) -> Clipped:
        mean = units.mean(0)
        return Clipped(len(units) * mean * (bound / mean.norm()).clamp_max(1.0), bound)

    with swapped(clip_and_sum=clip):
        yield


@contextmanager
def shuffled(steps: int) -> Iterator[None]:
    """Drawings are dealt out in batches of one size, pass by pass, as a ``DataLoader`` does."""
    chance, left = np.random.default_rng(7), np.empty(0, np.int64)

    def sample(count: int, rate: float, source: NoiseSource) -> Tensor:
        nonlocal left
        if not len(left):
            left = chance.permutation(count)
        size = math.ceil(count * rate)
        batch, left = np.sort(left[:size]), left[size:]
        return torch.from_numpy(batch)

    with swapped(poisson_sample=sample):
        yield


@contextmanager
def stale_norms(steps: int) -> Iterator[None]:
    """Rows are clipped by the norms of the rows before them, as Opacus' ghost norms of 4-D inputs are."""
    stale = torch.empty(0)

    def clip(units: Tensor, bound: float) -> Clipped:
        nonlocal stale
        norms = units.norm(dim=1)
        used, stale = torch.cat([stale, norms[len(stale) :]])[: len(units)], norms
        return Clipped((bound / used.clamp_min(1e-30)).clamp_max(1.0) @ units, bound)

    with swapped(clip_and_sum=clip):
        yield


@contextmanager
def refreshed_from_raw_data(steps: int) -> Iterator[None]:
    """A becomes an orthonormal basis of what the drawings asked for, before the noise; B is trained as it should be."""
    raw = torch.empty(0)

    def add(clipped: Clipped, multiplier: float, source: NoiseSource) -> Noised:
        nonlocal raw
        raw = clipped.total
        return add_noise(clipped, multiplier, source)

    @torch.no_grad()
    def put(parameters: list[nn.Parameter], flat: Tensor) -> None:
        set_gradients(parameters, flat)
        at = 0
        for parameter in parameters:
            wanted = raw[at : at + parameter.numel()].reshape(parameter.shape)
            at += parameter.numel()
            if parameter.shape[0] < parameter.shape[1]:  # A is wide
                u, _, v = torch.linalg.svd(wanted, full_matrices=False)
                parameter.copy_(-u @ v)  # down the gradient

    with swapped(add_noise=add, _set_gradients=put):
        yield


BUGS = {
    "no noise": no_noise,
    "noise too small by sqrt(steps)": noise_too_small,
    "clipped after averaging": clipped_after_averaging,
    "shuffled, not Poisson": shuffled,
    "stale norm": stale_norms,
    "A refreshed from raw data": refreshed_from_raw_data,
}
"""Each takes the number of steps, and is in force inside its ``with``."""
