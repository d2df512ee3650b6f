"""A round's features, from the imprints of its updates."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from common.quantise import Flat
from security.conformal import DetectorError
from security.features.catalogue import FEATURES
from security.features.imprint import BLOCKS, Frame, Imprint, unit

Array = NDArray[np.float64]
_Real = TypeVar("_Real", np.float32, np.float64)

RECENT = 3
"""Earlier rounds whose direction is remembered."""

_AT_ONCE = 8192
"""Coordinates whose medians are taken at a time."""

_DIGITS = 6
_MAD_TO_DEVIATION = 1.4826
_FURTHEST = 1e6


@dataclass(frozen=True)
class NoiseModel:
    """The noise that a private run prescribes, as it shows in an honest update.

    Where each of d numbers carries independent noise of deviation s, the squared norm over s^2 follows the chi-square
    law of d degrees (the norm's relative spread is ``1 / sqrt(2 d)``), and the cosine of two updates has mean 0 and
    variance ``1 / d``. Both hold exactly where the site's optimiser is linear in the noise; where it is not (AdamW),
    ``deviation`` is to be measured on simulated updates, and calibration takes care of the rest.

    Attributes:
        deviation: Standard deviation of the noise in each number of an update.
        size: How many numbers carry it.

    Raises:
        DetectorError: The deviation is not positive and finite, or there is no number.
    """

    deviation: float
    size: int

    def __post_init__(self) -> None:
        if not 0 < self.deviation < math.inf or self.size < 1:
            raise DetectorError(
                "this is no noise", got=(self.deviation, self.size), expected="a positive deviation of some numbers"
            )


@dataclass(frozen=True, eq=False)
class RoundFeatures:
    """The features of all updates of a round.

    Attributes:
        sites: Whose, by name.
        values: As they are measured, float64 ``[sites, features]``; NaN where a feature has no meaning (a direction of
            an update that is all zeros).
        standardised: The same as distances from the round's median in the round's own spread (median absolute
            deviation, with a floor), or from 0 in floors where 0 has a meaning of its own; float64
            ``[sites, features]``, NaN as above.
    """

    sites: tuple[str, ...]
    values: Array = field(repr=False)
    standardised: Array = field(repr=False)

    def without(self, sites: Collection[str]) -> RoundFeatures | None:
        """Return what is left without some sites; None when nothing is."""
        left = [place for place, site in enumerate(self.sites) if site not in sites]
        if not left:
            return None
        return RoundFeatures(tuple(self.sites[p] for p in left), self.values[left], self.standardised[left])


def features_of(
    imprints: Mapping[str, Imprint], frame: Frame, past: Sequence[Flat] = (), noise: NoiseModel | None = None
) -> RoundFeatures:
    """Return the features of a round.

    Guarantees: the order of the mapping does not show, and all updates (and the noise) times a constant have the same
    features, up to float32 rounding.

    Args:
        imprints: One for each site, made by ``frame``.
        frame: The round's.
        past: What earlier rounds did to the adapter (:meth:`Frame.moves`), in this frame, the latest last.
        noise: What honest updates carry when the run is private.

    Raises:
        DetectorError: There is no update.
    """
    if not imprints:
        raise DetectorError("there is no update to take features of", got="0 updates", expected="at least 1")
    sites = tuple(sorted(imprints))
    own = [imprints[site] for site in sites]
    units = np.stack([imprint.unit for imprint in own])
    cosines = (units @ units.T).astype(np.float64).clip(-1, 1)
    measured = (
        _sizes(own, frame) | _directions(units, frame) | _pairs(units, cosines) | _pasts(units, past)
        | _shapes(units, own) | _projections(own) | _noises(units, cosines, own, noise)
    )  # fmt: skip
    values = np.stack([measured[feature.name] for feature in FEATURES], 1)
    return RoundFeatures(sites, values, standardise(values))


def standardise(values: Array) -> Array:
    """Return features as distances from the round's median in its spread, float64 ``[sites, features]``.

    Args:
        values: As measured, float64 ``[sites, features]``.
    """
    out = np.full_like(values, np.nan)
    for place, feature in enumerate(FEATURES):
        column = values[:, place]
        known = column[np.isfinite(column)]
        if not known.size:
            continue
        middle = 0.0 if feature.absolute else float(np.median(known))
        spread = 0.0 if feature.absolute else _MAD_TO_DEVIATION * float(np.median(np.abs(known - middle)))
        out[:, place] = (column - middle) / max(spread, feature.floor)
    return out.clip(-_FURTHEST, _FURTHEST)


def _sizes(own: Sequence[Imprint], frame: Frame) -> dict[str, Array]:
    energies = np.stack([imprint.energies for imprint in own])
    totals = energies.sum(1)
    norms = np.sqrt(totals)
    usual = float(np.median(norms)) or float(norms.max())
    relative = np.log(np.clip(norms / usual, 1e-9, 1e9)) if usual > 0 else np.zeros(len(own))
    shares = _over(energies, totals[:, None])
    entropy = -np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=1)
    measured = {
        "size.whole": relative,
        "size.evenness": entropy / max(math.log(energies.shape[1]), 1e-9),
        "size.profile": _profile(shares),
        "size.claimed": relative - np.log([float(imprint.examples) for imprint in own]),
    }
    for place, block in enumerate(BLOCKS):
        here = frame.blocks == place
        share = shares[:, here].sum(1) if here.any() else np.full(len(own), np.nan)
        measured[f"size.{block}"] = np.log(np.maximum(share, 1e-9))
    return measured


def _profile(shares: Array) -> Array:
    """Return how far each layer's logarithm is from the others' median, averaged over layers."""
    logs = 0.5 * np.log(np.maximum(shares, 1e-12))
    known = np.flatnonzero(np.isfinite(logs).all(1))
    out = np.full(len(logs), np.nan)
    if len(known) > 1:
        out[known] = np.abs(logs[known] - others_median(logs[known])).mean(1)
    return out


def _directions(units: Flat, frame: Frame) -> dict[str, Array]:
    layers = len(frame.sampled_of)
    dots, middles, owns = (np.zeros((len(units), layers)) for _ in range(3))
    agreed, counted, strong, strength = (np.zeros(len(units)) for _ in range(4))
    for first, last, begin, stop in _runs(frame.sampled_of):
        own = units[:, begin:stop]
        middle = others_median(own)
        at = frame.starts[first:last] - begin
        along, weight = own * middle, np.abs(middle)
        same = along > 0
        dots[:, first:last] = np.add.reduceat(along, at, axis=1)
        middles[:, first:last] = np.add.reduceat(middle * middle, at, axis=1)
        owns[:, first:last] = np.add.reduceat(own * own, at, axis=1)
        agreed += _counts(same)
        counted += _counts(weight > 0)
        strong += np.einsum("ij,ij->i", weight, same)
        strength += weight.sum(1)
    present = owns.sum(1) > 0
    measured = {
        "direction.whole": _cosine(dots, middles, owns, np.ones(layers, bool)),
        "direction.against": _where(present & (counted > 0), (dots < 0).mean(1)),
        "direction.signs": _where(present, _over(agreed, counted)),
        "direction.strong_signs": _where(present, _over(strong, strength)),
    }
    for place, block in enumerate(BLOCKS):
        measured[f"direction.{block}"] = _cosine(dots, middles, owns, frame.blocks == place)
    return measured


def others_median(own: NDArray[_Real]) -> NDArray[_Real]:
    """Return, for each row, the coordinate median of the other rows, ``[rows, columns]``, of the same dtype.

    One sort serves all rows: taking one value out of a sorted column moves its median by at most one place.

    Args:
        own: float32 or float64 ``[rows, columns]``; a single row has no others, and gets zeros.
    """
    count = len(own)
    if count < 2:
        return np.zeros_like(own)
    ordered = np.sort(np.ascontiguousarray(own.T), axis=1).T
    half = count // 2
    if count % 2 == 0:
        return _either(own <= ordered[half - 1], ordered[half], ordered[half - 1])
    low, middle, high = ordered[half - 1], ordered[half], ordered[half + 1]
    first, second = _either(own <= low, middle, low), _either(own >= high, middle, high)
    return np.asarray((first + second) / own.dtype.type(2))


def _either(first: NDArray[np.bool_], one: NDArray[_Real], other: NDArray[_Real]) -> NDArray[_Real]:
    """Return ``np.where(first, one, other)`` in a tenth of its time: it branches at each number, which nobody foresees.

    Args:
        first: bool ``[rows, columns]``.
        one: float32 or float64 ``[columns]``.
        other: Of the same dtype and shape.
    """
    bits = np.dtype(f"u{one.itemsize}")
    yes, no = np.ascontiguousarray(one).view(bits), np.ascontiguousarray(other).view(bits)
    return np.asarray((no ^ (yes ^ no) * first).view(one.dtype))


def _pairs(units: Flat, cosines: Array) -> dict[str, Array]:
    names = ("pairs.median", "pairs.highest", "pairs.lowest", "pairs.spread", "pairs.copy")
    out = {name: np.full(len(units), np.nan) for name in names}
    present = np.flatnonzero(_present(units))
    if len(present) < 2:
        return out
    others = _apart(cosines[np.ix_(present, present)])
    middle, highest = np.median(others, axis=1), others.max(1)
    out["pairs.median"][present] = middle
    out["pairs.highest"][present] = highest
    out["pairs.lowest"][present] = others.min(1)
    out["pairs.spread"][present] = np.median(np.abs(others - middle[:, None]), axis=1)
    out["pairs.copy"][present] = _digits(highest)
    return out


def _apart(square: Array) -> Array:
    """Return each row without what stands on the diagonal, ``[rows, rows - 1]``."""
    return square[~np.eye(len(square), dtype=bool)].reshape(len(square), -1)


def _pasts(units: Flat, past: Sequence[Flat]) -> dict[str, Array]:
    names = ("past.last", "past.recent", "past.copy")
    before = np.stack([unit(sample) for sample in past[-RECENT:]]) if past else units[:0]
    before = before[_present(before)]
    if not len(before):
        return {name: np.full(len(units), np.nan) for name in names}
    cosines = (units @ before.T).astype(np.float64)
    recent = before.sum(0)
    recent /= max(float(np.linalg.norm(recent)), 1e-9)
    present = _present(units)
    return {
        "past.last": _where(present, cosines[:, -1]),
        "past.recent": _where(present, (units @ recent).astype(np.float64)),
        "past.copy": _where(present, _digits(cosines.max(1))),
    }


def _shapes(units: Flat, own: Sequence[Imprint]) -> dict[str, Array]:
    zeros, kurtosis, peak, balance = np.array([imprint.shape for imprint in own]).T
    present = _present(units)
    return {
        "shape.zeros": zeros,
        "shape.tails": _where(present, np.log(np.maximum(kurtosis, 1e-9))),
        "shape.peak": _where(present, peak),
        "shape.balance": _where(present, balance),
        "spectrum.top": np.array([imprint.top for imprint in own]),
        "spectrum.rank": np.array([imprint.rank for imprint in own]),
    }


def _projections(own: Sequence[Imprint]) -> dict[str, Array]:
    views = np.stack([imprint.projection for imprint in own])
    sizes = np.linalg.norm(views, axis=1)
    distance, direction = np.full(len(own), np.nan), np.full(len(own), np.nan)
    middles = others_median(views)
    usual = others_median(sizes[:, None])[:, 0]
    for row in range(len(own) if len(own) > 1 else 0):
        middle, away = middles[row], float(np.linalg.norm(views[row] - middles[row]))
        if usual[row] > 0:
            distance[row] = math.log(min(max(away / usual[row], 1e-9), 1e9))
        if (length := float(np.linalg.norm(middle)) * sizes[row]) > 0:
            direction[row] = float(views[row] @ middle) / length
    return {"projection.distance": distance, "projection.direction": direction}


def _noises(units: Flat, cosines: Array, own: Sequence[Imprint], noise: NoiseModel | None) -> dict[str, Array]:
    if noise is None:
        return {name: np.full(len(own), np.nan) for name in ("noise.size", "noise.pairs", "noise.tails")}
    places = units.shape[1]
    norms = np.sqrt([imprint.energies.sum() for imprint in own])
    relative = norms / (noise.deviation * math.sqrt(noise.size))
    tails = (np.array([imprint.shape.kurtosis for imprint in own]) - 3) / math.sqrt(24 / places)
    pairs = np.full(len(own), np.nan)
    if len(own) > 1:
        # Not the highest: a hostile update made from the honest ones is near to each of them, and would accuse them.
        pairs = np.median(np.abs(_apart(cosines)), axis=1) * math.sqrt(places)
    return {
        "noise.size": (relative - 1) * math.sqrt(2 * noise.size),
        "noise.pairs": _where(_present(units), pairs),
        "noise.tails": _where(_present(units), tails),
    }


def _counts(mask: NDArray[np.bool_]) -> Array:
    """Return how many are true in each row; row by row NumPy counts bits, along an axis it adds up."""
    return np.array([np.count_nonzero(row) for row in mask], np.float64)


def _present(units: Flat) -> NDArray[np.bool_]:
    """Return which rows are not all zeros."""
    return np.asarray(units.any(axis=1))


def _runs(counts: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Return runs of whole layers of about ``_AT_ONCE`` places: first and last layer, first and last place."""
    runs, first, begin, stop = [], 0, 0, 0
    for layer, count in enumerate(counts):
        stop += count
        if stop - begin >= _AT_ONCE or layer == len(counts) - 1:
            runs.append((first, layer + 1, begin, stop))
            first, begin = layer + 1, stop
    return runs


def _cosine(dots: Array, middles: Array, owns: Array, here: NDArray[np.bool_]) -> Array:
    length = np.sqrt(middles[:, here].sum(1) * owns[:, here].sum(1))
    return _over(dots[:, here].sum(1), length)


def _over(above: Array, below: Array) -> Array:
    """Return a quotient, NaN where the divisor is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(below > 0, above / below, np.nan))


def _where(known: NDArray[np.bool_], values: Array) -> Array:
    return np.asarray(np.where(known, values, np.nan))


def _digits(cosines: Array) -> Array:
    """Return in how many digits more than one cosines are 1; 0 up to 0.9, which kindred sites may reach."""
    return np.asarray(np.maximum(0.0, -np.log10(np.maximum(1 - cosines, 10.0**-_DIGITS)) - 1))
