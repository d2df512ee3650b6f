"""The anomaly detector: which updates of a round are stranger than honest ones are, how sure that is, and why.

It learns from rows of features (:mod:`security.features`) of honest rounds: rounds that the server simulated with the
run's own settings on public drawings, and rounds whose updates it accepted. Half of the rounds teach it; the other
half, which it never learns from, calibrate it (:mod:`security.conformal`). Which half a round is in follows from its
number, so that a detector that goes on learning never learns from what it is calibrated by.

**Two calibrations, and the milder counts.** Simulated drawings are not the sites' own, so the simulation may find an
honest site strange; accepted history is the sites' own, but whoever was once accepted is in it, and who was rejected is
not. An update's p-value is the larger of the two. If either calibration is exchangeable with an honest update, the
larger p-value keeps the promise too.

**A second test, of one side.** An update that goes against what the last rounds did is no stranger to an autoencoder
than one that goes with it, where honest updates are small next to their noise. So the cosine to the last three rounds
is tested by itself, and only low ones count: held against the same simulated rounds, all of them, since nothing is
learned. It has a false-rejection rate of its own, so an honest update is rejected by either test at no more than twice
the rate asked for.

PyOD (Zhao, Nasrullah and Li, JMLR 2019) gives the scores. Its thresholds, which reject a fixed share of honest rows by
construction, are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray
from pyod.models.base import BaseDetector
from pyod.models.copod import COPOD
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.lof import LOF
from pyod.models.pca import PCA
from torch import Tensor, from_numpy

from common.quantise import Flat
from common.settings import DetectorName
from security.autoencoder import Autoencoders
from security.conformal import DetectorError, Promise, check_rate, least_rate, p_values, rejected, worst_rate
from security.features import FEATURES, Frame, Imprint, NoiseModel, RoundFeatures, features_of
from security.tensor_file import read_tensors, write_tensors

Array: TypeAlias = NDArray[np.float64]

Kind = DetectorName
"""The detectors that can be chosen."""

FALSE_REJECTIONS = 0.01
"""The share of honest updates that may be rejected, unless it is said otherwise."""

FEWEST_SITES = 4
"""A round of fewer updates has no middle that one of them could be far from."""

FEWEST_ROWS = 16
"""Rows that a detector must learn from, and rows that must calibrate it."""

REASONS = 3

_LEAST_SPREAD = 0.25
_FORMAT = 2
_FORWARD = next(place for place, feature in enumerate(FEATURES) if feature.name == "past.recent")


@dataclass(frozen=True, eq=False)
class Rows:
    """Features of honest updates.

    Attributes:
        values: Standardised features, float64 ``[rows, features]``: those of
            :attr:`~security.features.RoundFeatures.standardised`.
        rounds: The round of each row, int64 ``[rows]``. Rows of even rounds teach, those of odd ones calibrate; so a
            round keeps its number for as long as its rows are used.

    Raises:
        DetectorError: The shapes do not fit, or a number is infinite.
    """

    values: Array = field(repr=False)
    rounds: NDArray[np.int64] = field(repr=False)

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.rounds), len(FEATURES)):
            raise DetectorError(
                "these are no rows of features", got=self.values.shape, expected=(len(self.rounds), len(FEATURES))
            )
        if np.isinf(self.values).any():
            raise DetectorError("a feature is infinite", expected="numbers, and NaN where a feature has no meaning")

    @classmethod
    def of(cls, rounds: dict[int, RoundFeatures]) -> Rows:
        """Return the rows of rounds, by their numbers."""
        if not rounds:
            return cls(np.empty((0, len(FEATURES))), np.empty(0, np.int64))
        counts = [len(one.sites) for one in rounds.values()]
        return cls(
            np.concatenate([one.standardised for one in rounds.values()]), np.repeat([*rounds], counts).astype(np.int64)
        )

    @property
    def teaching(self) -> Array:
        """The rows to learn from."""
        return np.asarray(self.values[self.rounds % 2 == 0])

    @property
    def calibrating(self) -> Array:
        """The rows that are never learned from."""
        return np.asarray(self.values[self.rounds % 2 == 1])


@dataclass(frozen=True)
class Reason:
    """What is unusual about an update.

    Attributes:
        feature: The feature's name.
        words: To go on with after "the update of X".
        spreads: How far it is from the round's middle, in the round's spread; negative below.
    """

    feature: str
    words: str
    spreads: float


@dataclass(frozen=True)
class Verdict:
    """What the detector finds of one update.

    Attributes:
        site: Whose.
        score: How strange; comparable within one detector alone.
        p_value: How often an honest update looks at least so strange.
        backward: How often an honest update goes at least so much against the last rounds; 1 when there are none.
        rejected: Whether either is too rare.
        reasons: The features that drove the score, the strongest first; of who is rejected alone.
    """

    site: str
    score: float
    p_value: float
    backward: float
    rejected: bool
    reasons: tuple[Reason, ...]

    def words(self) -> str:
        """Return the finding as a sentence without a full stop."""
        why = "; it ".join(reason.words for reason in self.reasons) or "is like the others"
        return f"the update of {self.site} {why}"


class _Model(Protocol):
    def decision_function(self, rows: Array) -> Array: ...


@dataclass(frozen=True, eq=False)
class Detector:
    """A detector that has learned. It does not change: learning on makes another.

    Guarantees: the same rows, seed and predecessor give the same detector (on one machine), and
    :meth:`from_bytes` of :meth:`to_bytes` judges as this one does.
    """

    kind: Kind
    seed: int
    _middle: Array = field(repr=False)
    _spread: Array = field(repr=False)
    _simulated: Array = field(repr=False)
    _accepted: Array = field(repr=False)
    _forward: Array = field(repr=False)
    _learned: dict[str, Tensor] = field(repr=False)

    @classmethod
    def learn(
        cls, simulated: Rows, accepted: Rows | None = None, *, kind: Kind = "autoencoder", seed: int = 0,
        before: Detector | None = None,
    ) -> Detector:  # fmt: skip
        """Return a detector that has learned what honest updates look like.

        Args:
            simulated: Of rounds that the server simulated.
            accepted: Of earlier rounds of the federation: updates that were accepted.
            kind: Which of PyOD's detectors.
            seed: Of all chance.
            before: An autoencoder to go on from; of no effect for the other kinds, which learn anew in no time.

        Raises:
            DetectorError: The kind is unknown, or there are too few rows to learn from or to calibrate by.
        """
        if kind not in get_args(Kind):
            raise DetectorError("there is no such detector", got=kind, expected=" or ".join(get_args(Kind)))
        accepted = accepted or Rows.of({})
        teaching = _tamed(np.concatenate([simulated.teaching, accepted.teaching]))
        fewest = min(len(teaching), len(simulated.calibrating))
        if fewest < FEWEST_ROWS:
            raise DetectorError(
                "there are too few honest rows",
                got=f"{len(teaching)} to learn from and {len(simulated.calibrating)} to calibrate by",
                expected=f"at least {FEWEST_ROWS} of each",
                advice="Simulate more rounds: those with even numbers teach, those with odd ones calibrate.",
            )
        middle, spread = _middle_and_spread(teaching)
        taught = _scaled(teaching, middle, spread)
        if kind == "autoencoder":
            weights = before._learned if before is not None and before.kind == kind else None
            learned = Autoencoders.learn(taught, seed, weights).weights()
        else:
            learned = {"rows": from_numpy(taught)}
        nothing = np.empty(0)
        bare = cls(kind, seed, middle, spread, nothing, nothing, nothing, learned)
        forward = simulated.values[:, _FORWARD]
        ready = replace(
            bare,
            _simulated=bare.scores(simulated.calibrating),
            _accepted=bare.scores(accepted.calibrating),
            _forward=forward[~np.isnan(forward)],
        )
        vars(ready)["_model"] = bare._model  # made already, to score what calibrates it
        return ready

    @property
    def calibrated(self) -> int:
        """How many simulated rows calibrate it."""
        return len(self._simulated)

    def least_rate(self, sites: int = 1, promise: Promise = "update") -> float:
        """Return the least false-rejection rate that can be asked of it; see :func:`security.conformal.least_rate`."""
        return least_rate(self.calibrated, promise, sites)

    def worst_rate(self, alpha: float = FALSE_REJECTIONS) -> float:
        """Return what the rate may be by bad luck of the calibration; see :func:`security.conformal.worst_rate`."""
        return worst_rate(self.calibrated, alpha)

    def scores(self, rows: Array) -> Array:
        """Return how strange rows of standardised features are, float64 ``[rows]``; higher is stranger."""
        return self._scored(_scaled(_tamed(rows), self._middle, self._spread))

    def judge(
        self, features: RoundFeatures, alpha: float = FALSE_REJECTIONS, promise: Promise = "update"
    ) -> tuple[Verdict, ...]:
        """Return a verdict on every update of a round, by site.

        Args:
            features: The round's.
            alpha: The false-rejection rate; what that promises is said in :mod:`security.conformal`.
            promise: Of what it is the rate.

        Raises:
            DetectorError: The calibration cannot resolve alpha, or the round has fewer than :data:`FEWEST_SITES`.
        """
        count = len(features.sites)
        if count < FEWEST_SITES:
            raise DetectorError(
                "a round of so few updates has no middle to be far from", got=count, expected=f"at least {FEWEST_SITES}"
            )
        check_rate(alpha, self.calibrated, promise, count)
        scores = self.scores(features.standardised)
        p = p_values(self._simulated, scores)
        if least_rate(len(self._accepted), promise, count) <= alpha:
            p = np.maximum(p, p_values(self._accepted, scores))
        backward = self._backward(features.standardised[:, _FORWARD])
        against = rejected(backward, alpha, promise)
        strange = np.flatnonzero(rejected(p, alpha, promise) | against).tolist()
        reasons = dict(zip(strange, self._reasons(features.standardised[strange], against[strange]), strict=True))
        return tuple(
            Verdict(site, float(scores[i]), float(p[i]), float(backward[i]), i in reasons, reasons.get(i, ()))
            for i, site in enumerate(features.sites)
        )

    def _backward(self, forward: Array) -> Array:
        """Return the p-values of going against the last rounds, float64 ``[sites]``."""
        p = np.ones(len(forward))
        known = ~np.isnan(forward)
        p[known] = p_values(-self._forward, -forward[known])
        return p

    def judge_round(
        self,
        imprints: Mapping[str, Imprint],
        frame: Frame,
        past: Sequence[Flat] = (),
        noise: NoiseModel | None = None,
        *,
        alpha: float = FALSE_REJECTIONS,
        promise: Promise = "update",
        features: RoundFeatures | None = None,
    ) -> tuple[Verdict, ...]:
        """Judge a round, then those found strange once more without the strangest, and so on until nobody is acquitted.

        Hostile updates make honest ones look odd: who was copied looks like a copy, and medians move. So the stranger
        half of the rejected is taken out of the round, and the features of the other half are taken anew. Only who was
        rejected at first can be rejected in the end, so the promise is kept as :meth:`judge` keeps it.

        Args:
            imprints: One for each site.
            frame: The round's; see :func:`~security.features.features_of` for it and what follows.
            past: What earlier rounds did.
            noise: What honest updates carry when the run is private.
            alpha: The false-rejection rate.
            promise: Of what it is the rate.
            features: Of all these imprints, when they are known.

        Raises:
            DetectorError: As :meth:`judge`.
        """
        left = dict(imprints)
        found = {v.site: v for v in self.judge(features or features_of(left, frame, past, noise), alpha, promise)}
        suspects = [site for site, verdict in found.items() if verdict.rejected]
        while len(suspects) > 1:
            suspects.sort(key=lambda site: (found[site].score, site))
            suspects, strangest = suspects[: len(suspects) // 2], suspects[len(suspects) // 2 :]
            left = {site: imprint for site, imprint in left.items() if site not in strangest}
            if len(left) < FEWEST_SITES:
                break
            again = {v.site: v for v in self.judge(features_of(left, frame, past, noise), alpha, promise)}
            found |= {site: again[site] for site in suspects}
            suspects = [site for site in suspects if again[site].rejected]
        return tuple(found[site] for site in sorted(found))

    def to_bytes(self) -> bytes:
        """Return everything that judging takes, as one safetensors file with JSON in its header; nothing is pickled."""
        arrays = {
            "middle": self._middle, "spread": self._spread, "simulated": self._simulated, "accepted": self._accepted,
            "forward": self._forward,
        }  # fmt: skip
        tensors = {name: from_numpy(array.copy()) for name, array in arrays.items()}
        tensors |= {f"learned.{name}": tensor for name, tensor in self._learned.items()}
        return write_tensors(tensors, {"format": _FORMAT, "kind": self.kind, "seed": self.seed, "features": _NAMES})

    @classmethod
    def from_bytes(cls, data: bytes) -> Detector:
        """Return the detector that :meth:`to_bytes` wrote.

        Raises:
            DetectorError: A byte of it is not as it was written, or it was written for other features.
        """
        read = read_tensors(data)
        if read is None:
            raise DetectorError(
                "the detector's file is damaged",
                got=f"{len(data)} bytes",
                advice="It is of no use: let the detector learn again from simulated rounds.",
            )
        tensors, about = read
        if about.get("format") != _FORMAT or about.get("features") != _NAMES:
            raise DetectorError(
                "the detector was written for other features", advice="Let it learn again from simulated rounds."
            )
        arrays = {name: tensor.numpy() for name, tensor in tensors.items() if not name.startswith("learned.")}
        learned = {n.removeprefix("learned."): t for n, t in tensors.items() if n.startswith("learned.")}
        return cls(
            cast(Kind, about["kind"]), int(about["seed"]), arrays["middle"], arrays["spread"], arrays["simulated"],
            arrays["accepted"], arrays["forward"], learned,
        )  # fmt: skip

    @cached_property
    def _model(self) -> _Model:
        if self.kind == "autoencoder":
            return Autoencoders.restored(self._learned, len(FEATURES))
        rows = self._learned["rows"].numpy()
        return cast(_Model, _made(self.kind, self.seed, len(rows)).fit(rows))

    def _scored(self, rows: Array) -> Array:
        if not len(rows):
            return np.empty(0)
        if self.kind in ("ecod", "copod"):  # they rank rows among those they are scored with: each must be alone
            return np.array([float(self._model.decision_function(row[None])[0]) for row in rows])
        return np.asarray(self._model.decision_function(rows), np.float64)

    def _reasons(self, rows: Array, against: NDArray[np.bool_]) -> list[tuple[Reason, ...]]:
        """Return, for each update, the features that would make it strangest if each were all that is odd about it.

        Where an update goes against the last rounds, that comes first.

        Each is tried alone, the others in their middle: features that hang together would hide each other otherwise.
        """
        scaled = _scaled(_tamed(rows), self._middle, self._spread)
        count = len(FEATURES)
        trials = np.zeros((len(rows), count + 1, count))
        trials[:, range(count), range(count)] = scaled
        scores = self._scored(trials.reshape(-1, count)).reshape(len(rows), count + 1)
        rises = scores[:, :-1] - scores[:, -1:]
        rises[against, _FORWARD] = np.inf
        return [_strongest(*one) for one in zip(rows, scaled, rises, strict=True)]


_NAMES = [feature.name for feature in FEATURES]


def _strongest(row: Array, scaled: Array, rises: Array) -> tuple[Reason, ...]:
    strongest = [i for i in np.argsort(-rises, kind="stable")[:REASONS].tolist() if rises[i] > 0]
    return tuple(
        Reason(FEATURES[i].name, FEATURES[i].high if scaled[i] > 0 else FEATURES[i].low, float(row[i]))
        for i in strongest
    )


def _tamed(rows: Array) -> Array:
    """Return features with their long tails drawn in: linear near 0, logarithmic far away."""
    return np.asarray(np.arcsinh(rows))


def _middle_and_spread(rows: Array) -> tuple[Array, Array]:
    """Return median and spread of every feature; NaN and 1 where no row has it."""
    middle, spread = np.full(rows.shape[1], np.nan), np.ones(rows.shape[1])
    for place, column in enumerate(rows.T):
        known = column[~np.isnan(column)]
        if known.size:
            middle[place], spread[place] = np.median(known), max(float(known.std()), _LEAST_SPREAD)
    return middle, spread


def _scaled(rows: Array, middle: Array, spread: Array) -> Array:
    """Return rows around their middle. What has no meaning, now or in what was learned, is put into the middle."""
    return np.nan_to_num((rows - middle) / spread, nan=0.0)


def _made(kind: Kind, seed: int, rows: int) -> BaseDetector:
    neighbours = max(1, min(20, rows - 1))
    match kind:
        case "copod":
            return COPOD()
        case "ecod":
            return ECOD()
        case "iforest":
            return IForest(n_estimators=200, random_state=seed)
        case "knn":
            return KNN(n_neighbors=min(5, neighbours))
        case "lof":
            return LOF(n_neighbors=neighbours)
        case "pca":
            return PCA(n_components=0.9, svd_solver="full", random_state=seed)
        case _:
            raise DetectorError("there is no such detector", got=kind, expected=" or ".join(get_args(Kind)))
