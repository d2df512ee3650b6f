"""What the privacy settings of a run come to: how much noise keeps the run in its epsilon.

The one place where an epsilon becomes noise. A site calls it with the smaller of what the run asks and of what its own
budget allows a run, so its noise is never less than the run's settings ask for. The server calls it where the run
protects sites as a whole.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from common.errors import PrivacyError
from common.settings import CrossValidationSettings, PrivacySettings, SitePrivacySettings
from security.accounting import Steps, multiplier_for, would_exceed

_MORE, _MOST_TIMES = 1.05, 32
"""By how much noise grows at a time where a run asks for more rounds than were planned, and how often at the most."""


def planned_steps(
    privacy: PrivacySettings, rounds: int, epsilon: float, delta: float, *, a_round: float = math.inf,
    beside: Sequence[Steps] = (),
) -> Steps:  # fmt: skip
    """Return the steps of one round, with the noise with which all rounds together stay within an epsilon.

    Args:
        privacy: The run's settings.
        rounds: How many rounds train.
        epsilon: What the site allows the run; the run's own epsilon or less.
        delta: What the site accounts with; the run's own delta or less.
        a_round: What the site allows one round.
        beside: What else counts into the epsilon of the run, and of a round.

    Raises:
        PrivacyError: No noise that is of any use suffices.
    """
    epsilon, delta, besides = min(epsilon, privacy.epsilon), min(delta, privacy.delta), tuple(beside)
    multiplier = _multiplier(epsilon, delta, privacy.rate, rounds * privacy.steps, besides)
    if a_round < epsilon:
        multiplier = max(multiplier, _multiplier(a_round, delta, privacy.rate, privacy.steps, besides))
    return Steps(multiplier, privacy.rate, privacy.steps)


def kept_within(steps: Steps, rounds: int, done: Sequence[Steps], epsilon: float, delta: float) -> Steps:
    """Return the steps of one round, with more noise where what is left of an epsilon takes more.

    A round that was cut off is asked for again, and what it cost does not come back. With the same noise the last round
    would then be one too many; with a little more in each that is left, all keep to the epsilon.

    Args:
        steps: Of one round, as they were planned.
        rounds: How many there are yet, this one counted in.
        done: What was done before.
        epsilon: Of everything together.
        delta: That goes with it.

    Raises:
        PrivacyError: So little is left that no noise of any use suffices.
    """

    def enough(times: int) -> bool:
        whole = replace(steps, multiplier=steps.multiplier * _MORE**times, count=rounds * steps.count)
        return not would_exceed(done, whole, epsilon, delta)

    # In steps, so that a run has few kinds of rounds: each kind takes the accountant longer.
    least = bisect_left(range(_MOST_TIMES), True, key=enough)
    if least == _MOST_TIMES:
        raise PrivacyError("what the run has asked for leaves too little of its epsilon", expected="fewer rounds again")
    return replace(steps, multiplier=steps.multiplier * _MORE**least)


def planned_ballot(
    privacy: PrivacySettings, ballots: CrossValidationSettings, rounds: int, rate: float, epsilon: float, delta: float,
    a_round: float = math.inf,
) -> Steps:  # fmt: skip
    """Return the one step that a ballot is, with the noise with which all ballots of a run stay within an epsilon.

    Args:
        privacy: The run's settings.
        ballots: Likewise; the smallest of all epsilons counts.
        rounds: How many rounds train; each but the first asks for a ballot.
        rate: The chance of each held-out drawing to be looked at.
        epsilon: What the site allows the run.
        delta: What the site accounts with.
        a_round: What the site allows one round.

    Raises:
        PrivacyError: No noise that is of any use suffices.
    """
    epsilon, delta = min(epsilon, privacy.epsilon, ballots.epsilon), min(delta, privacy.delta)
    multiplier = _multiplier(epsilon, delta, rate, max(1, rounds - 1))
    if a_round < epsilon:
        multiplier = max(multiplier, _multiplier(a_round, delta, rate, 1))
    return Steps(multiplier, rate, 1)


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
