"""The weighted mean of many long vectors, the same bytes whatever their order and whatever the machine.

**How.** Each number times its weight is rounded to a multiple of a fixed power of two, and the multiples are added as
64-bit integers. Integer addition is associative, so no order of arrival, grouping or vector width can show in the sum.
The product of a float32 and a weight is exact in float64, so it does not matter either whether a processor fuses it
with the rounding. What is left, one conversion and one division a number, is elementwise IEEE 754.

**How exact.** With n updates of total weight W the mean is off by at most ``unit * n / (2 W)`` before it is rounded to
float32, where ``unit`` is 2^-50 times the largest weight and value that the mean was made for, rounded up to a power
of two: 1.2e-10 for weights up to 1000 and values up to 100. Adding in float32 would be off by more.

**How fast.** The rounding is an addition: in float64, ``x + 1.5 * 2^52`` has the nearest integer to x in its lower
bits (Knuth, TAOCP 4.2.2; ties to even). So a number costs one conversion, one product and two additions, and four
updates are added in one pass over the sums, because moving the sums is what takes the time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from common.errors import AggregationError
from common.quantise import Flat

Sums: TypeAlias = NDArray[np.int64]
Scaled: TypeAlias = tuple[Flat, float]

GROUP = 4
"""Updates that :meth:`WeightedMean.add_all` adds in one pass, and holds at a time."""

MOST_UPDATES = 4095
"""How many updates fit into one mean: each adds less than 2^51, and the sums have 63 bits."""

MOST_WEIGHT = 2**28
"""The largest weight: its product with a float32 is still exact in float64."""

_ROUNDER = 1.5 * 2.0**52
_ROUNDER_BITS = int(np.float64(_ROUNDER).view(np.int64))

_CHUNK = 32_768


def capped_weight(examples: int, cap: int) -> int:
    """Return the weight of an update: the examples that the site reports, but at most ``cap``.

    Raises:
        AggregationError: The site reports no examples.
    """
    if examples < 1:
        raise AggregationError("an update claims no example", got=examples, expected="at least 1")
    return min(examples, cap)


class WeightedMean:
    """A running weighted mean. Its memory is eight bytes a number, however many updates are added.

    Guarantees:
        * The same multiset of (weight, vector) gives the same bytes in any order and any mix of :meth:`add` and
          :meth:`add_all`.
        * An update that is refused leaves no trace in the mean.
        * NaN and infinity are refused, and values more than four times over the bound; none overflows unnoticed.

    Args:
        numel: Length of the vectors.
        largest_weight: No update may weigh more. With ``largest_value`` it fixes the unit of the sum, so that the
            order of arrival cannot.
        largest_value: Updates may not hold larger values (a bound on their L2 norm will do).

    Raises:
        AggregationError: A limit is not positive, or a weight over :data:`MOST_WEIGHT` is to be allowed.
    """

    def __init__(self, numel: int, *, largest_weight: int, largest_value: float) -> None:
        if numel < 1 or not 1 <= largest_weight <= MOST_WEIGHT or not 0 < largest_value < math.inf:
            raise AggregationError(
                "a mean cannot be taken within these limits", got=(numel, largest_weight, largest_value)
            )
        self._exponent = 50 - math.frexp(largest_weight * largest_value)[1]
        self._largest_weight = largest_weight
        self._sums = np.empty(numel, np.int64)
        self._sums.fill(0)  # np.zeros takes its pages one by one, while they are added to
        self._weight = 0
        self._count = 0

    @property
    def unit(self) -> float:
        """What weighted values are rounded to a multiple of."""
        return math.ldexp(1.0, -self._exponent)

    @property
    def count(self) -> int:
        """How many updates were added."""
        return self._count

    def add(self, weight: int, flat: Flat) -> None:
        """Add one update; its memory may be used again afterwards.

        Args:
            weight: 1 to ``largest_weight``.
            flat: Contiguous float32 [numel].

        Raises:
            AggregationError: The weight or the vector will not do, or the mean is full. The mean is as before.
        """
        self._add([(weight, flat)])

    def add_all(self, updates: Iterable[tuple[int, Flat]]) -> None:
        """Add updates, :data:`GROUP` in one pass: about 1.4 times as fast as one by one.

        A vector must stay as it is until three more have been drawn: a producer may use a ring of four buffers.

        Args:
            updates: Pairs of weight and vector, as :meth:`add` takes them.

        Raises:
            AggregationError: An update will not do. Neither it nor the up to three drawn with it are in the mean.
        """
        source = iter(updates)
        while group := list(itertools.islice(source, GROUP)):
            self._add(group)

    def mean(self) -> Flat:
        """Return the mean, float32 [numel].

        Raises:
            AggregationError: Nothing was added.
        """
        if not self._count:
            raise AggregationError("a round without updates has no mean", got="0 updates", expected="at least 1")
        offset = np.array(self._count * _ROUNDER_BITS % 2**64, np.uint64).view(np.int64)  # sums wrap, and so does this
        divisor = np.float64(math.ldexp(self._weight, self._exponent))
        mean = np.empty(self._sums.size, np.float32)
        for start in range(0, mean.size, _CHUNK):
            sums = self._sums[start : start + _CHUNK] - offset
            mean[start : start + _CHUNK] = sums.astype(np.float64) / divisor
        return mean

    def _add(self, group: list[tuple[int, Flat]]) -> None:
        for weight, flat in group:
            self._check(weight, flat)
        if self._count + len(group) > MOST_UPDATES:
            raise AggregationError("there are too many updates for one mean", expected=f"at most {MOST_UPDATES}")
        scaled = [(flat, math.ldexp(weight, self._exponent)) for weight, flat in group]
        if _add_group(self._sums, scaled):
            _take_back_group(self._sums, scaled)
            raise AggregationError("an update holds a number that is not finite or over the bound")
        self._weight += sum(weight for weight, _ in group)
        self._count += len(group)

    def _check(self, weight: int, flat: Flat) -> None:
        if not 1 <= weight <= self._largest_weight:
            raise AggregationError("a weight will not do", got=weight, expected=f"1 to {self._largest_weight}")
        fits = flat.dtype == np.float32 and flat.shape == self._sums.shape
        if not fits or not flat.flags.c_contiguous or not flat.flags.aligned:
            raise AggregationError(
                "an update does not fit the mean",
                got=f"{flat.dtype} {flat.shape}",
                expected=f"contiguous float32 {self._sums.shape}",
            )


def _add_group(sums: Sums, scaled: list[Scaled]) -> bool:
    """Add up to four vectors; return whether one of their numbers was out of bounds."""
    add_four, add_one, _ = _kernels()
    if len(scaled) < GROUP:
        return any([add_one(sums, *one) for one in scaled])  # noqa: C419  a list: each is added, whatever the first says
    flats, scales = zip(*scaled, strict=True)
    return bool(add_four(sums, flats, scales))


def _take_back_group(sums: Sums, scaled: list[Scaled]) -> None:
    _, _, take_back = _kernels()
    for one in scaled:
        take_back(sums, *one)


@cache
def _kernels() -> tuple[Callable[..., int], Callable[..., int], Callable[..., None]]:
    """Compile the three loops, once a process (about a second): numpy would move every number five times.

    Nothing compiled is kept on disk: numba keeps it as a pickle, and bottega unpickles nothing.
    """
    types: Any = numba.types  # has no annotations
    sums, scale = numba.int64[::1], numba.float64
    vector = types.Array(numba.float32, 1, "C", readonly=True)
    four = [types.UniTuple(kind, GROUP) for kind in (vector, scale)]

    def compiled(loop: Callable[..., Any], result: Any, *given: Any) -> Callable[..., Any]:  # noqa: ANN401
        made: Callable[..., Any] = numba.njit(result(*given), nogil=True)(loop)
        return made

    return (
        compiled(_add_four, numba.int64, sums, *four),
        compiled(_add_one, numba.int64, sums, vector, scale),
        compiled(_take_back, numba.void, sums, vector, scale),
    )


def _add_one(sums: Any, values: Any, scale: Any) -> int:  # noqa: ANN401
    """Add one vector; return 0 if all its numbers were within bounds.

    As long as ``x`` is, ``x + _ROUNDER`` lies between 2^52 and 2^53 and has the sign and exponent of ``_ROUNDER``:
    the upper 12 bits of its difference from it, by exclusive or, are zero. NaN and infinity have others too.
    """
    strange = np.int64(0)
    for i in range(sums.size):
        x = np.float64(np.float64(values[i]) * scale + _ROUNDER).view(np.int64)
        strange |= x ^ _ROUNDER_BITS
        sums[i] += x
    return strange >> 52  # type: ignore[return-value]


def _add_four(sums: Any, group: Any, scales: Any) -> int:  # noqa: ANN401
    """Add four vectors in one pass; return 0 if all their numbers were within bounds (see :func:`_add_one`)."""
    a, b, c, d = group
    k, m, n, o = scales
    strange = np.int64(0)
    for i in range(sums.size):
        w = np.float64(np.float64(a[i]) * k + _ROUNDER).view(np.int64)
        x = np.float64(np.float64(b[i]) * m + _ROUNDER).view(np.int64)
        y = np.float64(np.float64(c[i]) * n + _ROUNDER).view(np.int64)
        z = np.float64(np.float64(d[i]) * o + _ROUNDER).view(np.int64)
        strange |= (w ^ _ROUNDER_BITS) | (x ^ _ROUNDER_BITS) | (y ^ _ROUNDER_BITS) | (z ^ _ROUNDER_BITS)
        sums[i] += (w + x) + (y + z)
    return strange >> 52  # type: ignore[return-value]


def _take_back(sums: Any, values: Any, scale: Any) -> None:  # noqa: ANN401
    """Undo :func:`_add_one` bit for bit, whatever the numbers were: integers wrap both ways."""
    for i in range(sums.size):
        sums[i] -= np.float64(np.float64(values[i]) * scale + _ROUNDER).view(np.int64)
