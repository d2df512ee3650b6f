"""The updates of a round as one matrix, n x d float32, far larger than the memory that may be used for it.

Rules see it in two ways only: pairwise, as the n x n Gram matrix, which one pass over all numbers gives; and in blocks
of coordinates of all updates. So a block is what is ever in memory, about 0.4 GB for 1,000 updates.

**The order of arrival never shows.** Rows are numbered by the SHA-256 of their content, and every sum goes by these
numbers. Updates that are equal get neighbouring numbers, and which of them gets which cannot matter. Numbers decide
nothing else: updates that tie for a place share it (:func:`server.robust.geometry.lowest`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.errors import AggregationError
from common.quantise import Flat
from server.robust.sealed import PlainPieces, SealedPieces

Gram: TypeAlias = NDArray[np.float64]
"""Inner products of updates (or of their differences from a centre): float64 [n, n], symmetric."""

Shares: TypeAlias = NDArray[np.float64]
"""How much of each update is in a result: float64 [n]. What is missing to one is the centre's share."""

Mixing: TypeAlias = NDArray[np.float64]
"""Row i says how much of each update is in the i-th mixed one: float64 [n, n], rows sum to one."""

Block: TypeAlias = NDArray[np.float32]
"""Some coordinates of all updates: float32 [n, width]."""

WIDTH = 16_384
"""Coordinates in a block: 64 KiB a row."""


class Updates:
    """Updates of one round, for one thread. A context manager: their memory or disk is given back at its end.

    Guarantees:
        * Every result is the same, to the last bit, in whatever order the same updates were added (on one machine:
          the Gram matrix comes from its BLAS).
        * An update that is refused leaves no trace.
        * Nothing plain is written to disk.

    Args:
        numel: Numbers in an update, d.
        capacity: The most updates that will be added.
        folder: Where to keep them, encrypted and without a name; None: in memory, ``4 * capacity * numel`` bytes.

    Raises:
        AggregationError: A size is not positive, or the folder will not do.
    """

    def __init__(self, numel: int, capacity: int, folder: Path | None = None) -> None:
        if numel < 1 or capacity < 1:
            raise AggregationError(
                "there is no such matrix of updates", got=(capacity, numel), expected="1 x 1 or more"
            )
        self._numel, self._capacity = numel, capacity
        self._width = min(WIDTH, numel)
        shape = {"rows": capacity, "columns": -(-numel // self._width), "width": self._width}
        self._pieces = SealedPieces(folder, **shape) if folder else PlainPieces(**shape)
        self._digests: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pieces.close()

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def numel(self) -> int:
        """Numbers in an update."""
        return self._numel

    @property
    def order(self) -> NDArray[np.intp]:
        """For each row, the number of the update in the order of adding: int [n]."""
        return np.array(sorted(range(len(self)), key=self._digests.__getitem__), np.intp)

    def add(self, flat: Flat) -> None:
        """Add one update; its memory may be used again afterwards.

        Args:
            flat: float32 [numel].

        Raises:
            AggregationError: It does not fit, holds a number that is not finite, or there is no room for it.
        """
        if flat.dtype != np.float32 or flat.shape != (self._numel,):
            raise AggregationError(
                "an update does not fit the round", got=f"{flat.dtype} {flat.shape}", expected=f"float32 {self._numel}"
            )
        if len(self) == self._capacity:
            raise AggregationError("there are more updates than were announced", expected=f"at most {self._capacity}")
        if not all(np.isfinite(flat[cut]).all() for _, cut in self._cuts()):
            raise AggregationError("an update holds a number that is not finite")
        piece = np.zeros(self._width, np.float32)  # the last may be longer than what is left for it
        for column, cut in self._cuts():
            piece[: cut.stop - cut.start] = flat[cut]
            self._pieces.write(len(self), column, piece)
        self._digests.append(hashlib.sha256(np.ascontiguousarray(flat).data).digest())

    def gram(self, centre: Flat | None = None) -> Gram:
        """Return the inner products of all updates, less the centre, in one pass.

        They are summed in float64: differences between honest updates must not drown in rounding beside a norm that a
        hostile one may choose. All pairwise distances follow (:mod:`server.robust.geometry`).

        Args:
            centre: float32 [numel]; None: zero.

        Raises:
            AggregationError: What is on disk cannot be read.
        """
        total = np.zeros((len(self), len(self)))
        wide = np.empty((len(self), self._width))
        for cut, block in self.blocks():
            rows = wide[:, : block.shape[1]]
            np.subtract(block, 0.0 if centre is None else centre[cut], out=rows, dtype=np.float64)
            total += rows @ rows.T
        return total

    def combined(self, shares: Shares, centre: Flat | None = None) -> Flat:
        """Return the sum of all updates by their shares, and of the centre by what is missing to one.

        Updates without a share are not even read, so no value of theirs can show.

        Args:
            shares: By row.
            centre: float32 [numel]; None: zero.

        Returns:
            float32 [numel], summed in float64.

        Raises:
            AggregationError: What is on disk cannot be read.
        """
        taken = np.flatnonzero(shares)
        rows = self.order[taken]
        result = np.empty(self._numel, np.float32)
        piece, term = np.empty(self._width, np.float32), np.empty(self._width)
        for column, cut in self._cuts():
            total = np.zeros(self._width)
            if centre is not None:
                total[: cut.stop - cut.start] = centre[cut] * (1.0 - shares.sum())
            for row, share in zip(rows, shares[taken], strict=True):
                self._pieces.read(int(row), column, piece)
                total += np.multiply(piece, share, out=term, dtype=np.float64)
            result[cut] = total[: cut.stop - cut.start]
        return result

    def coordinatewise(self, rule: Callable[[Block], Flat], mixing: Mixing | None = None) -> Flat:
        """Apply a rule that looks at each coordinate by itself.

        Args:
            rule: Takes a block and returns float32 [width].
            mixing: Updates are mixed before, and rounded to float32 as updates are.

        Returns:
            float32 [numel].

        Raises:
            AggregationError: What is on disk cannot be read.
        """
        result = np.empty(self._numel, np.float32)
        for cut, block in self.blocks():
            mixed = block if mixing is None else (mixing @ block.astype(np.float64)).astype(np.float32)
            result[cut] = rule(mixed)
        return result

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """Yield which coordinates, and these of all updates; a block is overwritten by the next.

        Raises:
            AggregationError: What is on disk cannot be read.
        """
        block = np.empty((len(self), self._width), np.float32)
        order = self.order
        for column, cut in self._cuts():
            for row, added in enumerate(order):
                self._pieces.read(int(added), column, block[row])
            yield cut, block[:, : cut.stop - cut.start]

    def _cuts(self) -> Iterator[tuple[int, slice]]:
        for column, start in enumerate(range(0, self._numel, self._width)):
            yield column, slice(start, min(start + self._width, self._numel))
