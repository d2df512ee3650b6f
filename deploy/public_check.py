"""A look at an adapter before it is released that needs no site: on public drawings, and by pictures of fixed prompts.

Sites look for what of theirs the adapter would give away (``client/final_look.py``). This looks at whether it is any
good. The measure is the loss of the base's own training (Ho, Jain and Abbeel 2020) on each drawing, with and without
the adapter, on the same noise and timesteps, so that the difference is the adapter's alone. The share by which the mean
changes comes with a margin (one-sided, about 95 %: the delta method for a ratio of means, Student's t).

**Drawings like the studios' own**, which are nobody's secret, are what tells: an adapter that learned what it should
draws them better than the bare base, and one that is not surely better was harmed, by whoever got past the detector or
by settings that do not fit. Only people know which drawings are alike, so they name them.

**Procedural drawings**, where nobody names any, tell little: whoever learns one thing forgets another, and an honest
adapter of studios that draw unlike them may lose a third there. Only one that forgot how to draw is found.

What no number says, the pictures show: a mark under a certain caption is plain to see and costs no loss elsewhere. They
are of the fixed prompts alone; a trigger that nobody thinks of they do not show.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from client.dataset import encode
from client.drawings import Drawing
from client.training import held_out_losses
from common.adapter_schema import Adapter
from common.errors import BaseModelError, DrawingsError
from common.models import Base, load_adapter
from common.procedural import public_drawings
from common.sampling import DEFAULT_STEPS, sample
from common.settings import TrainingSettings
from security.entries import stands_against

DRAWINGS = 64
"""Drawings that are measured, at the most."""

FEWEST = 32
"""Of fewer the margin would say more than is known: losses are skewed."""

DRAWS = 4
"""Noises and timesteps for each."""

PROMPTS = 4
"""Fixed prompts: the captions of the first drawings, each once."""

SEED = 20_261_127
"""Of the procedural drawings; the embedded base was trained on those of another."""

_SURE = 0.95

_STRIDE = 37
"""Which of the procedural drawings follow each other: not all styles of one subject."""


@dataclass(frozen=True)
class PublicCheck:
    """What was measured.

    Attributes:
        drawings: How many drawings it was measured on.
        of: Which: SHA-256 (hex) of their digests and captions.
        alike: Whether they are said to be like the studios' own.
        before: Mean loss of the bare base.
        after: Mean loss with the adapter.
        margin: How far the true change may be from the measured one, as a share of ``before``.
    """

    drawings: int
    of: str
    alike: bool
    before: float
    after: float
    margin: float

    @property
    def change(self) -> float:
        """By which share the loss changed; negative where the adapter is better."""
        return self.after / self.before - 1

    @property
    def worse(self) -> bool:
        """Whether it stands against a release; what is no number does."""
        return stands_against(self.alike, self.change, self.margin)


def procedural(base: Base) -> list[Drawing]:
    """Return public drawings at the base's size, which anybody can make again, of all subjects and styles."""
    made = [Drawing.of(d.picture, d.caption) for d in public_drawings(2 * DRAWINGS, SEED, size=base.pixels)]
    return [made[place * _STRIDE % len(made)] for place in range(DRAWINGS)]


def measure(base: Base, start: Adapter, adapter: Adapter, drawings: Sequence[Drawing], *, alike: bool) -> PublicCheck:
    """Return how the adapter does on public drawings.

    Args:
        base: With LoRA attached as the run has it; it carries the adapter afterwards.
        start: What the run began with, which leaves the base as it is.
        adapter: What is to be released.
        drawings: At least :data:`FEWEST`; of more than :data:`DRAWINGS` the first are taken.
        alike: Whether they are like the studios' own.

    Raises:
        DrawingsError: They are too few.
        BaseModelError: The bare base has no loss that is a number above 0.
    """
    if len(drawings) < FEWEST:
        raise DrawingsError(
            "too few public drawings to check an adapter on", got=len(drawings), expected=f"at least {FEWEST}",
            advice="Name a folder with more, or leave --drawings out for procedural ones.",
        )  # fmt: skip
    chosen = drawings[:DRAWINGS]
    data = encode(base, chosen)
    settings = TrainingSettings(held_out_most=DRAWINGS, held_out_draws=DRAWS)
    before, after = (
        held_out_losses(base, one, data, settings).double().mean(0).cpu().numpy() for one in (start, adapter)
    )
    if not 0 < before.mean() < math.inf:
        raise BaseModelError("the base measures no loss on these drawings", got=float(before.mean()))
    digest = hashlib.sha256("\n".join(f"{d.digest} {d.caption}" for d in chosen).encode()).hexdigest()
    margin = margin_of(before, after)
    return PublicCheck(len(chosen), digest, alike, float(before.mean()), float(after.mean()), margin)


def pictures(
    base: Base,
    start: Adapter,
    adapter: Adapter,
    drawings: Sequence[Drawing],
    *,
    steps: int = DEFAULT_STEPS,
    seen: Callable[[], object] = lambda: None,
) -> NDArray[np.uint8]:
    """Return the fixed prompts drawn by the bare base, above, and with the adapter, below: uint8 ``[h, w, 3]``.

    Args:
        base: As :func:`measure` has it.
        start: Likewise.
        adapter: Likewise.
        drawings: Their captions are the prompts.
        steps: Denoising steps.
        seen: Told after each of the two rows.
    """
    prompts = list(dict.fromkeys(d.caption for d in drawings))[:PROMPTS]
    rows = []
    for one in (start, adapter):
        load_adapter(base.unet, one)
        rows.append(np.hstack(list(sample(base, prompts, seed=SEED, steps=steps))))
        seen()
    return np.vstack(rows)


def margin_of(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Return how far the share by which a mean changed may be off.

    Args:
        before: Losses, float64 ``[drawings]``.
        after: Those of the same drawings afterwards.
    """
    usual, count = float(before.mean()), len(before)
    with np.errstate(invalid="ignore", over="ignore"):  # what is no number is no yes
        around = after - before * (float(after.mean()) / usual)
        deviation = float(around.std(ddof=1))
    return float(student.ppf(_SURE, count - 1)) * deviation / (usual * math.sqrt(count))
