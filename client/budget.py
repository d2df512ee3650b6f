"""The privacy budget of a site's drawings: an append-only record of what was spent, kept by the site alone.

**What a record is about.** Units of privacy (a drawing, or all drawings of one artist), each known by a digest of its
content, so that moving or renaming a folder buys nothing. Units that came together form a cohort with one history;
drawings that are added later begin a cohort, with nothing spent.

**When it is spent.** Before training starts, and for good: a round that crashed may have released something, so it has
cost what it might have. A cohort that cannot afford a round is left out of it, which depends on nothing but the record;
when none can, the site refuses.

**How it is kept.** One encrypted file an entry, numbered, never written again, each bound to the digest of all before
it. An entry that was changed, left out, or put in another's place does not open; then nothing is spent or trained.
What the record alone cannot show is that its newest entries are missing, as after a restore from a backup. Its head
(number of entries, digest) is therefore meant to go out with every update, and a record that is behind what was told is
refused (:meth:`Budget.check_not_behind`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client.budget_record import BudgetError, Head, Part, Record
from client.budget_settings import BudgetSettings
from client.units import Unit, UnitKind
from security.accounting import Steps, epsilon_of, would_exceed
from security.noise import NoiseSource
from security.vault import Vault

BACKWARDS_MS = 300_000
"""How far the clock may be behind the record's newest entry: five minutes."""

COUNT_EPSILON = 0.2
"""What it costs, once, to tell how many units there are."""

FEWEST = 20
"""Fewer units, as told, are not trained on: no noise that hides one of so few leaves anything to learn."""

__all__ = ["Account", "Budget", "BudgetError", "Count", "Head", "Need", "Spend"]

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
    """

    run: str
    steps: Steps
    most: float = math.inf
    delta: float = 1.0
    work: SpendKind = "train"


@dataclass(frozen=True)
class Count:
    """A number of units that was told in a run, with noise on it, as it stands in the record."""

    run: str
    kind: UnitKind
    cohorts: tuple[int, ...]
    told: int
    at_ms: int


@dataclass(frozen=True)
class Account:
    """What a cohort has spent.

    Attributes:
        cohort: Its number.
        drawings: How many there are in it.
        spent: Epsilon, over all runs.
        by_run: The rounds that were paid for in each run, and what they cost.
    """

    cohort: int
    drawings: int
    spent: float
    by_run: dict[str, tuple[int, float]]


class Budget:
    """The record in a folder.

    Args:
        folder: Where; made if it is not there.
        vault: Encrypts it.
        settings: What may be spent.

    Raises:
        BudgetError: The record cannot be believed, or the settings are out of range.
    """

    def __init__(self, folder: Path, vault: Vault, settings: BudgetSettings) -> None:
        self._settings = settings
        _check(settings)
        self._forget()
        self._record = Record(folder, vault, self._take, self._forget)
        self._record.read_on()

    def _forget(self) -> None:
        self._cohort: dict[str, int] = {}
        self._spends: list[Spend] = []
        self._counts: list[Count] = []
        self._looks: set[str] = set()

    @property
    def settings(self) -> BudgetSettings:
        """What may be spent."""
        return self._settings

    @property
    def head(self) -> Head:
        """How far the record goes."""
        return self._record.head

    @property
    def spends(self) -> Sequence[Spend]:
        """Everything that was ever reserved, in order."""
        return tuple(self._spends)

    def check_not_behind(self, told: Head) -> None:
        """Refuse a record that is behind what others were told of it, or another one.

        Raises:
            BudgetError: It has fewer entries than were told, or other ones.
        """
        if not self._record.holds(told):
            raise BudgetError(
                "the budget's record is not the one that was used before", got=f"{self.head.entries} entries",
                expected=f"at least {told.entries}, the same",
                advice="It was restored from a backup or replaced. What was spent since is not known, so these "
                "drawings must not be trained on again; drawings that are new may be.",
            )  # fmt: skip

    def spent(self, run: str | None = None) -> dict[int, float]:
        """Return the epsilon that each cohort has spent, in all or in one run."""
        return {cohort: self._epsilon({cohort}, run) for cohort in self._cohorts()}

    def asked_by(self, run: str) -> float:
        """Return the epsilon of all rounds of training that a run asked for, and of the number that it was told.

        It follows from what was asked, not from which drawings there are: so it may be told.
        """
        spends = [one.steps for one in self._spends if (one.run, one.work) == (run, "train")]
        return epsilon_of(spends, self._settings.delta) + COUNT_EPSILON * any(one.run == run for one in self._counts)

    def report(self) -> list[Account]:
        """Return what was spent, by cohort."""
        self._record.read_on()
        sizes = [*self._cohort.values()]
        return [
            Account(
                cohort, sizes.count(cohort), epsilon, {run: self._of_run(cohort, run) for run in self._runs(cohort)}
            )
            for cohort, epsilon in self.spent().items()
        ]

    def count(
        self, kind: UnitKind, units: Sequence[Unit], source: NoiseSource, now_ms: int, need: Need | None = None
    ) -> int:
        """Return how many units there are that can pay, with noise on it, so that it may be told.

        Those that have nothing left are not counted, and pay nothing: whether a few new drawings came to them must not
        decide by itself whether the site takes part.

        The noise is two-sided geometric (Ghosh, Roughgarden and Sundararajan 2009, arXiv 0811.2841). It is drawn once
        in a run and kept: asked again, the answer is the same and costs nothing, and drawings that are added or spent
        meanwhile do not show by another number.

        Args:
            kind: What is protected as one.
            units: Those that are there.
            source: Where the noise comes from.
            now_ms: Unix time, milliseconds.
            need: What a round will cost besides; nothing when left out.

        Raises:
            BudgetError: It cannot be afforded, there are too few, delta is too large for so many, or the record cannot
                be read or written.
        """
        run = need.run if need else ""
        with self._record.turn():
            self._entered(units, now_ms)
            told = next((one.told for one in self._counts if (one.run, one.kind) == (run, kind)), None)
            if told is None:
                able = self._able(units, need, COUNT_EPSILON)
                told = max(1, len(able) + _two_sided_geometric(COUNT_EPSILON, source))
                cohorts = list(self._cohorts_of(able))
                self._record.append(
                    {"kind": "count", "run": run, "unit": kind, "cohorts": cohorts, "told": told, "at_ms": now_ms}
                )  # fmt: skip
        _check_enough(told, self._settings.delta)
        return told

    def reserve(
        self, need: Need, round_number: int, units: Sequence[Unit], now_ms: int, *, must: bool = True
    ) -> tuple[Unit, ...]:  # fmt: skip
        """Spend what a round may cost, before it starts.

        One entry is written whatever comes of it, so that how many there are tells nothing; of no unit, it costs none.

        A unit has the past of all cohorts that any of its drawings is in: who adds drawings, or asks once by drawing
        and once by artist, gains nothing.

        Args:
            need: What the round costs each unit.
            round_number: The round.
            units: Those that are there.
            now_ms: Unix time, milliseconds.
            must: Whether it is an error that no unit can pay. Where the answer is told, that would tell of a lone one
                that can; what is done with none is noise alone.

        Returns:
            The units that may be trained on; the others have nothing left.

        Raises:
            BudgetError: None can afford it, the run has asked for more than it may, the clock went backwards, or the
                record cannot be read or written.
        """
        with self._record.turn():
            if units:
                self._entered(units, now_ms)
            self._check_run(need, round_number)
            able = self._able(units, need, 0.0)
            if must and units and not able:
                raise self._spent_error()
            steps = need.steps
            self._record.append(
                {"kind": "spend", "run": need.run, "round": round_number, "work": need.work, "at_ms": now_ms,
                 "cohorts": list(self._cohorts_of(able)),
                 "multiplier": steps.multiplier, "rate": steps.rate, "count": steps.count}
            )  # fmt: skip
        return able

    def look(self, run: str, now_ms: int) -> None:
        """Record the one look at a run's adapter by which this site may object to it.

        An objection tells of the drawings and is not noised. Who could ask again and again, with adapters made for it,
        could ask which drawings there are; so nobody is answered twice in a run, whatever became of the first answer.

        Raises:
            BudgetError: There was a look in this run before, or the record cannot be read or written.
        """
        with self._record.turn():
            if run in self._looks:
                raise BudgetError("this site has looked at an adapter of this run before", got=run, expected="one look")
            self._record.append({"kind": "look", "run": run, "at_ms": now_ms})

    def _entered(self, units: Sequence[Unit], now_ms: int) -> tuple[int, ...]:
        """Read what others wrote, enter drawings that are new, and return the cohorts of all that are there."""
        there = sorted(frozenset().union(*(unit.digests for unit in units)))
        if not there:
            raise BudgetError("there is nothing to train on", got="0 drawings", expected="at least 1")
        self._check_clock(now_ms)
        self._enrol([digest for digest in there if digest not in self._cohort], now_ms)
        return tuple(sorted({self._cohort[digest] for digest in there}))

    def _check_run(self, need: Need, number: int) -> None:
        """Hold a run to its limits by all that it asked, whoever paid: a refusal then tells of no drawing."""
        limits = self._settings
        asked = [one for one in self._spends if (one.run, one.work) == (need.run, need.work)]
        counted = COUNT_EPSILON * (need.work == "train" and any(one.run == need.run for one in self._counts))
        most = min(need.most, _no_less(limits.epsilon_a_run)) - counted
        rounds = [one.steps for one in asked if one.round_number == number]
        for past, limit in (([one.steps for one in asked], most), (rounds, _no_less(limits.epsilon_a_round))):
            if limit < math.inf and would_exceed(past, need.steps, limit, min(need.delta, limits.delta)):
                raise BudgetError(
                    "the privacy budget is spent for this run or round", got="more, what was asked again counted in",
                    expected=f"epsilon {limit:g} at most",
                )  # fmt: skip

    def _cohorts_of(self, units: Sequence[Unit]) -> tuple[int, ...]:
        return tuple(sorted({self._cohort[digest] for unit in units for digest in unit.digests}))

    def _able(self, units: Sequence[Unit], need: Need | None, extra: float) -> tuple[Unit, ...]:
        """Return the units that can pay for what is needed, and as much epsilon besides."""
        pasts = {unit: frozenset(self._cohort[digest] for digest in unit.digests) for unit in units}
        afford = {past for past in set(pasts.values()) if self._affords(past, need, extra)}
        return tuple(unit for unit in units if pasts[unit] in afford)

    def _affords(self, past: Collection[int], need: Need | None, extra: float) -> bool:
        left, delta = self._settings.epsilon - self._pure(past) - extra, self._settings.delta
        if need is None:
            return epsilon_of(self._history(past), delta) <= left
        if would_exceed(self._history(past), need.steps, left, delta):
            return False
        a_round, a_run = self._settings.epsilon_a_round, self._settings.epsilon_a_run
        if a_round is not None and would_exceed([], need.steps, a_round, delta):
            return False
        most = need.most if a_run is None else min(need.most, a_run)
        return math.isinf(most) or not would_exceed(self._history(past, need.run), need.steps, most, delta)

    def _epsilon(self, past: Collection[int], run: str | None = None) -> float:
        return epsilon_of(self._history(past, run), self._settings.delta) + self._pure(past, run)

    def _pure(self, past: Collection[int], run: str | None = None) -> float:
        """Return what telling numbers of units cost: epsilon without a delta, which simply adds up."""
        counts = [one for one in self._counts if run in {None, one.run}]
        return COUNT_EPSILON * sum(not set(past).isdisjoint(one.cohorts) for one in counts)

    def _history(self, past: Collection[int], run: str | None = None) -> list[Steps]:
        return [
            spend.steps
            for spend in self._spends
            if not set(past).isdisjoint(spend.cohorts) and run in {None, spend.run}
        ]

    def _runs(self, cohort: int) -> list[str]:
        return list(dict.fromkeys(spend.run for spend in self._spends if cohort in spend.cohorts))

    def _of_run(self, cohort: int, run: str) -> tuple[int, float]:
        return len(self._history({cohort}, run)), self._epsilon({cohort}, run)

    def _spent_error(self) -> BudgetError:
        return BudgetError(
            "the privacy budget is spent", got=f"epsilon {max(self.spent().values()):.3f}",
            expected=f"at most {self._settings.epsilon:g} with this round",
        )  # fmt: skip

    def _cohorts(self) -> list[int]:
        return sorted(set(self._cohort.values()))

    def _enrol(self, new: list[str], now_ms: int) -> None:
        if new:
            self._record.append({"kind": "units", "cohort": len(self._cohorts()), "units": new, "at_ms": now_ms})

    def _check_clock(self, now_ms: int) -> None:
        newest = max([*(spend.at_ms for spend in self._spends), *(count.at_ms for count in self._counts)], default=0)
        if now_ms < newest - BACKWARDS_MS:
            raise BudgetError(
                "the clock is behind the budget's record", got=f"{newest - now_ms} ms behind",
                expected=f"at most {BACKWARDS_MS} ms", advice="Set this machine's clock (NTP).",
            )  # fmt: skip

    def _take(self, part: Part) -> None:
        if part["kind"] == "units":
            self._cohort |= dict.fromkeys(part["units"], part["cohort"])
        elif part["kind"] == "count":
            cohorts = tuple(part["cohorts"])
            self._counts.append(Count(part.get("run", ""), part["unit"], cohorts, part["told"], part["at_ms"]))
        elif part["kind"] == "look":
            self._looks.add(part["run"])
        else:
            steps = Steps(part["multiplier"], part["rate"], part["count"])
            cohorts, work = tuple(part["cohorts"]), part.get("work", "train")
            self._spends.append(Spend(part["run"], part["round"], cohorts, steps, part["at_ms"], work))


def _two_sided_geometric(epsilon: float, source: NoiseSource) -> int:
    """Draw a whole number: the difference of two geometric ones."""
    first, second = (math.floor(math.log(u) / -epsilon) for u in source.uniforms(2))
    return int(first - second)


def _no_less(limit: float | None) -> float:
    return math.inf if limit is None else limit


def _check_enough(told: int, delta: float) -> None:
    if told < FEWEST:
        raise BudgetError(
            "the privacy budget is spent, or there are too few drawings to hide one among them",
            got=f"about {told} that can pay", expected=f"at least {FEWEST}",
            advice="Nothing was trained. Add drawings, or allow runs without privacy (rules.without_privacy).",
        )  # fmt: skip
    if delta >= 1 / told:
        raise BudgetError(
            "delta is too large for so many units", got=delta, expected=f"below 1/{told}",
            advice="Lower `delta` in site.toml; with a delta of 1/n a mechanism may give one unit away whole.",
        )  # fmt: skip


def _check(settings: BudgetSettings) -> None:
    for name, value in (
        ("epsilon", settings.epsilon), ("epsilon_a_run", settings.epsilon_a_run),
        ("epsilon_a_round", settings.epsilon_a_round),
    ):  # fmt: skip
        if value is not None and not 0 < value < float("inf"):
            raise BudgetError(f"`{name}` of the budget is no positive number", got=value)
    if not 0 < settings.delta < 1:
        raise BudgetError("`delta` of the budget lies in (0, 1)", got=settings.delta)
