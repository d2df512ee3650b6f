"""The server optimiser: what the mean update does to the adapter (FedOpt, arXiv 2003.00295).

The mean of the sites' changes is taken for a gradient (with its sign turned), and a plain optimiser takes the step:

* ``sgd``: ``m = momentum m + mean``, ``step = rate m`` (FedAvgM, arXiv 1909.06335). With momentum 0 and rate 1, the
  default, the step is the mean: plain federated averaging.
* ``adam``: ``m = momentum m + (1 - momentum) mean``, ``v = 0.99 v + 0.01 mean^2``,
  ``step = rate m / (sqrt(v) + 0.001)`` (FedAdam, without bias correction, as published).

Elementwise float32 arithmetic only, so equal inputs give equal bytes on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.adapters import AdapterSchema, Flat
from common.errors import AggregationError
from common.settings import AggregationSettings

Bases: TypeAlias = tuple[NDArray[np.float64], ...]
"""For each module, float64 [r, r]: the matrix T with ``B_new = B T`` and ``T A_new = A``."""

BETA_2 = 0.99
TAU = 1e-3
"""FedAdam's degree of adaptivity: keeps the step small where updates always were."""


def _nothing() -> Flat:
    return np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class Memory:
    """What the optimiser remembers between rounds.

    Attributes:
        momentum: float32 [numel], or empty before the first step and where there is no momentum.
        square: Running mean of squared updates, float32 [numel]; empty likewise and under ``sgd``.
    """

    momentum: Flat = field(default_factory=_nothing, repr=False)
    square: Flat = field(default_factory=_nothing, repr=False)

    def to_bytes(self) -> bytes:
        """Return the memory as safetensors; empty when there is nothing to remember."""
        if not self.momentum.size and not self.square.size:
            return b""
        return bytes(save({"momentum": self.momentum, "square": self.square}))

    @classmethod
    def from_bytes(cls, data: bytes) -> Memory:
        """Return the memory that :meth:`to_bytes` wrote.

        Raises:
            AggregationError: It is damaged.
        """
        if not data:
            return cls()
        try:
            kept = load(data)
            memory = cls(kept["momentum"], kept["square"])
        except (SafetensorError, KeyError, ValueError) as cause:
            raise AggregationError("the server optimiser's memory is damaged", got=type(cause).__name__) from None
        for flat in (memory.momentum, memory.square):
            if flat.dtype != np.float32 or flat.ndim != 1 or not np.isfinite(flat).all():
                raise AggregationError("the server optimiser's memory is damaged", got=f"{flat.dtype} {flat.shape}")
        return memory


def step(settings: AggregationSettings, memory: Memory, mean: Flat) -> tuple[Memory, Flat]:
    """Return what to remember, and what to add to the adapter.

    Args:
        settings: ``optimiser``, ``server_learning_rate`` and ``momentum``.
        memory: From the round before.
        mean: The mean update, float32 [numel].

    Raises:
        AggregationError: The memory is of vectors of another length, or the step is not finite.
    """
    rate, beta = np.float32(settings.server_learning_rate), np.float32(settings.momentum)
    momentum, square = _of_size(memory.momentum, mean.size), _of_size(memory.square, mean.size)
    new, change = Memory(), mean
    with np.errstate(over="ignore", invalid="ignore"):
        if settings.optimiser == "adam":
            new = Memory(
                momentum * beta + mean * (np.float32(1) - beta),
                square * np.float32(BETA_2) + mean * mean * np.float32(1 - BETA_2),
            )
            change = np.divide(new.momentum, np.sqrt(new.square) + np.float32(TAU), dtype=np.float32)
        elif settings.momentum:
            new = Memory(momentum * beta + mean)
            change = new.momentum
        change = np.multiply(change, rate, dtype=np.float32)
    if not np.isfinite(change).all():
        raise AggregationError("the server's step is not finite", expected="a smaller server_learning_rate")
    return new, change


def turned(memory: Memory, schema: AdapterSchema, bases: Bases) -> Memory:
    """Move a memory in B's coordinates along with a refresh of A.

    Momentum is a sum of updates of B, so it moves as B does: ``m T``. Squares belong to coordinates, and none that
    are exact exist in others; those of independent coordinates with mean 0 move by ``v T^2``, which is what is used.

    Args:
        memory: From :func:`step`, of updates of B.
        schema: The adapter's.
        bases: The matrices T of :class:`~server.refactor.Refreshed`.

    Raises:
        AggregationError: The memory is not of this schema's B.
    """
    squares = tuple(basis**2 for basis in bases)
    return Memory(times(memory.momentum, schema, bases), times(memory.square, schema, squares))


def times(flat: Flat, schema: AdapterSchema, bases: Bases) -> Flat:
    """Return ``m T`` of every module, float32; of an empty vector an empty one.

    Raises:
        AggregationError: The vector is not of this schema's B.
    """
    if not flat.size:
        return flat
    views = schema.views(_of_size(flat, schema.numel("B")), "B")
    moved = [
        views[module.b.name].reshape(-1, module.rank) @ basis
        for module, basis in zip(schema.modules, bases, strict=True)
    ]
    return np.concatenate([piece.reshape(-1) for piece in moved]).astype(np.float32)


def _of_size(flat: Flat, size: int) -> Flat:
    """Return a remembered vector, zeros in the first round."""
    if not flat.size:
        return np.zeros(size, np.float32)
    if flat.size != size:
        raise AggregationError("the server optimiser's memory does not fit", got=flat.size, expected=size)
    return flat
