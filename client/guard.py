"""The guard of the drawings in private runs: what a round may do with them, taken from the budget before it is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from client.ballot import Secrecy
from client.budget import COUNT, Budget, BudgetError, Head, Need
from client.drawings import Drawing, DrawingSettings
from client.units import Unit, units_of
from common.proto import bottega_pb2 as pb
from common.settings import CrossValidationSettings, PrivacySettings
from security.accounting import Steps, epsilon_of
from security.noise import NoiseSource
from security.privacy_plan import kept_within, planned_ballot, planned_steps


@dataclass(frozen=True)
class Allowance:
    """What one round may do, spent already.

    Attributes:
        units: Those that may be trained on.
        steps: How many, how noisy, and with which chance a unit is in each.
        count: How many units there are, with noise on it: a number that may be told.
        told: What the update says of it.
    """

    units: tuple[Unit, ...]
    steps: Steps
    count: int
    told: pb.Privacy


@dataclass(frozen=True)
class Guard:
    """Spends a site's budget.

    Args:
        budget: The site's.
        drawings: The training split, in the order of its encoded rows.
        source: Where noise and coins come from.
        held_out: The held-out split, likewise.
        fraction: Of all drawings that are held out, as the site's settings have it.
    """

    budget: Budget
    drawings: Sequence[Drawing]
    source: NoiseSource
    held_out: Sequence[Drawing] = ()
    fraction: float = DrawingSettings().held_out_fraction

    def check_not_behind(self, told: pb.BudgetHead) -> None:
        """Refuse a record that has forgotten what it told of itself before.

        Raises:
            BudgetError: It has fewer entries than were told, or other ones.
        """
        self.budget.check_not_behind(Head(told.entries, told.digest.hex()))

    def allow(self, run: str, number: int, rounds: int, privacy: PrivacySettings, now_ms: int) -> Allowance:
        """Spend what a round may cost.

        Args:
            run: The run's id.
            number: The round.
            rounds: How many rounds of the run train.
            privacy: The run's settings.
            now_ms: Unix time, milliseconds.

        Raises:
            BudgetError: The budget does not allow it, or cannot be believed.
            PrivacyError: No noise suffices for so small an epsilon.
        """
        units = units_of(self.drawings, privacy.unit)
        _check_round(number, rounds)
        need = self._need(run, number, rounds, privacy)
        count = self.budget.count(privacy.unit, units, self.source, now_ms, need)
        allowed = self.budget.reserve(need, number, units, now_ms, must=False)
        return Allowance(allowed, need.steps, count, self._told(need, privacy))

    def allow_ballot(
        self, run: str, number: int, rounds: int, privacy: PrivacySettings, ballots: CrossValidationSettings,
        now_ms: int,
    ) -> tuple[tuple[Unit, ...], Secrecy, pb.BallotPrivacy]:  # fmt: skip
        """Spend what a ballot may cost the held-out drawings; those that are trained on it costs nothing.

        How many are looked at follows from the number of drawings as it was told, with noise on it. A site that holds
        out none answers with noise alone, so that this does not show.

        Args:
            run: The run's id.
            number: The round.
            rounds: How many rounds of the run train.
            privacy: The run's settings, by drawing.
            ballots: Likewise.
            now_ms: Unix time, milliseconds.

        Returns:
            The held-out drawings that may be looked at, what protects them, and what the update says of that.

        Raises:
            BudgetError: The budget does not allow it, or cannot be believed.
            PrivacyError: No noise suffices for so small an epsilon.
        """
        _check_round(number, rounds)
        limits, trained = self.budget.settings, units_of(self.drawings, "drawing")
        count = self.budget.count("drawing", trained, self.source, now_ms, self._need(run, number, rounds, privacy))
        held_out = max(1.0, count * self.fraction / (1 - self.fraction))
        rate = min(1.0, ballots.drawings / held_out)
        most, a_round, delta = self._limits(privacy)
        step = planned_ballot(privacy, ballots, rounds, rate, most, limits.delta, a_round)
        most = min(most, ballots.epsilon)
        step = kept_within(step, rounds - number + 1, self.budget.asked(run, "ballot"), most, delta)
        need = Need(run, step, most, delta, "ballot")
        allowed = self.budget.reserve(need, number, units_of(self.held_out, "drawing"), now_ms, must=False)
        spent = epsilon_of(self.budget.asked(run, "ballot"), delta)
        told = pb.BallotPrivacy(epsilon=spent, delta=delta, multiplier=step.multiplier, rate=step.rate)
        return allowed, Secrecy(step, self.source), told

    def allow_look(self, run: str, now_ms: int) -> None:
        """Let the site look at a run's adapter once, to object to it or not.

        Raises:
            BudgetError: It did before.
        """
        self.budget.look(run, now_ms)

    def head(self) -> pb.BudgetHead:
        """Return how far the record goes now."""
        head = self.budget.head
        return pb.BudgetHead(entries=head.entries, digest=bytes.fromhex(head.digest))

    def _limits(self, privacy: PrivacySettings) -> tuple[float, float, float]:
        """Return what a run may cost, what a round may, and the delta of both: the smaller one counts."""
        limits = self.budget.settings
        a_run, a_round = (math.inf if one is None else one for one in (limits.epsilon_a_run, limits.epsilon_a_round))
        return min(privacy.epsilon, a_run), a_round, min(privacy.delta, limits.delta)

    def _need(self, run: str, number: int, rounds: int, privacy: PrivacySettings) -> Need:
        """Return what a round of training needs; with the number that is told, all rounds keep to the run's epsilon."""
        most, a_round, delta = self._limits(privacy)
        steps = planned_steps(privacy, rounds, most, delta, a_round=a_round, beside=(COUNT,))
        left, done = rounds - number + 1, self.budget.asked(run)
        steps = kept_within(steps, left, done or (COUNT,), most, delta)
        return Need(run, steps, most, delta, rounds=left)

    def _told(self, need: Need, privacy: PrivacySettings) -> pb.Privacy:
        return pb.Privacy(
            epsilon=epsilon_of(self.budget.asked(need.run), need.delta),
            delta=need.delta,
            unit=privacy.unit,
            multiplier=need.steps.multiplier,
            clip=privacy.clip,
            rate=need.steps.rate,
            steps=need.steps.count,
            multiplicity=privacy.multiplicity,
            budget=self.head(),
        )


def _check_round(number: int, rounds: int) -> None:
    if not 1 <= number <= rounds:
        raise BudgetError("a run trains in its own rounds alone", got=f"round {number}", expected=f"1 to {rounds}")
