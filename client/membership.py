"""Membership inference: how well somebody who has the adapter can tell what it was trained on.

Two attacks that need no training of their own. Each gives a drawing a score, higher for one that looks trained on; both
are taken relative to the bare base, which knows how hard a drawing is anyway (Watson et al., arXiv 2111.08440).

* **Loss threshold** (Yeom et al., arXiv 1709.01604): how much less the adapter errs on a drawing than the base does.
* **SecMI** (Duan et al., ICML 2023, arXiv 2302.01316): how much less a drawing that was carried up the deterministic
  diffusion and one step back misses where it was (the statistic t-error, at their step 100 of 1000, interval 10).

They stand at the site because both need drawings that were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap
from torch import Tensor

from client.dataset import TrainingSet
from client.training import HELD_OUT_SEED, example_losses
from common.adapter_schema import Adapter
from common.errors import DrawingsError, TrainingError
from common.models import Base, load_adapter

Scores: TypeAlias = NDArray[np.float64]
Attack: TypeAlias = Callable[[Base, TrainingSet], Scores]

FEWEST = 8
"""Drawings on a side below which nothing can be said at all."""

FALSE_POSITIVES = 0.01
DRAWS = 32
_RESAMPLES = 1000
_AT_ONCE = 64
_SECMI_STEP, _SECMI_UP_TO = 10, 100


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Leak:
    """How well members are told from others.

    Attributes:
        auc: Area under the ROC curve; 0.5 is guessing.
        tpr: Share of members found when at the most 1 % of the others are taken for members.
    """

    auc: Interval
    tpr: Interval


def attack(base: Base, before: Adapter, after: Adapter, data: TrainingSet, by: Attack) -> Scores:
    """Score drawings: how much an adapter changed what an attack sees, float64 ``[n]``; higher looks trained on.

    Args:
        base: With LoRA attached that fits both adapters.
        before: What knows nothing of the drawings: an adapter whose products are zero.
        after: What is attacked.
        data: The drawings.
        by: :func:`losses` or :func:`secmi`.
    """
    seen = []
    for adapter in (before, after):
        load_adapter(base.unet, adapter)
        base.unet.eval()
        seen.append(by(base, data))
    changed: Scores = np.log(seen[0]) - np.log(seen[1])
    return changed


@torch.no_grad()
def losses(base: Base, data: TrainingSet) -> Scores:
    """Return each drawing's loss, the mean over draws of noise and timestep that never change, float64 ``[n]``."""
    chance = torch.Generator().manual_seed(HELD_OUT_SEED)
    count, most = len(data), int(base.schedule.config.num_train_timesteps)
    index = torch.arange(count).repeat_interleave(DRAWS)
    # The same draws for every drawing: what they differ in is then the drawing.
    t = ((torch.arange(DRAWS) + torch.rand(DRAWS, generator=chance)) / DRAWS * most).long().clamp_(max=most - 1)
    noise = torch.randn((DRAWS, *data.first_view(index[:1]).shape[1:]), generator=chance)
    found = []
    for few, draw in zip(index.split(_AT_ONCE), torch.arange(DRAWS).repeat(count).split(_AT_ONCE), strict=True):
        words = data.text(few, torch.zeros(len(few), dtype=torch.bool))
        found.append(example_losses(base, data.first_view(few), words, noise[draw], t[draw]).double())
    means: Scores = torch.cat(found).reshape(count, DRAWS).mean(1).cpu().numpy()
    return means


@torch.no_grad()
def secmi(base: Base, data: TrainingSet) -> Scores:
    """Return each drawing's t-error, float64 ``[n]``: the squared distance after one deterministic step up and back."""
    return np.concatenate([_t_errors(base, data, few) for few in torch.arange(len(data)).split(_AT_ONCE)])


def _t_errors(base: Base, data: TrainingSet, few: Tensor) -> Scores:
    words = data.text(few, torch.zeros(len(few), dtype=torch.bool)).to(base.device)
    x = data.first_view(few).to(base.device)
    for t in range(0, _SECMI_UP_TO, _SECMI_STEP):
        x = _moved(base, x, words, t, t + _SECMI_STEP)
    up = _moved(base, x, words, _SECMI_UP_TO, _SECMI_UP_TO + _SECMI_STEP)
    back = _moved(base, up, words, _SECMI_UP_TO + _SECMI_STEP, _SECMI_UP_TO)
    errors: Scores = (back - x).double().square().mean((1, 2, 3)).cpu().numpy()
    return errors


def _moved(base: Base, x: Tensor, words: Tensor, now: int, then: int) -> Tensor:
    """Carry latents from one timestep to another without chance (DDIM, arXiv 2010.02502, equation 12 at sigma 0)."""
    a, b = (base.schedule.alphas_cumprod[t].to(x.device, x.dtype) for t in (now, then))
    guess = base.unet(x, torch.full((len(x),), now, device=x.device), words).sample
    kind = base.schedule.config.prediction_type
    if kind == "epsilon":
        noise, clean = guess, (x - (1 - a).sqrt() * guess) / a.sqrt()
    elif kind == "v_prediction":
        noise, clean = a.sqrt() * guess + (1 - a).sqrt() * x, a.sqrt() * x - (1 - a).sqrt() * guess
    else:
        raise TrainingError("the base predicts something else", got=kind, expected="epsilon or v_prediction")
    moved: Tensor = b.sqrt() * clean + (1 - b).sqrt() * noise
    return moved


ATTACKS: Mapping[str, Attack] = {"loss": losses, "secmi": secmi}


def measure_leak(members: Scores, others: Scores) -> Leak:
    """Return how well scores tell members from others, with 95 % bootstrap intervals (percentiles, seeded).

    Args:
        members: Of drawings that were trained on, ``[n]``.
        others: Of drawings like them that were not, ``[m]``.

    Raises:
        DrawingsError: There are fewer than :data:`FEWEST` on a side.
    """
    if min(len(members), len(others)) < FEWEST:
        raise DrawingsError(
            "too few drawings to tell members from others", got=min(len(members), len(others)),
            expected=f"at least {FEWEST} that were trained on, and as many that were not",
        )  # fmt: skip
    return Leak(_interval(_auc, members, others), _interval(_tpr, members, others))


def _interval(statistic: Callable[[Scores, Scores], float], members: Scores, others: Scores) -> Interval:
    value = statistic(members, others)
    found = bootstrap(
        (members, others), statistic, n_resamples=_RESAMPLES, vectorized=False, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Interval(value, float(found.low), float(found.high))


def _auc(members: Scores, others: Scores) -> float:
    """Return how often a member scores over another drawing, a tie counting half (Mann and Whitney 1947)."""
    ordered = np.sort(others)
    under, up_to = (np.searchsorted(ordered, members, side).mean() for side in ("left", "right"))
    return float(under + up_to) / (2 * len(others))


def _tpr(members: Scores, others: Scores) -> float:
    """Return the share of members above the threshold that the allowed number of others passes; ties pass nobody."""
    allowed = int(FALSE_POSITIVES * len(others))
    threshold = np.sort(others)[len(others) - 1 - allowed]
    return float(np.mean(members > threshold))
