"""Differential privacy of a site as a whole, against who gets the adapter (DP-FedAvg, arXiv 1710.06963).

Each admitted update is clipped, every site counts as one whatever it says of its drawings, and Gaussian noise is added
once to the sum. The sum is divided by how many sites the run asks, which everybody knows, and not by how many answered.
What follows, the server's optimiser and the refresh of A, is post-processing.

The noise is as large as what one site may add, so it drowns the mean of a few sites: with n sites and d trained numbers
it is sigma * sqrt(d) / n of the bound. This is for federations of hundreds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from common.quantise import Flat
from common.settings import RunSettings
from security.accounting import Steps, epsilon_of
from security.clipping import Clipped, clip_and_sum
from security.noise import NoiseSource, add_noise
from security.privacy_plan import planned_rounds


@dataclass(frozen=True)
class SiteMechanism:
    """How the rounds of a run protect sites as a whole.

    Args:
        multiplier: Noise multiplier sigma.
        clip: Largest L2 norm of one site's update.
        sites: How many sites the run asks: what sums are divided by.
        source: Where the noise comes from.
    """

    multiplier: float
    clip: float
    sites: int
    source: NoiseSource

    def clipped(self, delta: Flat) -> Flat:
        """Return an update scaled down to the bound, float32 ``[d]``; as it is, up to 1e-5, when it is within."""
        summed: Flat = clip_and_sum(torch.tensor(delta)[None], self.clip).total.float().numpy()
        return summed

    def released(self, mean: Flat, count: int) -> Flat:
        """Return what a round adds to the adapter: the noised sum over the number of sites asked, float32 ``[d]``.

        Args:
            mean: Plain mean of clipped updates, float32 ``[d]``.
            count: Of how many.
        """
        noised = add_noise(Clipped(torch.tensor(mean) * count, self.clip), self.multiplier, self.source)
        released: Flat = (noised.total / self.sites).numpy()
        return released

    def spent(self, rounds: int, delta: float) -> float:
        """Return the epsilon of a site whose updates were in so many rounds.

        Raises:
            PrivacyError: Delta is out of its range.
        """
        return epsilon_of([Steps(self.multiplier, 1.0, rounds)], delta) if rounds else 0.0


def mechanism_of(settings: RunSettings, sites: int, source: NoiseSource) -> SiteMechanism | None:
    """Return how a run protects sites as a whole; None when it does not.

    Args:
        settings: The run's.
        sites: How many it asks.
        source: Where noise comes from.

    Raises:
        PrivacyError: No noise that is of any use suffices for so small an epsilon.
    """
    if not settings.site_privacy:
        return None
    steps = planned_rounds(settings.site_privacy, settings.rounds)
    return SiteMechanism(steps.multiplier, settings.site_privacy.clip, sites, source)
