"""The privacy budget of a site's drawings: an append-only record of what was spent, kept by the site alone.

**What a record is about.** Units of privacy (a drawing, or all drawings of one artist), each known by a digest of its
content, so that moving or renaming a folder buys nothing. Units that came together form a cohort with one history;
drawings that are added later begin a cohort, with nothing spent.

**When it is spent.** Before training starts, and for good: a round that crashed may have released something, so it has
cost what it might have.

**What decides.** Everybody sees whether a site answers, with how much noise, and what it says it spent. So all of that
follows from what runs asked for, and from one number a run: how many units can pay for it to its end, with noise on it.
Which units those are shows nowhere. Those that cannot pay are left out in silence; when another run took what they had,
a round may be of noise alone.

**How it is kept.** In a chain of encrypted entries (:mod:`client.budget_record`). What the record alone cannot show is
that its newest entries are missing, as after a restore from a backup. Its head (number of entries, digest) is therefore
meant to go out with every update, and a record that is behind what was told is refused
(:meth:`Budget.check_not_behind`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from client.budget_entries import Count, Need, Spend, SpendKind
from client.budget_record import BudgetError, Head, Part, Record
from client.budget_settings import BudgetSettings
from client.units import Unit, UnitKind
from security.accounting import Steps, epsilon_of, would_exceed
from security.clipping import clip_and_sum
from security.noise import NoiseSource, add_noise
from security.vault import Vault

BACKWARDS_MS = 300_000
"""How far the clock may be behind the record's newest entry: five minutes."""

COUNT = Steps(7.0, 1.0, 1)
"""What is done to each unit to tell, once a run, how many there are: noise of seven units goes on the number."""

FEWEST = 20
"""Fewer units, as told, are not trained on: no noise that hides one of so few leaves anything to learn."""

__all__ = ["Account", "Budget", "BudgetError", "Count", "Head", "Need", "Spend"]


@dataclass(frozen=True)
class Account:
    """What a cohort has spent.

    Attributes:
        cohort: Its number.
        drawings: How many there are in it.
        spent: Epsilon, over all runs.
        by_run: The rounds (or ballots) that were paid for in each run, and what they cost.
        side: Whether they are trained on, or held out and asked in ballots.
    """

    cohort: int
    drawings: int
    spent: float
    by_run: dict[str, tuple[int, float]]
    side: SpendKind = "train"


class Budget:
    """The record in a folder.

    Guarantees, over crashes, restarts and runs that overlap:

    ==========================================  ============================================================
    what happens                                what a drawing has spent
    ==========================================  ============================================================
    a round is asked for, whatever becomes      its price, before any training; at most ``epsilon`` in all
    of it
    it is asked for again                       its price again; in one run at most what its order says
    it would carry a drawing over               nothing: the drawing is left out
    the run or round has taken what it may      nothing: refused
    the drawing is moved, renamed or sorted     what it had spent
    it is new, or comes to others               nothing yet; if an artist is protected, what their others spent
    an entry is missing, changed or swapped     refused: nothing is believed
    the record is older than was told of it     refused, where it is told (:meth:`check_not_behind`)
    the clock went back by over five minutes    refused
    ==========================================  ============================================================

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
        self._sides: list[SpendKind] = []
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
    def looks(self) -> int:
        """How many adapters were looked at."""
        return len(self._looks)

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
        return {cohort: self._epsilon({cohort}, run) for cohort in range(len(self._sides))}

    def asked(self, run: str, work: SpendKind = "train") -> list[Steps]:
        """Return everything that a run asked for, whoever paid; of training, the number that it was told counts too.

        It follows from what was asked, not from which drawings there are: so what it comes to may be told.
        """
        counts = [one.steps for one in self._counts if one.run == run and work == "train"]
        return [*counts, *(one.steps for one in self._spends if (one.run, one.work) == (run, work))]

    def report(self) -> list[Account]:
        """Return what was spent, by cohort."""
        self._record.read_on()
        return [self._account(cohort, epsilon) for cohort, epsilon in self.spent().items()]

    def count(
        self, kind: UnitKind, units: Sequence[Unit], source: NoiseSource, now_ms: int, need: Need | None = None
    ) -> int:
        """Return how many units there are that can pay, with noise on it, so that it may be told.

        Those that cannot pay for the rest of the run are not counted, and pay nothing: whether a few new drawings came
        to them must not decide by itself whether the site takes part.

        It is drawn once in a run and kept: asked again, the answer is the same and costs nothing, and drawings that are
        added or spent meanwhile do not show by another number.

        Args:
            kind: What is protected as one.
            units: Those that are there.
            source: Where the noise comes from.
            now_ms: Unix time, milliseconds.
            need: What a round will cost besides; nothing when left out.

        Raises:
            BudgetError: There are too few that can pay, delta is too large for so many, or the record cannot be read or
                written.
        """
        run = need.run if need else ""
        with self._record.turn():
            self._enter(units, "train", now_ms)
            told = next((one.told for one in self._counts if (one.run, one.kind) == (run, kind)), None)
            if told is None:
                able, cohorts = self._able(units, need, need.whole if need else None, (COUNT,))
                told = _noised(len(able), source)
                self._record.append(
                    {"kind": "count", "run": run, "unit": kind, "cohorts": cohorts, "told": told, "at_ms": now_ms,
                     "steps": vars(COUNT)}
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
            self._enter(units, need.work, now_ms)
            self._check_run(need, round_number)
            able, cohorts = self._able(units, need, need.steps)
            if must and units and not able:
                raise self._spent_error()
            self._record.append(
                {"kind": "spend", "run": need.run, "round": round_number, "work": need.work, "at_ms": now_ms,
                 "cohorts": cohorts, "steps": vars(need.steps)}
            )  # fmt: skip
        return able

    def look(self, run: str, now_ms: int) -> None:
        """Record the one look at a run's adapter by which this site may object to it.

        An objection tells of the drawings and is not noised. Who could ask again and again, with adapters made for it,
        could ask which drawings there are; so nobody is answered twice in a run, whatever became of the first answer,
        nor more often than the settings say, over all runs.

        Raises:
            BudgetError: There was a look in this run before, no look is left, or the record cannot be read or written.
        """
        with self._record.turn():
            if run in self._looks:
                raise BudgetError("this site has looked at an adapter of this run before", got=run, expected="one look")
            if len(self._looks) >= self._settings.looks:
                raise BudgetError(
                    "no look at an adapter is left", got=f"{len(self._looks)} taken", expected=self._settings.looks,
                    advice="Each look tells one bit of these drawings without noise. Think before you raise `looks`.",
                )  # fmt: skip
            self._record.append({"kind": "look", "run": run, "at_ms": now_ms})

    def _enter(self, units: Sequence[Unit], side: SpendKind, now_ms: int) -> None:
        """Enter drawings that are new, as one cohort. None at all is no error: it would tell of a lone one."""
        self._check_clock(now_ms)
        there = sorted(frozenset().union(*(unit.digests for unit in units)))
        if new := [digest for digest in there if digest not in self._cohort]:
            number = len(self._sides)
            self._record.append({"kind": "units", "cohort": number, "side": side, "units": new, "at_ms": now_ms})

    def _check_run(self, need: Need, number: int) -> None:
        """Hold a run to its limits by all that it asked, whoever paid: a refusal then tells of no drawing."""
        limits, counts = self._settings, [one.steps for one in self._counts if one.run == need.run]
        again = [
            one.steps for one in self._spends if (one.run, one.work, one.round_number) == (need.run, need.work, number)
        ]
        this_round = [*(counts if need.work == "train" else ()), *again]
        most = min(need.most, _no_less(limits.epsilon_a_run))
        for past, limit in ((self.asked(need.run, need.work), most), (this_round, _no_less(limits.epsilon_a_round))):
            if limit < math.inf and would_exceed(past, need.steps, limit, min(need.delta, limits.delta)):
                raise BudgetError(
                    "the privacy budget is spent for this run or round", got="more, what was asked again counted in",
                    expected=f"epsilon {limit:g} at most",
                )  # fmt: skip

    def _able(
        self, units: Sequence[Unit], need: Need | None, steps: Steps | None, extra: Sequence[Steps] = ()
    ) -> tuple[tuple[Unit, ...], list[int]]:
        """Return the units that can pay for some steps and for what is extra, and the cohorts that do.

        Of the same side every cohort pays that can, whether its drawings are there now or not: what one drawing has
        left does not hang on which others are there.
        """
        affords = cache(lambda history, of_run: self._affords(history, of_run, need, steps, extra))

        def can(past: Collection[int]) -> bool:
            of_run = self._history(past, need.run) if need else []
            return affords(tuple(self._history(past)), tuple(of_run))

        side: SpendKind = need.work if need else "train"
        able = tuple(unit for unit in units if can({self._cohort[digest] for digest in unit.digests}))
        paying = {self._cohort[digest] for unit in able for digest in unit.digests}
        return able, sorted(paying | {c for c, of in enumerate(self._sides) if of == side and can({c})})

    def _affords(
        self, history: Sequence[Steps], of_run: Sequence[Steps], need: Need | None, steps: Steps | None,
        extra: Sequence[Steps],
    ) -> bool:  # fmt: skip
        limits = self._settings
        *spent, last = [*extra, *([steps] if steps else [])]
        if would_exceed([*history, *spent], last, limits.epsilon, limits.delta):
            return False
        most = min(need.most if need else math.inf, _no_less(limits.epsilon_a_run))
        return math.isinf(most) or not would_exceed([*of_run, *spent], last, most, limits.delta)

    def _epsilon(self, past: Collection[int], run: str | None = None) -> float:
        return epsilon_of(self._history(past, run), self._settings.delta)

    def _history(self, past: Collection[int], run: str | None = None) -> list[Steps]:
        paid: list[Spend | Count] = [*self._counts, *self._spends]
        return [one.steps for one in paid if not set(past).isdisjoint(one.cohorts) and run in {None, one.run}]

    def _account(self, cohort: int, epsilon: float) -> Account:
        drawings = [*self._cohort.values()].count(cohort)
        by_run = {run: self._of_run(cohort, run) for run in self._runs(cohort)}
        return Account(cohort, drawings, epsilon, by_run, self._sides[cohort])

    def _runs(self, cohort: int) -> list[str]:
        return list(dict.fromkeys(spend.run for spend in self._spends if cohort in spend.cohorts))

    def _of_run(self, cohort: int, run: str) -> tuple[int, float]:
        rounds = [one for one in self._spends if cohort in one.cohorts and one.run == run]
        return len(rounds), self._epsilon({cohort}, run)

    def _spent_error(self) -> BudgetError:
        return BudgetError(
            "the privacy budget is spent", got=f"epsilon {max(self.spent().values()):.3f}",
            expected=f"at most {self._settings.epsilon:g} with this round",
        )  # fmt: skip

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
            self._sides.append(part["side"])
            return
        if part["kind"] == "look":
            self._looks.add(part["run"])
            return
        cohorts, steps = tuple(part["cohorts"]), Steps(**part["steps"])
        if part["kind"] == "count":
            self._counts.append(Count(part["run"], part["unit"], cohorts, part["told"], steps, part["at_ms"]))
        else:
            self._spends.append(Spend(part["run"], part["round"], cohorts, steps, part["at_ms"], part["work"]))


def _noised(count: int, source: NoiseSource) -> int:
    """Return a number of units with noise on it, at least 1: one unit more changes what is noised by at most 1."""
    counted = clip_and_sum(torch.ones(count, 1), 1.0)
    return max(1, round(float(add_noise(counted, COUNT.multiplier, source).total)))


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
