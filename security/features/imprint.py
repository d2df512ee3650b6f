"""What an update leaves behind when it is opened: enough to judge it by, of constant size, made in one pass.

**The coordinates of a product.** Under ``ffa`` all sites share A, whose rows are orthonormal, so norms and cosines of
the products B·A are those of B: B's own numbers are the coordinates. So are those of a core, between frozen orthonormal
columns and rows (:mod:`common.core`). Under ``both`` a site changes both factors, and
the change of its product is multiplied from the right by one Gaussian matrix of as many columns as the rank, the same
for all sites of the round (a random projection: norms and cosines are kept in expectation; Halko, Martinsson and Tropp,
arXiv 0909.4061). Coordinates are computed from the factors; no full matrix is formed.

**What is kept of them**: the energy of every layer, over all coordinates; a sample of the coordinates themselves, for
medians, signs and cosines (all of them, if there are no more than :data:`SAMPLED`); a random projection of them
(CountSketch: Charikar, Chen and Farach-Colton, 2002, its signs drawn for runs of numbers); spectra of some layers.

Which coordinates are sampled and how they are projected follows from the frame's seed. **The seed must be the server's
secret**, drawn for the round: who knows it can hide an update where nobody looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.adapter_schema import Adapter, AdapterSchema, LoraModule, check_flat, split
from common.orthonormal import orthonormal_b
from common.quantise import Flat
from security.conformal import DetectorError
from security.energies import energies
from security.energies import spans as places_of

SAMPLED = 16_384
"""Coordinates that are kept of an update, about: the cosine of two updates is seen to within 0.008 or so."""

BUCKETS = 1024
"""Numbers of the random projection."""

PROJECTED = 200_000
"""Coordinates that the projection is made of, about: of a larger update every second, third, … run of them."""

BLOCKS = ("early", "middle", "late")
_PREFIXES = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}

Part = Literal["B", "both", "core"]


class Shape(NamedTuple):
    """How the numbers of a unit vector are distributed, whatever the others of a round are.

    Attributes:
        zeros: The share that is 0.
        kurtosis: Fourth moment over squared second moment; 0 where all are 0.
        peak: The share of the energy that the largest hundredth holds.
        balance: The share above 0 less the share below.
    """

    zeros: float
    kurtosis: float
    peak: float
    balance: float

    @classmethod
    def of(cls, numbers: Flat) -> Shape:
        """Return the shape of a unit vector, float32 ``[places]``."""
        places = len(numbers)
        squares = numbers * numbers
        top = max(1, places // 100)
        peak = float(np.partition(squares, places - top)[places - top :].sum(dtype=np.float64))
        above, below = np.count_nonzero(numbers > 0), np.count_nonzero(numbers < 0)
        kurtosis = places * float(np.einsum("i,i->", squares, squares, dtype=np.float64))
        return cls((places - above - below) / places, kurtosis, peak, (above - below) / places)


@dataclass(frozen=True, eq=False)
class Imprint:
    """What is kept of an update.

    Attributes:
        examples: What the site says it trained on.
        energies: Squared norm of each layer's change of the product, float64 ``[layers]``.
        sample: Some of its coordinates, the same ones for all updates of a round, float32 ``[places]``.
        projection: Random projection of all of them, float64 ``[BUCKETS]``.
        top: Share of the strongest direction in a layer's energy, averaged over layers by energy; NaN when all is 0.
        rank: Effective rank over the rank, averaged likewise.
    """

    examples: int
    energies: NDArray[np.float64] = field(repr=False)
    sample: Flat = field(repr=False)
    projection: NDArray[np.float64] = field(repr=False)
    top: float = field(repr=False)
    rank: float = field(repr=False)

    @cached_property
    def unit(self) -> Flat:
        """The sample as a unit vector."""
        return unit(self.sample)

    @cached_property
    def shape(self) -> Shape:
        """How the sample's numbers are distributed."""
        return Shape.of(self.unit)


class Frame:
    """How all updates of one round are looked at.

    Args:
        start: The adapter that the round started from.
        part: What an update changes: B, both factors, or cores.
        seed: The server's secret of this round.
        sampled: Coordinates to keep, about; every layer gives at least one.

    Raises:
        DetectorError: Too few are to be kept for every layer to give one.
    """

    def __init__(self, start: Adapter, part: Part, seed: int, sampled: int = SAMPLED) -> None:
        self.schema: AdapterSchema = start.schema
        modules = self.schema.modules
        if sampled < len(modules):
            raise DetectorError("too few numbers are to be sampled", got=sampled, expected=f"at least {len(modules)}")
        self._start, self._part = start, part
        chance = np.random.default_rng(seed)
        self._spans = spans(self.schema, part)
        self._places, self.sampled_of = _places(self._spans, sampled, chance)
        self._sketch = _Sketch(self._spans, chance)
        self._spectral = _few(self._spans, 2 * sampled, chance)
        self._right = _rights(start, part, chance)
        self.blocks: NDArray[np.int64] = _blocks(modules)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each layer begins in a sample, int64 ``[layers]``."""
        return np.cumsum([0, *self.sampled_of[:-1]], dtype=np.int64)

    @property
    def size(self) -> int:
        """How many coordinates an update has."""
        return self._spans[-1][1]

    def imprint(self, delta: Flat, examples: int, known: NDArray[np.float64] | None = None) -> Imprint:
        """Return what is kept of an update.

        Args:
            delta: Finite flat float32 change of the trained factors in schema order.
            examples: What the site says it trained on, at least 1.
            known: The energy of each layer, if it was taken before; of no use where both factors are trained.

        Raises:
            AdapterError: The vector does not fit the schema.
        """
        check_flat(delta, self.schema, self._part)
        if self._part == "both":
            return self._kept(self._sketched(delta), examples)
        return self._kept(delta, examples, known)

    def moves(self, adapters: Sequence[Adapter]) -> list[Flat]:
        """Return what rounds did to the adapter, as the samples of updates that did it, float32 ``[places]`` each.

        Args:
            adapters: What one round after the other ended with, the latest last; A may have been refreshed.

        Raises:
            AdapterError: They are not of this frame's schema.
        """
        turned: list[Flat] = []
        ends: list[Flat] = []
        for place, adapter in enumerate(adapters):
            if self._part == "B" and adapter.a is self._start.a:  # its rows are orthonormal: A R is 1
                ends.append(adapter.b[self._places])
                continue
            if not turned or adapter.a is not adapters[place - 1].a:
                turned = self._turned(adapter.a)
            ends.append(self._sampled(adapter.b, turned))
        return [after - before for before, after in pairwise(ends)]

    def _turned(self, a: Flat) -> list[Flat]:
        """Return ``A R`` of every layer, R its right-hand matrix, float32 ``[rank, rank]`` each."""
        views = self.schema.views(a, "A")
        return [_wide(views[m.a.name]) @ right for m, right in zip(self.schema.modules, self._right, strict=True)]

    def _sampled(self, b: Flat, turned: Sequence[Flat]) -> Flat:
        """Return some coordinates of ``B A R``; of cores, of what stands between the frozen columns."""
        views = self.schema.views(b, "B")
        columns = orthonormal_b(self.schema) if self._part == "core" else None
        kept = []
        stops = np.cumsum(self.sampled_of)[:-1]
        for layer, places in enumerate(np.split(self._places, stops)):
            module, right = self.schema.modules[layer], turned[layer]
            left = _matrix(views[module.b.name])
            left = columns[layer].T @ left if columns else left
            rows, at = np.divmod(places - self._spans[layer][0], right.shape[1])
            kept.append(np.einsum("pr,pr->p", left[rows], right.T[at]))
        return np.concatenate(kept)

    def _sketched(self, delta: Flat) -> Flat:
        """Return ``((B + dB)(A + dA) - B A) R`` of every layer, R its right-hand matrix."""
        change, start, schema = split(self.schema, delta), self._start, self.schema
        views = [schema.views(flat, "A") for flat in (start.a, change.a)]
        lower = [schema.views(flat, "B") for flat in (start.b, change.b)]
        flat = np.empty(self.size, np.float32)
        for module, right, (begin, stop) in zip(schema.modules, self._right, self._spans, strict=True):
            a, da = (_wide(view[module.a.name]) @ right for view in views)
            b, db = (_matrix(view[module.b.name]) for view in lower)
            flat[begin:stop] = (db @ (a + da) + b @ da).reshape(-1)
        return flat

    def _kept(self, flat: Flat, examples: int, known: NDArray[np.float64] | None = None) -> Imprint:
        top, rank = self._spectrum(flat)
        sample = flat[self._places] if len(self._places) < self.size else flat.copy()
        found = energies(flat, self._spans) if known is None else known
        return Imprint(examples, found, sample, self._sketch.of(flat), top, rank)

    def _spectrum(self, flat: Flat) -> tuple[float, float]:
        tops, ranks, weights = [], [], []
        for layer in self._spectral:
            begin, stop = self._spans[layer]
            own = flat[begin:stop]
            largest = float(max(own.max(), -own.min()))
            if not largest > 0:
                continue
            # By the largest first: the square of a tiny number is 0 in float32.
            matrix = (own / np.float32(largest)).reshape(-1, self.schema.modules[layer].rank)
            shares = np.linalg.eigvalsh((matrix.T @ matrix).astype(np.float64)).clip(0)
            energy = largest * largest * float(shares.sum())
            shares = shares / shares.sum()
            entropy = -float(np.sum(shares * np.log(np.where(shares > 0, shares, 1.0))))
            tops.append(float(shares[-1]))
            ranks.append(math.exp(entropy) / len(shares))
            weights.append(energy)
        if not weights:
            return math.nan, math.nan
        return float(np.average(tops, weights=weights)), float(np.average(ranks, weights=weights))


class _Sketch:
    """A random projection to :data:`BUCKETS` numbers: runs of so many coordinates, each with a random sign, added up.

    Args:
        spans: Where each layer begins and stops; no run crosses from one into the next.
        chance: Of the signs.
    """

    def __init__(self, spans: Sequence[tuple[int, int]], chance: np.random.Generator) -> None:
        every = max(1, spans[-1][1] // PROJECTED)
        begins, signs = [], []
        self._rests: list[tuple[int, int, np.float32]] = []
        for begin, stop in spans:
            drawn = chance.choice(np.array([-1.0, 1.0], np.float32), math.ceil((stop - begin) / BUCKETS))
            whole = (stop - begin) // BUCKETS
            begins.append(begin + BUCKETS * np.arange(0, whole, every))
            signs.append(drawn[:whole:every])
            if begin + BUCKETS * whole < stop:
                self._rests.append((begin + BUCKETS * whole, stop, drawn[whole]))
        self._begins, self._signs = np.concatenate(begins), np.concatenate(signs)

    def of(self, flat: Flat) -> NDArray[np.float64]:
        """Return the projection, float64 ``[BUCKETS]``."""
        projection = np.zeros(BUCKETS)
        if len(self._begins):
            runs = np.lib.stride_tricks.sliding_window_view(flat, BUCKETS)[self._begins]
            projection += self._signs @ runs
        for begin, stop, sign in self._rests:
            projection[: stop - begin] += sign * flat[begin:stop]
        return projection


def spans(schema: AdapterSchema, part: Part) -> list[tuple[int, int]]:
    """Return where each layer's coordinates begin and stop: they lie as cores do, or else as B's numbers do."""
    return places_of(schema, "core" if part == "core" else "B")


def _places(
    spans: Sequence[tuple[int, int]], sampled: int, chance: np.random.Generator
) -> tuple[NDArray[np.int64], list[int]]:
    """Return sorted coordinates, of every layer its share, and how many each layer has."""
    total = spans[-1][1]
    share = min(1.0, sampled / total)
    chosen = []
    for begin, stop in spans:
        count = max(1, round(share * (stop - begin)))
        chosen.append(begin + np.sort(chance.choice(stop - begin, count, replace=False)))
    return np.concatenate(chosen).astype(np.int64), [len(one) for one in chosen]


def _few(spans: Sequence[tuple[int, int]], most: int, chance: np.random.Generator) -> list[int]:
    """Return layers in random order until they hold more than ``most`` numbers, at least one; then sorted."""
    chosen: list[int] = []
    held = 0
    for layer in chance.permutation(len(spans)).tolist():
        held += spans[layer][1] - spans[layer][0]
        if chosen and held > most:
            break
        chosen.append(layer)
    return sorted(chosen)


def unit(sample: Flat) -> Flat:
    """Return a sample as a unit vector, float32 ``[places]``; zeros stay zeros."""
    # By the largest first: the square of a tiny number is 0 in float32.
    scaled = sample / (np.float32(np.abs(sample).max(initial=0.0)) or np.float32(1))
    return np.asarray(scaled / (np.linalg.norm(scaled) or np.float32(1)))


def _rights(start: Adapter, part: Part, chance: np.random.Generator) -> list[NDArray[np.float32]]:
    """Return what the products of each layer are multiplied by, float32 ``[columns, rank]``."""
    modules = start.schema.modules
    if part != "both":
        views = start.schema.views(start.a, "A")
        return [_wide(views[module.a.name]).T for module in modules]
    drawn = [chance.standard_normal((module.columns, module.rank), np.float32) for module in modules]
    return [one / np.float32(math.sqrt(one.shape[1])) for one in drawn]


def _blocks(modules: Sequence[LoraModule]) -> NDArray[np.int64]:
    """Return 0, 1 or 2 for each layer: early, middle or late; by thirds where names do not say it."""
    known = [_PREFIXES.get(module.name.split(".")[0]) for module in modules]
    return np.array([3 * i // len(known) if k is None else k for i, k in enumerate(known)], np.int64)


def _matrix(b: Flat) -> Flat:
    return b.reshape(b.shape[0], -1)


def _wide(a: Flat) -> Flat:
    return a.reshape(a.shape[0], -1)


__all__ = ["BLOCKS", "BUCKETS", "SAMPLED", "Frame", "Imprint", "Part", "spans", "unit"]
