"""Judging a round: which of the updates that admission let in are averaged, and which of them whole.

In order, each among those that the one before has left:

1. **Empty**: an update that changes nothing is no work.
2. **Copies**: updates seal what only their site has, so two that are the same were made by one hand, and one that is
   the same as what an earlier round did was made of that round. Nobody can copy an honest update: they are sealed.
3. **Size**: how large an update may be follows from the others: a multiple of their median, further where they differ
   more among themselves. Somewhat larger ones are cut down to it, much larger ones rejected. A small update is honest.
4. **Anomaly**: what the detector finds (:mod:`security.detector`), where there is one.

**What can not be judged is not rejected.** A round of fewer than four updates has no middle to be far from. And where
the detector finds half of a round strange, it is the detector that is wrong: it was calibrated on drawings that are
unlike these sites'. Then no finding of the detector's stands, and the judgement says so; what a run does about that,
its settings say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from common.quantise import Flat
from security.admission import Check
from security.conformal import DetectorError
from security.detector import FEWEST_SITES, Detector
from security.features import Frame, Imprint, NoiseModel, RoundFeatures, features_of, unit

COPY = 1 - 1e-4
"""Cosine from which on two updates are one. Honest ones of kindred sites reach 0.9; int8 rounding costs 1e-5."""

TWICE = 2.0
"""How much larger than the median an update may be at the least, however alike the others are."""

SPREADS = 5.0
"""How many of the others' own spreads (of logarithms of norms) it may be larger."""

FAR = 3.0
"""How many times the limit an update may be and still be cut down."""

_MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True)
class Finding:
    """What is done with one update.

    Attributes:
        site: Whose.
        check: Which check decided: ``ADMITTED``, ``SIZE``, ``COPY`` or ``ANOMALY``.
        words: Why, as a sentence without a full stop; empty when nothing is to be said.
        scale: What the update is multiplied by: 1, less when it is cut down, 0 when it is rejected.
        p_value: The detector's; NaN where it said nothing.
        score: How strange it finds the update, in its own measure; NaN likewise.
    """

    site: str
    check: Check = Check.ADMITTED
    words: str = ""
    scale: float = 1.0
    p_value: float = math.nan
    score: float = math.nan

    @property
    def rejected(self) -> bool:
        """Whether nothing of the update is averaged."""
        return self.scale == 0.0

    @property
    def outcome(self) -> str:
        """``admitted``, ``clipped`` or ``rejected``."""
        return "rejected" if self.rejected else "admitted" if self.scale == 1.0 else "clipped"


@dataclass(frozen=True)
class Judgement:
    """What is done with all updates of a round.

    Attributes:
        findings: By site.
        unsure: Why the detector did not judge; empty when it did.
    """

    findings: Mapping[str, Finding]
    unsure: str
    _take: Callable[[], RoundFeatures | None] = field(repr=False, compare=False)

    @cached_property
    def accepted(self) -> RoundFeatures | None:
        """Features of the updates that were neither rejected nor cut down; None when there are too few.

        They are taken when they are asked for: to learn from them can wait until the round is closed.
        """
        return self._take()

    def without(self, sites: Collection[str]) -> Judgement:
        """Return the judgement with some sites' updates no longer among the accepted."""
        return replace(self, _take=lambda: self.accepted and self.accepted.without(sites))


@dataclass(frozen=True)
class Measure:
    """What a round is judged by.

    Attributes:
        detector: It has learned; None where there is nothing that it could have learned from.
        false_rejections: The share of honest updates that each of the detector's two tests may reject.
        noise: What honest updates carry in a private run.
    """

    detector: Detector | None
    false_rejections: float
    noise: NoiseModel | None = None


def judge(imprints: Mapping[str, Imprint], frame: Frame, past: Sequence[Flat], by: Measure) -> Judgement:
    """Return what is done with the updates of a round.

    Args:
        imprints: One for each site, made by ``frame``.
        frame: The round's.
        past: What earlier rounds did to the adapter, in this frame, the latest last.
        by: What they are judged by.
    """
    found = {site: Finding(site) for site in imprints}
    found |= _empty(imprints)
    found |= _copies(_left(imprints, found), past)
    found |= _large(_left(imprints, found))
    left = _left(imprints, found)
    features = features_of(left, frame, past, by.noise) if len(left) >= FEWEST_SITES else None
    strange, unsure = _strange(left, frame, past, by, features)
    for site, finding in strange.items():  # who is cut down and not strange stays cut down
        found[site] = finding if finding.rejected or found[site].scale == 1.0 else found[site]

    def accepted() -> RoundFeatures | None:
        whole = {site: imprint for site, imprint in imprints.items() if found[site].scale == 1.0}
        if whole.keys() == left.keys():
            return features
        return features_of(whole, frame, past, by.noise) if len(whole) >= FEWEST_SITES else None

    return Judgement({site: found[site] for site in sorted(found)}, unsure, accepted)


def _left(imprints: Mapping[str, Imprint], found: Mapping[str, Finding]) -> dict[str, Imprint]:
    return {site: imprint for site, imprint in imprints.items() if not found[site].rejected}


def _empty(imprints: Mapping[str, Imprint]) -> dict[str, Finding]:
    words = "the update of {} changes nothing"
    return {
        site: Finding(site, Check.COPY, words.format(site), 0.0)
        for site, imprint in imprints.items()
        if not imprint.energies.any()
    }


def _copies(imprints: Mapping[str, Imprint], past: Sequence[Flat]) -> dict[str, Finding]:
    if not imprints:
        return {}
    found: dict[str, Finding] = {}
    units = np.stack([imprint.unit for imprint in imprints.values()])
    others = units @ units.T > COPY
    np.fill_diagonal(others, val=False)
    earlier = units @ np.stack([unit(sample) for sample in past]).T > COPY if past else np.zeros((len(units), 0), bool)
    for place, site in enumerate(imprints):
        if others[place].any():
            found[site] = Finding(site, Check.COPY, f"the update of {site} is a copy of another's", 0.0)
        elif earlier[place].any():
            found[site] = Finding(site, Check.COPY, f"the update of {site} is what an earlier round did", 0.0)
    return found


def _large(imprints: Mapping[str, Imprint]) -> dict[str, Finding]:
    if len(imprints) < FEWEST_SITES:
        return {}
    norms = {site: math.sqrt(float(imprint.energies.sum())) for site, imprint in imprints.items()}
    logs = np.log(list(norms.values()))
    middle = float(np.median(logs))
    spread = _MAD_TO_DEVIATION * float(np.median(np.abs(logs - middle)))
    limit = math.exp(middle + max(math.log(TWICE), SPREADS * spread))
    found: dict[str, Finding] = {}
    for site, norm in norms.items():
        times = f"the update of {site} is {norm / math.exp(middle):.1f} times as large as the others are"
        if norm > FAR * limit:
            found[site] = Finding(site, Check.SIZE, times, 0.0)
        elif norm > limit:
            scale = limit / norm
            found[site] = Finding(site, Check.SIZE, f"{times}, and was cut down to {scale:.0%}", scale)
    return found


def _strange(
    imprints: Mapping[str, Imprint], frame: Frame, past: Sequence[Flat], by: Measure, features: RoundFeatures | None
) -> tuple[dict[str, Finding], str]:
    """Return the detector's findings, or why there are none."""
    if by.detector is None:
        return {}, "there is no rehearsal of this run to know honest updates from"
    try:
        verdicts = by.detector.judge_round(
            imprints, frame, past, by.noise, alpha=by.false_rejections, features=features
        )
    except DetectorError as why:
        return {}, why.what
    strange = [verdict for verdict in verdicts if verdict.rejected]
    if 2 * len(strange) >= len(verdicts):
        return {}, f"it finds {len(strange)} of {len(verdicts)} strange, and half of a round cannot be"
    return {
        verdict.site: Finding(
            verdict.site,
            Check.ANOMALY if verdict.rejected else Check.ADMITTED,
            verdict.words() if verdict.rejected else "",
            0.0 if verdict.rejected else 1.0,
            min(verdict.p_value, verdict.backward),
            verdict.score,
        )
        for verdict in verdicts
    }, ""
