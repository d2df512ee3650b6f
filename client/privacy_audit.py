"""An audit of private training by attack: canaries go through the real training, and somebody guesses which went in.

A canary is the gradient of a drawing that does not exist: a random direction in the space of the trained factors, at
right angles to all other canaries', as long as one clip or many. A fair coin decides whether it is planted. It is
sampled, clipped and noised by :func:`client.private_training.train_privately` itself, not by a copy. Each canary's
score is the inner product of what was released with its direction; :mod:`security.lower_bounds` turns the scores into
an epsilon that the run at least has. This is the attack that the proof of DP-SGD allows: it sees every step and chooses
the gradients (Nasr et al. 2021, arXiv 2101.04535). One run is enough, with many canaries in it (Steinke, Nasr and
Jagielski 2023, arXiv 2305.08846).

Two things are looked at: the *steps*, the sum of the noised means of all steps, which is all that the accountant takes
for known; and the *change* of the factors, which is what leaves the house. A leak past the noise shows in the second.

What an epsilon cannot show is read with next to no noise: then each step gives away whom it sampled and how much each
added (:func:`contributions`), and both can be held against what they should be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, chi2
from torch import Tensor

from client.dataset import TrainingSet
from client.private_training import Mechanism, train_privately
from client.training import TrainingResult
from common.adapter_schema import Adapter
from common.errors import PrivacyError
from common.models import Base, LoraFactors
from common.settings import LoraSettings, TrainingSettings
from security.lower_bounds import epsilon_by_guesses, epsilon_by_scores, guesses_to_make, right_guesses
from security.noise import NoiseSource

LONGEST = 100.0
"""Clips that the longest canary is long. Those of equal length would not show a clip by another canary's norm."""

_HARDLY = 1e-6
"""A noise multiplier that hides nothing."""

View = Literal["steps", "change"]


@dataclass(frozen=True)
class Subject:
    """What is audited: a training, but for its chance.

    Args:
        base: The base with LoRA attached to its U-Net.
        adapter: The factors to start from.
        data: Drawings that are trained on beside the canaries.
        lora: Which factors are trained.
        settings: Steps and learning rate.
        mechanism: Noise, clip and sampling.
    """

    base: Base
    adapter: Adapter
    data: TrainingSet
    lora: LoraSettings
    settings: TrainingSettings
    mechanism: Mechanism

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        return self.adapter.schema.numel(self.lora.trained)


@dataclass(frozen=True)
class Canaries:
    """Gradients of drawings that do not exist, and which of them go in.

    Args:
        directions: Unit vectors at right angles, float32 ``[m, d]``.
        lengths: How long each is, in clips, float32 ``[m]``; at least 1, so that each fills its clip.
        present: Which go in, ``[m]``.
    """

    directions: Tensor
    lengths: Tensor
    present: NDArray[np.bool_]

    def gradients(self, clip: float) -> Tensor:
        """Return the gradients of those that go in, float32 ``[n, d]``."""
        inside = torch.from_numpy(self.present)
        return self.directions[inside] * (self.lengths[inside] * clip)[:, None]

    def scores(self, release: Tensor) -> NDArray[np.float64]:
        """Return for each canary how far a release of shape ``(d,)`` goes in its direction, shape ``(m,)``."""
        scored: NDArray[np.float64] = (self.directions @ release.to(self.directions.dtype)).double().numpy()
        return scored


@dataclass(frozen=True)
class Finding:
    """What one view of one run shows.

    Attributes:
        view: What was looked at.
        guesses: Guesses made.
        right: Guesses that were right.
        by_guesses: Epsilon at least, by the guesses.
        by_scores: Epsilon at least, by the fit of a Gaussian.
    """

    view: View
    guesses: int
    right: int
    by_guesses: float
    by_scores: float


@dataclass(frozen=True)
class Audit:
    """What an audit shows.

    Attributes:
        claimed: The epsilon that was promised.
        findings: One a view.
        frozen_moved: Whether a factor that is not trained is no longer what it was.
    """

    claimed: float
    findings: tuple[Finding, ...]
    frozen_moved: bool

    @property
    def bound(self) -> float:
        """The largest lower bound of epsilon; all of them hold together at the confidence of the audit."""
        return max(max(one.by_guesses, one.by_scores) for one in self.findings)

    @property
    def refuted(self) -> bool:
        """Whether the claim cannot be true."""
        return self.frozen_moved or not self.bound <= self.claimed


def right_angles(count: int, size: int, seed: int) -> Tensor:
    """Return ``count`` random unit vectors at right angles to each other, float32 ``[count, size]``.

    Raises:
        PrivacyError: There are not so many directions.
    """
    if not 1 <= count <= size:
        raise PrivacyError("the space has too few directions for so many canaries", got=count, expected=f"1 to {size}")
    drawn = torch.randn(size, count, generator=torch.Generator().manual_seed(seed))
    made: Tensor = torch.linalg.qr(drawn).Q.T.contiguous()
    return made


def flip_coins(directions: Tensor, seed: int) -> Canaries:
    """Return canaries along some directions: a fair coin and a length of its own for each."""
    # Not the stream that seeded noise of the same seed takes.
    chance = np.random.default_rng([seed, 1])
    lengths = torch.from_numpy(LONGEST ** chance.random(len(directions))).float()
    return Canaries(directions, lengths, chance.random(len(directions)) < 0.5)


def audit_training(
    subject: Subject, canaries: Canaries, source: NoiseSource, claimed: float, delta: float, confidence: float = 0.95
) -> Audit:
    """Train once with the canaries planted, and return what can be told of them.

    Args:
        subject: The training; its mechanism is the one for which ``claimed`` was promised.
        canaries: What is planted.
        source: Where the training's noise and coins come from.
        claimed: The epsilon that the whole training is said to cost.
        delta: That goes with it.
        confidence: With which all bounds hold together; each alone holds with more (Bonferroni).

    Raises:
        PrivacyError: A number is out of its range.
    """
    factors = LoraFactors(subject.base.unet)
    steps = torch.zeros(subject.size)

    def watch(_: int) -> None:
        steps.add_(_released(factors))

    delta_of_factors = _trained(subject, canaries, source, watch).delta
    release: dict[View, Tensor] = {"steps": steps, "change": -torch.from_numpy(delta_of_factors)}
    each = 1 - (1 - confidence) / (2 * len(release))
    guesses = guesses_to_make(len(canaries.present), claimed, delta, each)
    findings = []
    for view, seen in release.items():
        scores = canaries.scores(seen)
        right = right_guesses(scores, canaries.present, guesses)
        by_guesses = epsilon_by_guesses(len(scores), guesses, right, delta, each)
        by_scores = epsilon_by_scores(scores, canaries.present, delta, each)
        findings.append(Finding(view, guesses, right, by_guesses, by_scores))
    return Audit(claimed, tuple(findings), _frozen_moved(subject, factors))


def contributions(subject: Subject, directions: Tensor, source: NoiseSource, seed: int) -> NDArray[np.float64]:
    """Train with every canary planted and hardly any noise, and return what each adds in each step.

    Returns:
        In clips, shape ``(steps, m)``: 0 where a canary was not in the step's sample, 1 where it was.
    """
    bare = replace(subject, mechanism=replace(subject.mechanism, multiplier=_HARDLY))
    canaries = replace(flip_coins(directions, seed), present=np.ones(len(directions), np.bool_))
    factors, added = LoraFactors(subject.base.unet), []
    expected = subject.mechanism.rate * len(subject.data)
    _trained(bare, canaries, source, lambda _: added.append(canaries.scores(_released(factors)) * expected))
    return np.stack(added)


def poisson_p_value(sampled: NDArray[np.bool_], rate: float) -> float:
    """Return how well samples fit what accounting takes for granted: each unit in each sample by a coin of its own.

    Three things are tested, and the least of their p-values is returned three times over (Bonferroni): how often units
    are sampled at all; how much the sizes of samples vary, which is nothing at all for batches of a fixed size; and how
    much the times vary that a unit is sampled, which is nothing at all for shuffled passes over the data.

    Args:
        sampled: Which unit was in which sample, shape ``(samples, units)``.
        rate: The chance that a unit is said to have.
    """
    if rate == 1.0:
        return float(sampled.all())
    samples, units = sampled.shape
    tests = (
        float(binomtest(int(sampled.sum()), sampled.size, rate).pvalue),
        _dispersion_p_value(sampled.sum(axis=1), units, rate),
        _dispersion_p_value(sampled.sum(axis=0), samples, rate),
    )
    return min(1.0, 3 * min(tests))


def _dispersion_p_value(counts: NDArray[np.int_], trials: int, rate: float) -> float:
    """Return how likely it is that counts vary so little or so much if they are binomial."""
    mean = trials * rate
    squares = float(((counts - mean) ** 2).sum() / (mean * (1 - rate)))
    return 2 * float(min(chi2.cdf(squares, len(counts)), chi2.sf(squares, len(counts))))


def _trained(
    subject: Subject, canaries: Canaries, source: NoiseSource, after_step: Callable[[int], None]
) -> TrainingResult:
    return train_privately(
        subject.base, subject.adapter, subject.data, subject.lora, subject.settings, subject.mechanism, source,
        after_step=after_step, planted=canaries.gradients(subject.mechanism.clip),
    )  # fmt: skip


def _released(factors: LoraFactors) -> Tensor:
    """Return what the step just done released."""
    return torch.cat([p.grad.reshape(-1).float().cpu() for p in factors.trained() if p.grad is not None])


def _frozen_moved(subject: Subject, factors: LoraFactors) -> bool:
    return subject.lora.trained == "B" and not np.array_equal(factors.read("A"), subject.adapter.a)
