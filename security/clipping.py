"""Clipping: what one person's drawings can change is bounded, and the bound travels with what was clipped.

The sum of clipped gradients is a value that carries its sensitivity (:class:`Clipped`); noise is calibrated from that
value and from nowhere else (:mod:`security.noise`), so the bound that was used and the bound that is accounted for
cannot come apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.errors import PrivacyError

# Rounding in float32 must not carry a norm over the bound: factors are this much smaller than they need be. It is over
# twice what rounding can do to the norm of a block (at most 35 additions in a row, 6e-8 each).
_MARGIN = 1e-5
_BLOCK = 256
_COLUMNS = 2**16
_TINY = 1e-8
"""Bounds under this are left to double precision: beside them float32's smallest numbers count."""

_LARGE = 1e19
"""And so are rows of a norm over this: their squares may be too large for float32, and their factors too small."""


@dataclass(frozen=True)
class Clipped:
    """A sum to which each unit of privacy added at the most ``bound`` in L2 norm.

    Args:
        total: The sum, shape ``(d,)``, float64: with or without one unit, the others add the same to all of its digits
            that count beside noise. In float32 a sum of a thousand units would round by some 6e-5 of the bound.
        bound: L2 sensitivity: adding or removing one unit changes ``total`` by at most this.
    """

    total: Tensor = field(repr=False)
    bound: float

    def __add__(self, other: Clipped) -> Clipped:
        """Add the sum of other units, clipped to the same bound: each unit is in one of the two alone.

        Raises:
            PrivacyError: The bounds differ.
        """
        if self.bound != other.bound:
            raise PrivacyError("sums under different bounds do not add", got=other.bound, expected=self.bound)
        return Clipped(self.total + other.total, self.bound)


def clip_and_sum(units: Tensor, bound: float) -> Clipped:
    """Scale each row down to the bound, and sum the rows (DP-SGD, arXiv 1607.00133, algorithm 1).

    Guarantees, for any content of ``units``:

    =====================  =====================================
    a row                  what it adds to the sum
    =====================  =====================================
    of zeros               zero
    of norm at most bound  the row as it is, up to 1e-5
    of norm over bound     the row scaled to norm ``bound``
    with a NaN             zero
    with an infinity       zero
    no row at all          the sum is zero, of shape ``(d,)``
    =====================  =====================================

    Args:
        units: One row a unit of privacy (a drawing, or an artist), shape ``(n, d)``, float32; n may be 0.
        bound: Largest L2 norm of a row.

    Raises:
        PrivacyError: The bound is not a positive number, or ``units`` is no matrix.
    """
    check_bound(bound)
    if units.ndim != 2:
        raise PrivacyError("clipping takes one row a unit", got=f"{units.ndim} dimensions", expected=2)
    if units.numel() == 0:
        return nothing(units.shape[1], bound)
    norms = _norms(units)
    # Row by row, so that none is rounded otherwise because of another. Twenty times slower, and rare: rows that are no
    # numbers, or so large that float32 cannot hold their squares.
    slow = ~(norms <= _LARGE) if bound > _TINY else torch.ones(len(units), dtype=torch.bool)
    if bool(slow.any()):
        usable = torch.isfinite(units).all(dim=1)
        units = torch.where(usable[:, None], units, torch.zeros_like(units))
        norms[slow] = torch.linalg.vector_norm(units[slow].double(), dim=1)
    return Clipped(_summed(_factors(norms, bound), units), bound)


def _norms(rows: Tensor) -> Tensor:
    """Return the norm of each row, float64: of blocks in float32, which is fast, and of their norms in double."""
    whole = rows.shape[1] // _BLOCK * _BLOCK
    blocks = torch.linalg.vector_norm(rows[:, :whole].reshape(len(rows), -1, _BLOCK), dim=2)
    rest = torch.linalg.vector_norm(rows[:, whole:], dim=1, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(torch.cat([blocks, rest], dim=1).double(), dim=1)
    return norms


def _factors(norms: Tensor, bound: float) -> Tensor:
    return (bound * (1 - _MARGIN) / norms.clamp_min(torch.finfo(torch.float64).tiny)).clamp_max(1.0)


def _summed(factors: Tensor, rows: Tensor) -> Tensor:
    """Return the sum of float32 rows times float64 factors, in double, some columns at a time to spare memory."""
    return torch.cat([factors @ some.double() for some in rows.split(_COLUMNS, dim=1)])


def nothing(size: int, bound: float) -> Clipped:
    """Return the sum over no unit: what an empty Poisson batch adds. Noise is added to it like to any other.

    Raises:
        PrivacyError: The bound is not a positive number.
    """
    check_bound(bound)
    return Clipped(torch.zeros(size, dtype=torch.float64), bound)


def check_bound(bound: float) -> None:
    """Refuse what is no bound.

    Raises:
        PrivacyError: It is not a positive number.
    """
    if not 0 < bound < float("inf"):
        raise PrivacyError("a clip bound is a positive number", got=bound)
