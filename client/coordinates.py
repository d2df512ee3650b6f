"""What an optimiser steps in: the factors themselves, or cores from which B is made.

Under ``ffa`` and ``both`` the two are the same. Under ``core`` (:mod:`common.core`) B is what it was at the start of
the round plus Q R, and R, which begins at zero, is trained: B's gradients are brought into R's coordinates before a
step (by the chain rule Q' dB), and after it B is made anew.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.adapter_schema import AdapterSchema
from common.models import LoraFactors
from common.orthonormal import orthonormal_b
from common.settings import LoraSettings


class Coordinates:
    """The trained factors themselves.

    Args:
        factors: Of the U-Net, as the round starts from them.

    Attributes:
        factors: What a backward pass leaves gradients in.
        trained: What the optimiser is given.
    """

    def __init__(self, factors: LoraFactors) -> None:
        self.factors = factors.trained()
        self.trained = self.factors
        self._start = [tensor.detach().clone() for tensor in self.factors]

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.trained)

    def of(self, rows: Tensor) -> Tensor:
        """Return gradients of the factors, ``[n, numbers in the factors]``, in these coordinates, ``[n, size]``."""
        return rows

    def pull(self) -> None:
        """After a backward pass, give what is trained its gradients."""

    def push(self) -> None:
        """After a step, make the factors what the trained numbers say."""

    def change(self) -> NDArray[np.float32]:
        """Return what training changed, flat float32 in schema order."""
        pairs = zip(self.factors, self._start, strict=True)
        return _flat([now.detach().float() - start.float() for now, start in pairs])


class CoreCoordinates(Coordinates):
    """Cores.

    Args:
        factors: As in :class:`Coordinates`.
        schema: The adapter's.
    """

    def __init__(self, factors: LoraFactors, schema: AdapterSchema) -> None:
        super().__init__(factors)
        frames = zip(orthonormal_b(schema), self.factors, strict=True)
        self._q = [torch.from_numpy(q).to(b.device, b.dtype) for q, b in frames]
        self.trained = [nn.Parameter(q.new_zeros(q.shape[1], q.shape[1])) for q in self._q]

    def of(self, rows: Tensor) -> Tensor:
        """Return gradients of the factors, ``[n, numbers in the factors]``, in these coordinates, ``[n, size]``."""
        pieces = rows.split([b.numel() for b in self.factors], dim=1)
        found = [
            torch.einsum("or,nos->nrs", q.to(rows.device, rows.dtype), piece.reshape(len(rows), *q.shape)).flatten(1)
            for q, piece in zip(self._q, pieces, strict=True)
        ]
        return torch.cat(found, dim=1)

    def pull(self) -> None:
        """After a backward pass, give what is trained its gradients."""
        for core, q, b in zip(self.trained, self._q, self.factors, strict=True):
            core.grad = None if b.grad is None else q.T @ b.grad.reshape(q.shape)
            b.grad = None

    @torch.no_grad()
    def push(self) -> None:
        """After a step, make the factors what the trained numbers say."""
        for core, q, b, start in zip(self.trained, self._q, self.factors, self._start, strict=True):
            b.copy_(start + (q @ core).reshape(b.shape))

    def change(self) -> NDArray[np.float32]:
        """Return what training changed, flat float32 in schema order: the cores, which began at zero."""
        return _flat([core.detach().float() for core in self.trained])


def coordinates_of(factors: LoraFactors, lora: LoraSettings, schema: AdapterSchema) -> Coordinates:
    """Return what a run trains.

    Args:
        factors: Of the U-Net, as the round starts from them.
        lora: The run's.
        schema: The adapter's.

    Raises:
        AdapterError: Under ``core``, a rank is larger than a layer.
    """
    return CoreCoordinates(factors, schema) if lora.method == "core" else Coordinates(factors)


def _flat(tensors: list[Tensor]) -> NDArray[np.float32]:
    return np.concatenate([tensor.reshape(-1).cpu().numpy() for tensor in tensors])
