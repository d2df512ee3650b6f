"""What stands in the record of a site's budget: what runs asked for, what was paid, what was told."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from client.units import UnitKind
from security.accounting import Steps

SpendKind = Literal["train", "ballot"]
"""What a reservation is for: a round of training, or a ballot of held-out drawings."""


@dataclass(frozen=True)
class Spend:
    """One reservation, as it stands in the record."""

    run: str
    round_number: int
    cohorts: tuple[int, ...]
    steps: Steps
    at_ms: int
    work: SpendKind = "train"


@dataclass(frozen=True)
class Need:
    """What a round of a run costs each unit that is in it.

    Attributes:
        run: The run's id.
        steps: What will be done to each unit.
        most: What the run may cost a unit in all, epsilon: what its order says. A round that is asked for again counts
            again.
        delta: At which that holds; the smaller of it and the site's own counts.
        work: Each kind has a limit of its own.
        rounds: How many rounds of the run there are yet, this one counted in.
    """

    run: str
    steps: Steps
    most: float = math.inf
    delta: float = 1.0
    work: SpendKind = "train"
    rounds: int = 1

    @property
    def whole(self) -> Steps:
        """What all rounds do that there are yet."""
        return replace(self.steps, count=self.rounds * self.steps.count)


@dataclass(frozen=True)
class Count:
    """A number of units that was told in a run, with noise on it, as it stands in the record."""

    run: str
    kind: UnitKind
    cohorts: tuple[int, ...]
    told: int
    steps: Steps
    at_ms: int
