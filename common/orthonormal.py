"""Frozen factors: matrices with orthonormal rows or columns, drawn from a seed, the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.adapter_schema import AdapterSchema, LoraModule
from common.errors import AdapterError
from common.quantise import Flat

_COLUMNS = 1
"""B's columns are drawn from other streams than A's rows."""


def orthonormal_a(schema: AdapterSchema, seed: int) -> Flat:
    """Return A factors with orthonormal rows, the frozen start of FFA-LoRA (arXiv 2403.12313).

    Each is the Q of a Gaussian matrix, signs fixed so that it is uniform over all such matrices (Mezzadri 2007).
    A convolution's A counts as the matrix [r, in * height * width].

    Args:
        schema: The modules.
        seed: Not negative.

    Returns:
        float32 [schema.numel("A")].

    Raises:
        AdapterError: A rank is larger than the module's inputs.
    """
    pieces = []
    for index, module in enumerate(schema.modules):
        check_rows(module)
        pieces.append(_frame(module.columns, module.rank, [seed, index]).T.reshape(-1))
    return np.concatenate(pieces)


def orthonormal_b(schema: AdapterSchema) -> tuple[NDArray[np.float32], ...]:
    """Return the frozen columns that a core is trained against: for each module float32 [out, r], orthonormal.

    They depend on the schema alone: everybody who knows a run's adapter knows them.

    Raises:
        AdapterError: A rank is larger than the module's outputs.
    """
    frames = []
    for index, module in enumerate(schema.modules):
        _check(module, module.out_features, "columns in B", "outputs")
        frames.append(_frame(module.out_features, module.rank, [0, index, _COLUMNS]))
    return tuple(frames)


def check_rows(module: LoraModule) -> None:
    """Refuse a rank for which a layer has too few inputs.

    Raises:
        AdapterError: A cannot have orthonormal rows.
    """
    _check(module, module.columns, "rows in A", "inputs")


def _check(module: LoraModule, most: int, what: str, of: str) -> None:
    if module.rank > most:
        raise AdapterError(
            f"{module.name} cannot have orthonormal {what}", got=f"rank {module.rank}",
            expected=f"at most its {most} {of}",
            advice="Choose a smaller rank, or leave this layer out of the targets.",
        )  # fmt: skip


def _frame(length: int, rank: int, seeds: list[int]) -> NDArray[np.float32]:
    """Return a matrix with orthonormal columns, float32 [length, rank]."""
    chance = np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds)))
    q, r = np.linalg.qr(chance.standard_normal((length, rank)))
    frame: NDArray[np.float32] = (q * np.where(np.diag(r) < 0, -1.0, 1.0)).astype(np.float32)
    return frame
