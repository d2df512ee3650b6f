"""Re-factoring the products B·A by singular value decomposition, without ever forming one.

A module's product is out x in; its factors are out x r and r x in with r far smaller. With A = L Q (Q's rows
orthonormal) the product is C Q, C = B L is out x r, and C's singular values and right vectors are those of the product.
They come from the eigenvectors of the r x r matrix C'C (when sites are merged, r is the sum of their ranks). Squaring
blurs directions whose singular value is below 1e-8 of the largest; which of them is which does not matter, since any
rotation of the basis leaves the product alone, and what a cut loses by it is less than float32 rounds away.

Everything is computed in float64 and returned in float32. Signs are fixed, so one machine with one LAPACK gives the
same bytes each time; two machines may differ in the last bits, and then still in no product by more than rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.adapters import Adapter, AdapterSchema, LoraModule
from common.errors import AdapterError, AggregationError
from common.orthonormal import check_rows

Matrix: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Refreshed:
    """An adapter with the same products in a new basis.

    Attributes:
        adapter: Orthonormal rows in each A; B's columns orthogonal, longest first.
        bases: For each module, float64 [r, r]: the matrix T with ``B_new = B T`` and ``T A_new = A``. Whatever else
            the server keeps in B's coordinates, such as momentum, moves to the new ones by ``T`` from the right.
    """

    adapter: Adapter
    bases: tuple[Matrix, ...]


def refresh(adapter: Adapter) -> Refreshed:
    """Re-factor each product by SVD into orthonormal A and B = U S (FedSVD, arXiv 2505.12805).

    Lossless, since the rank stays. Note what it does not do: the new rows of A span what the old rows spanned. When
    they were orthonormal already, as :mod:`common.orthonormal` makes them, the refresh at equal rank is a rotation
    within that space, and no direction outside it is ever learned.

    Args:
        adapter: Both factors.

    Returns:
        The new factors, and how to move what is kept in the old coordinates.

    Raises:
        AdapterError: A rank is larger than the module's inputs.
    """
    fresh, bases = _Blank(adapter.schema), []
    for module, a, b in _matrices(adapter):
        check_rows(module)
        rows, lower = _orthonormal_rows(a)
        v = _right_vectors(b @ lower)
        signs = _signs(v.T @ rows)
        basis = lower @ (v * signs)
        fresh.set(module, (v * signs).T @ rows, b @ basis)
        bases.append(basis)
    return Refreshed(fresh.adapter, tuple(bases))


def merge_ranks(updates: Sequence[tuple[int, Adapter]], schema: AdapterSchema) -> Adapter:
    """Return the best adapter of given ranks for the weighted mean of products of any ranks.

    The factors of all sites, stacked, are factors of the mean; its SVD follows from their QR decompositions, exactly,
    and is cut at the rank wanted (the best approximation in the Frobenius norm, by Eckart and Young). Lossless when
    that is at least the mean's own rank.

    Args:
        updates: Weights and adapters, in an order that does not depend on arrival: the last bits follow it.
        schema: Of the result: the same modules, of any rank (:meth:`~common.adapters.AdapterSchema.with_rank`).

    Returns:
        Orthonormal rows in each A; B's columns orthogonal, longest first.

    Raises:
        AggregationError: There are no updates, or a weight is not positive.
        AdapterError: The adapters are not of the same modules, or a rank is larger than the module's inputs.
    """
    total = sum(weight for weight, _ in updates)
    if not updates or min(weight for weight, _ in updates) < 1:
        raise AggregationError("adapters cannot be merged with these weights", got=[weight for weight, _ in updates])
    if any(adapter.schema.with_rank(1) != schema.with_rank(1) for _, adapter in updates):
        raise AdapterError("adapters of different modules cannot be merged")
    weights = [weight / total for weight, _ in updates]
    merged = _Blank(schema)
    for module, *factors in zip(schema.modules, *(_matrices(adapter) for _, adapter in updates), strict=True):
        check_rows(module)
        a = np.concatenate([a for _, a, _ in factors])
        b = np.concatenate([weight * b for weight, (_, _, b) in zip(weights, factors, strict=True)], axis=1)
        merged.set(module, *_cut(a, b, module.rank))
    return merged.adapter


def _cut(a: Matrix, b: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """Return (A, B) of ``rank`` for the product of b [out, n] and a [n, in]."""
    short = rank - len(a)
    if short > 0:  # more rows are asked for than there are: any others, with nothing in B
        chance = np.random.Generator(np.random.Philox(rank))
        a = np.concatenate([a, chance.standard_normal((short, a.shape[1]))])
        b = np.concatenate([b, np.zeros((len(b), short))], axis=1)
    rows, lower = _orthonormal_rows(a)
    columns = b @ lower
    v = _right_vectors(columns)[:, :rank]
    v *= _signs(v.T @ rows)
    return v.T @ rows, columns @ v


def _orthonormal_rows(a: Matrix) -> tuple[Matrix, Matrix]:
    """Return (Q, L) with ``a = L Q`` and orthonormal rows in Q; a has no more rows than columns."""
    q, r = np.linalg.qr(a.T)
    return q.T, r.T


def _right_vectors(c: Matrix) -> Matrix:
    """Return the right singular vectors of c [m, n] as the columns of an orthogonal [n, n], largest value first."""
    v: Matrix = np.linalg.eigh(c.T @ c)[1]
    return v[:, ::-1]


def _signs(rows: Matrix) -> Matrix:
    """Return the signs that make each row's largest entry positive (the first of equals)."""
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(largest < 0, -1.0, 1.0)


def _matrices(adapter: Adapter) -> Iterator[tuple[LoraModule, Matrix, Matrix]]:
    """Yield (module, A [r, columns], B [out, r]) of each module, float64."""
    a = adapter.schema.views(adapter.a, "A")
    b = adapter.schema.views(adapter.b, "B")
    for module in adapter.schema.modules:
        yield (
            module,
            a[module.a.name].reshape(module.rank, -1).astype(np.float64),
            b[module.b.name].reshape(-1, module.rank).astype(np.float64),
        )


class _Blank:
    """An adapter that is filled in module by module."""

    def __init__(self, schema: AdapterSchema) -> None:
        a, b = np.empty(schema.numel("A"), np.float32), np.empty(schema.numel("B"), np.float32)
        self.adapter = Adapter(schema, a, b)
        self._a, self._b = schema.views(a, "A"), schema.views(b, "B")

    def set(self, module: LoraModule, a: Matrix, b: Matrix) -> None:
        """Write the factors of one module."""
        for view, matrix in ((self._a[module.a.name], a), (self._b[module.b.name], b)):
            view[...] = matrix.reshape(view.shape)
