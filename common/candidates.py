"""Candidates: other adapters that a task asks a site to hold the run's adapter against, as they travel behind it.

All have the adapter's A, so each is known by how its B differs. That travels as int8 whatever the run's encoding: what
is asked is which of them is better, and a rounding error of a hundredth of a difference does not decide it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.adapter_schema import Adapter
from common.adapters import pack, unpack
from common.errors import AdapterError
from common.quantise import Flat

MOST_CANDIDATES = 13
"""In a task: where the round began, and twelve groups. A site compares no more."""


def pack_candidates(adapter: Adapter, candidates: Sequence[Flat], seed: int) -> list[bytes]:
    """Return candidates as bytes.

    Args:
        adapter: The run's.
        candidates: B of each, in the adapter's coordinates, float32 ``[numel of B]``.
        seed: Decides how they are rounded.

    Raises:
        AdapterError: One does not fit the adapter, or holds what is no number.
    """
    schema = adapter.schema
    return [pack(b - adapter.b, schema, "B", "int8", seed + place) for place, b in enumerate(candidates)]


def unpack_candidates(adapter: Adapter, body: memoryview, sizes: Sequence[int]) -> list[Adapter]:
    """Return the candidates that :func:`pack_candidates` wrote.

    Guarantees: whatever the bytes are, the result is finite adapters of the schema, or the error is an AdapterError.

    Args:
        adapter: The run's.
        body: All of them, one after the other.
        sizes: Of each, bytes.

    Raises:
        AdapterError: There are too many, the sizes are not those of the body, or one is no difference of B.
    """
    if len(sizes) > MOST_CANDIDATES:
        raise AdapterError("the task has too many candidates", got=len(sizes), expected=f"at most {MOST_CANDIDATES}")
    if sum(sizes) != body.nbytes:
        raise AdapterError("the task's candidates", got=f"{body.nbytes} bytes", expected=f"{sum(sizes)} bytes")
    found: list[Adapter] = []
    for size in sizes:
        with np.errstate(over="ignore"):
            b = adapter.b + unpack(body[:size], adapter.schema, "B", "int8")
        if not np.isfinite(b).all():
            raise AdapterError("a candidate of the task holds what is no number")
        found.append(Adapter(adapter.schema, adapter.a, b))
        body = body[size:]
    return found
