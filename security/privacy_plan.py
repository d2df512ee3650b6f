"""What the privacy settings of a run come to: how much noise keeps the run in its epsilon.

The one place where an epsilon becomes noise. A site calls it with the smaller of what the run asks and of what its own
budget allows a run, so its noise is never less than the run's settings ask for. The server calls it where the run
protects sites as a whole.
"""

from __future__ import annotations

from functools import lru_cache

from common.settings import CrossValidationSettings, PrivacySettings, SitePrivacySettings
from security.accounting import Steps, epsilon_of, multiplier_for


def planned_steps(privacy: PrivacySettings, rounds: int, epsilon: float, delta: float) -> Steps:
    """Return the steps of one round, with the noise with which all rounds together stay within an epsilon.

    Args:
        privacy: The run's settings.
        rounds: How many rounds train.
        epsilon: What the site allows the run; the run's own epsilon or less.
        delta: What the site accounts with; the run's own delta or less.

    Raises:
        PrivacyError: No noise that is of any use suffices.
    """
    tightest = min(epsilon, privacy.epsilon), min(delta, privacy.delta)
    return Steps(_multiplier(*tightest, privacy.rate, rounds * privacy.steps), privacy.rate, privacy.steps)


def planned_ballot(
    privacy: PrivacySettings, ballots: CrossValidationSettings, rounds: int, rate: float, epsilon: float, delta: float
) -> Steps:
    """Return the one step that a ballot is, with the noise with which all ballots of a run stay within an epsilon.

    Args:
        privacy: The run's settings.
        ballots: Likewise; the smallest of all epsilons counts.
        rounds: How many rounds train; each but the first asks for a ballot.
        rate: The chance of each held-out drawing to be looked at.
        epsilon: What the site allows the run.
        delta: What the site accounts with.

    Raises:
        PrivacyError: No noise that is of any use suffices.
    """
    tightest = min(epsilon, privacy.epsilon, ballots.epsilon), min(delta, privacy.delta)
    return Steps(_multiplier(*tightest, rate, max(1, rounds - 1)), rate, 1)


def cost_of_ballots(step: Steps, rounds: int, delta: float) -> float:
    """Return the epsilon of all ballots of a run together: what may be told of them, as no drawing decides it.

    Args:
        step: What one ballot is.
        rounds: How many rounds train.
        delta: What the site accounts with.
    """
    return epsilon_of([Steps(step.multiplier, step.rate, max(1, rounds - 1) * step.count)], delta)


def planned_rounds(privacy: SitePrivacySettings, rounds: int) -> Steps:
    """Return the rounds of a run as steps, each with the noise with which all of them stay within the run's epsilon.

    Every site that was asked counts as asked for certain: nothing is gained from who is left out of a round.

    Args:
        privacy: The run's settings.
        rounds: How many rounds train.

    Raises:
        PrivacyError: No noise that is of any use suffices.
    """
    return Steps(_multiplier(privacy.epsilon, privacy.delta, 1.0, rounds), 1.0, rounds)


# A second or more a search, and every round of a run asks the same.
_multiplier = lru_cache(maxsize=64)(multiplier_for)
