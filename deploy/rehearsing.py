"""Rehearsing a run: honest rounds of simulated sites on procedural drawings, for the detector to learn from.

Simulated sites differ as studios do: each has one or two styles, a few subjects, and as many drawings as it happens to
have. Whole runs are rehearsed, one after the other, since updates of late rounds look different from those of early
ones. Nothing of anybody's is used.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from client.dataset import encode
from client.drawings import Drawing
from common.models import Base
from common.procedural import draw, styles, subjects
from common.settings import RunSettings
from deploy.simulation import SimulatedSite, Simulation
from security.conformal import DetectorError, scores_needed
from security.detector import FEWEST_ROWS, FEWEST_SITES, Rows
from security.features import NoiseModel, features_of
from security.rehearsal import Rehearsal, rehearsal_key
from server.judging import Sitting

DRAWINGS = (40, 120)
"""How many drawings a simulated site has, at the least and at the most."""

MOST_ROUNDS = 8
"""Rounds of one rehearsed run; a longer run is rehearsed by its beginning."""


def rounds_needed(settings: RunSettings, sites: int) -> int:
    """Return how many rounds it takes to calibrate a run's detector at the rate that it asks for.

    Args:
        settings: The run's.
        sites: How many sites a round has.

    Raises:
        DetectorError: The run has no detector, or its rounds are too small to judge.
    """
    if not settings.detector:
        raise DetectorError("the run has no detector", advice="Leave `detector = false` out of its settings.")
    if sites < FEWEST_SITES:
        raise DetectorError(
            "rounds of so few sites are not judged", got=sites, expected=f"at least {FEWEST_SITES}",
            advice="Without a detector, start the run without a rehearsal.",
        )  # fmt: skip
    # Half of the rounds teach, the other half calibrate.
    return 2 * math.ceil(max(scores_needed(settings.detector.false_rejections), FEWEST_ROWS) / sites)


def rehearse(
    base: Base,
    settings: RunSettings,
    sites: int,
    seed: int = 0,
    drawings: tuple[int, int] = DRAWINGS,
    seen: Callable[[int], object] = lambda _done: None,
) -> Rehearsal:
    """Return the rehearsal of a run.

    Args:
        base: The run's.
        settings: The run's.
        sites: How many sites it asks.
        seed: Decides drawings, training and noise.
        drawings: How many drawings a site has, at the least and at the most.
        seen: Told after each round how many are done.

    Raises:
        DetectorError: The run has no detector, or its rounds are too small to judge.
    """
    needed = rounds_needed(settings, sites)
    told = settings.model_copy(update={"detector": False, "site_privacy": False, "quorum": 1})
    sittings: list[tuple[Sitting, list[str]]] = []
    while len(sittings) < needed:
        chance = np.random.default_rng([seed, len(sittings)])
        crowd = [_site(base, f"s{place:02}", chance, drawings) for place in range(sites)]
        run = Simulation(base, crowd, told.model_copy(update={"seed": seed + 1 + len(sittings)}))
        for number in range(1, min(settings.rounds, MOST_ROUNDS, needed - len(sittings)) + 1):
            updates = run.updates(number)
            sittings.append((run.sitting(number, updates), [update.site for update in updates]))
            run.close(number, updates)
            seen(len(sittings))
    noise = _noise(sittings) if settings.privacy else None
    rows = {
        place: features_of(sitting.of(names), sitting.frame, sitting.past, noise)
        for place, (sitting, names) in enumerate(sittings, 1)
    }
    return Rehearsal(rehearsal_key(settings, base.digest, sites), Rows.of(rows), noise)


def _site(base: Base, name: str, chance: np.random.Generator, drawings: tuple[int, int]) -> SimulatedSite:
    looks = chance.choice([*styles.PUBLIC, *styles.STUDIO], chance.integers(1, 3), replace=False)
    motifs = chance.choice([*subjects.PUBLIC, *subjects.STUDIO], chance.integers(2, 9), replace=False)
    made = []
    for _ in range(chance.integers(drawings[0], drawings[1] + 1)):
        drawing = draw(str(chance.choice(motifs)), str(chance.choice(looks)), chance, size=base.pixels)
        made.append(Drawing("", drawing.caption, None, base.pixels, zlib.compress(drawing.picture.tobytes(), 1)))
    encoded = encode(base, made)
    return SimulatedSite(name, encoded, encoded)


def _noise(sittings: Sequence[tuple[Sitting, list[str]]]) -> NoiseModel:
    """Return the noise that honest updates carry, as their median norm shows it: the drawings add little to it."""
    norms = [math.sqrt(i.energies.sum()) for sitting, names in sittings for i in sitting.of(names).values()]
    size = sittings[0][0].frame.size
    return NoiseModel(float(np.median(norms)) / math.sqrt(size), size)
