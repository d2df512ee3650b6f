"""Gaussian noise, calibrated from what was clipped, out of a generator that nobody can guess.

**Where the bits come from.** :class:`SecureNoise` stretches 48 bytes of the system's randomness with AES-256 in counter
mode, so who sees all noise but one number learns nothing of that one. PyTorch's and NumPy's generators are not made for
this: from 2,500 bytes of a Mersenne Twister's output all the rest follows.

**How they become normal.** Floating-point numbers are a grid, and which points of it a sampler can reach depends on
what the noise is added to: by this alone a naive sampler gives the noiseless value away (Mironov, CCS 2012). Each
number here is therefore the sum of four independent normals over two (Holohan and Braghin, arXiv 2107.10138), which is
normal, and whose reachable points can no longer be told apart in practice. It costs four draws for one.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from common.errors import PrivacyError
from security.clipping import Clipped, check_bound

_DRAWS = 4
_BLOCK = 2**13
"""Numbers made at a time: what they take stays in the processor's cache, which is a third of the time."""


class NoiseSource(Protocol):
    """Something that draws standard normals."""

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return ``count`` independent draws of N(0, 1), shape ``(count,)``."""

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return ``count`` independent draws, uniform on (0, 1], shape ``(count,)``."""


class SecureNoise:
    """Standard normals that nobody can predict. Not for several threads at once."""

    def __init__(self) -> None:
        self._stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return ``count`` independent draws of N(0, 1), shape ``(count,)``."""
        made = [self._block(min(_BLOCK, count - at)) for at in range(0, count, _BLOCK)]
        return np.concatenate(made) if made else np.empty(0)

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return ``count`` independent draws, uniform on (0, 1], shape ``(count,)``."""
        # 53 bits each; zero is left out, so its logarithm is never taken.
        bits = np.frombuffer(self._stream.update(bytes(8 * count)), np.uint64) >> np.uint64(11)
        drawn: NDArray[np.float64] = (bits.astype(np.float64) + 1.0) * 2.0**-53
        return drawn

    def _block(self, count: int) -> NDArray[np.float64]:
        # Box and Muller (1958): each pair of uniforms gives a pair of normals. PyTorch's cosine is six times as fast as
        # NumPy's.
        pairs = _DRAWS // 2 * count
        first, second = self.uniforms(2 * pairs).reshape(2, pairs)
        radius, angle = np.sqrt(-2.0 * np.log(first)), torch.from_numpy(2.0 * math.pi * second)
        both = radius * angle.cos().numpy() + radius * angle.sin().numpy()
        summed: NDArray[np.float64] = both.reshape(_DRAWS // 2, count).sum(axis=0) / math.sqrt(_DRAWS)
        return summed


class SeededNoise:
    """Standard normals that anybody with the seed can make again: for simulations and benchmarks, never for release."""

    def __init__(self, seed: int) -> None:
        self._chance = np.random.default_rng(seed)

    def normals(self, count: int) -> NDArray[np.float64]:
        """Return ``count`` independent draws of N(0, 1), shape ``(count,)``."""
        return self._chance.standard_normal(count)

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return ``count`` independent draws, uniform on (0, 1], shape ``(count,)``."""
        return 1.0 - self._chance.random(count)


@dataclass(frozen=True)
class Noised:
    """What may be released: a clipped sum with noise on it.

    Args:
        total: Shape ``(d,)``, float32.
        deviation: Standard deviation of the noise in each coordinate.
    """

    total: Tensor = field(repr=False)
    deviation: float


def add_noise(clipped: Clipped, multiplier: float, source: NoiseSource) -> Noised:
    """Add Gaussian noise of ``multiplier`` times the sensitivity that the clipped value carries.

    Guarantees:

    ==================================  ====================================================================
    asked of                            what comes of it
    ==================================  ====================================================================
    a sum, whatever is in it            each number has its own draw of N(0, (multiplier times bound)^2) on it
    the sum over no unit                noise like on any other
    twice the bound, or the multiplier  twice the noise
    the same sum again                  noise drawn anew; the sum itself is left as it was
    a multiplier that is no positive    refused
    number, or such a bound
    ==================================  ====================================================================

    Args:
        clipped: What is to be released.
        multiplier: The noise multiplier sigma; the accountant takes the same number.
        source: Where the noise is drawn from.

    Raises:
        PrivacyError: The multiplier or the bound is not a positive number: without noise nothing is private.
    """
    if not 0 < multiplier < float("inf"):
        raise PrivacyError("a noise multiplier is a positive number", got=multiplier)
    check_bound(clipped.bound)
    deviation = multiplier * clipped.bound
    noise = torch.from_numpy(source.normals(clipped.total.numel())) * deviation
    total = (clipped.total.double() + noise.to(clipped.total.device)).to(torch.float32)
    return Noised(total, deviation)
