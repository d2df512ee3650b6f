"""The energy of each layer of an update: squared norms, taken in one pass when the update is opened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.adapter_schema import AdapterSchema, Part
from common.quantise import Flat


def spans(schema: AdapterSchema, part: Part) -> list[tuple[int, int]]:
    """Return where each of a part's tensors begins and stops in a flat vector."""
    stops = np.cumsum([spec.numel for spec in schema.specs(part)]).tolist()
    return list(zip([0, *stops[:-1]], stops, strict=True))


def energies(flat: Flat, places: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Return the sum of squares between each two places, float64 ``[places]``.

    Args:
        flat: Finite float32.
        places: Begin and stop of each.
    """
    return np.array([energy(flat[begin:stop]) for begin, stop in places])


def energy(numbers: Flat) -> float:
    """Return the sum of squares; in float64 only where float32 would lose it, which takes longer."""
    quick = float(np.dot(numbers, numbers))
    if 1e-25 < quick < 1e25:
        return quick
    exact = numbers.astype(np.float64)
    return float(np.dot(exact, exact))
