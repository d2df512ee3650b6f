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

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import BottegaError
from common.settings import Settings
from security.accounting import Steps, epsilon_of, would_exceed
from security.files import locked
from security.vault import Vault

BACKWARDS_MS = 300_000
"""How far the clock may be behind the record's newest entry: five minutes."""

_FIRST_HEAD = hashlib.sha256(b"bottega/v1/budget\x00").hexdigest()


class BudgetError(BottegaError):
    """The privacy budget does not allow it, or its record cannot be believed."""

    advice = "Nothing was trained. `bottega site budget` shows what is left."


class BudgetSettings(Settings):
    """What a site allows to be spent on its drawings, ever. Written here and nowhere else."""

    epsilon: float
    """For the lifetime of a drawing, over all runs."""
    delta: float
    """Below one over the number of units."""
    epsilon_a_run: float | None = None
    """For one run; no other limit than the whole when left out."""


@dataclass(frozen=True)
class Head:
    """How far a record goes: its number of entries, and the digest of them all, hex."""

    entries: int
    digest: str


@dataclass(frozen=True)
class Spend:
    """One reservation, as it stands in the record."""

    run: str
    round_number: int
    cohorts: tuple[int, ...]
    steps: Steps
    at_ms: int


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
        self._folder, self._vault, self._settings = folder, vault, settings
        _check(settings)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._heads = [_FIRST_HEAD]
        self._cohort: dict[str, int] = {}
        self._spends: list[Spend] = []
        self._read_on()

    @property
    def head(self) -> Head:
        """How far the record goes."""
        return Head(len(self._heads) - 1, self._heads[-1])

    @property
    def spends(self) -> Sequence[Spend]:
        """Everything that was ever reserved, in order."""
        return tuple(self._spends)

    def check_not_behind(self, told: Head) -> None:
        """Refuse a record that is behind what others were told of it, or another one.

        Raises:
            BudgetError: It has fewer entries than were told, or other ones.
        """
        if told.entries >= len(self._heads) or self._heads[told.entries] != told.digest:
            raise BudgetError(
                "the budget's record is not the one that was used before", got=f"{self.head.entries} entries",
                expected=f"at least {told.entries}, the same",
                advice="It was restored from a backup or replaced. What was spent since is not known, so these "
                "drawings must not be trained on again; drawings that are new may be.",
            )  # fmt: skip

    def spent(self, run: str | None = None) -> dict[int, float]:
        """Return the epsilon that each cohort has spent, in all or in one run."""
        return {cohort: epsilon_of(self._history(cohort, run), self._settings.delta) for cohort in self._cohorts()}

    def reserve(self, run: str, round_number: int, steps: Steps, units: Iterable[str], now_ms: int) -> frozenset[str]:
        """Spend what a round may cost, before it starts.

        Args:
            run: The run's id.
            round_number: The round.
            steps: What will be done to each unit.
            units: Digests of the units that are there.
            now_ms: Unix time, milliseconds.

        Returns:
            The units that may be trained on; the others have nothing left.

        Raises:
            BudgetError: None can afford it, delta is too large for so many units, the clock went backwards, or the
                record cannot be read or written.
        """
        there = sorted(set(units))
        if not there or self._settings.delta >= 1 / len(there):
            raise BudgetError(
                "delta is too large for so few units", got=self._settings.delta, expected=f"below 1/{len(there)}",
                advice="Lower `delta` in site.toml; with a delta of 1/n a mechanism may give one unit away whole.",
            )  # fmt: skip
        with locked(self._folder / "lock", error=BudgetError):  # for runs that overlap
            self._read_on()
            self._check_clock(now_ms)
            self._enrol([unit for unit in there if unit not in self._cohort], now_ms)
            cohorts = sorted({self._cohort[unit] for unit in there})
            afford = tuple(cohort for cohort in cohorts if self._affords(cohort, run, steps))
            if not afford:
                raise BudgetError(
                    "the privacy budget is spent", got=f"epsilon {max(self.spent().values()):.3f}",
                    expected=f"at most {self._settings.epsilon:g} with this round",
                )  # fmt: skip
            self._append(
                {"kind": "spend", "run": run, "round": round_number, "cohorts": list(afford), "at_ms": now_ms,
                 "multiplier": steps.multiplier, "rate": steps.rate, "count": steps.count}
            )  # fmt: skip
        return frozenset(unit for unit in there if self._cohort[unit] in afford)

    def _affords(self, cohort: int, run: str, steps: Steps) -> bool:
        whole, delta = self._settings.epsilon, self._settings.delta
        if would_exceed(self._history(cohort), steps, whole, delta):
            return False
        a_run = self._settings.epsilon_a_run
        return a_run is None or not would_exceed(self._history(cohort, run), steps, a_run, delta)

    def _history(self, cohort: int, run: str | None = None) -> list[Steps]:
        return [spend.steps for spend in self._spends if cohort in spend.cohorts and run in {None, spend.run}]

    def _cohorts(self) -> list[int]:
        return sorted(set(self._cohort.values()))

    def _enrol(self, new: list[str], now_ms: int) -> None:
        if new:
            self._append({"kind": "units", "cohort": len(self._cohorts()), "units": new, "at_ms": now_ms})

    def _check_clock(self, now_ms: int) -> None:
        newest = max((spend.at_ms for spend in self._spends), default=0)
        if now_ms < newest - BACKWARDS_MS:
            raise BudgetError(
                "the clock is behind the budget's record", got=f"{newest - now_ms} ms behind",
                expected=f"at most {BACKWARDS_MS} ms", advice="Set this machine's clock (NTP).",
            )  # fmt: skip

    def _append(self, entry: dict[str, object]) -> None:
        plain = json.dumps(entry, sort_keys=True).encode()
        self._vault.write(self._file(len(self._heads)), plain, self._place())
        self._take(plain)

    def _read_on(self) -> None:
        while (file := self._file(len(self._heads))).exists():
            try:
                plain = bytes(self._vault.read(file, self._place()))
            except BottegaError as why:
                raise BudgetError(
                    "the budget's record cannot be believed", got=why.what,
                    advice="It was changed, or a part of it is missing. These drawings must not be trained on again.",
                ) from None  # fmt: skip
            self._take(plain)
        if beyond := [file for file in self._folder.glob("*.entry") if file > self._file(len(self._heads))]:
            raise BudgetError("an entry of the budget's record is missing", got=f"{len(beyond)} entries after it")

    def _take(self, plain: bytes) -> None:
        entry = json.loads(plain)
        if entry["kind"] == "units":
            self._cohort |= dict.fromkeys(entry["units"], entry["cohort"])
        else:
            steps = Steps(entry["multiplier"], entry["rate"], entry["count"])
            cohorts = tuple(entry["cohorts"])
            self._spends.append(Spend(entry["run"], entry["round"], cohorts, steps, entry["at_ms"]))
        self._heads.append(hashlib.sha256(self._heads[-1].encode() + plain).hexdigest())

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:08d}.entry"

    def _place(self) -> bytes:
        return f"budget/{len(self._heads)}/{self._heads[-1]}".encode()


def _check(settings: BudgetSettings) -> None:
    for name, value in (("epsilon", settings.epsilon), ("epsilon_a_run", settings.epsilon_a_run)):
        if value is not None and not 0 < value < float("inf"):
            raise BudgetError(f"`{name}` of the budget is no positive number", got=value)
    if not 0 < settings.delta < 1:
        raise BudgetError("`delta` of the budget lies in (0, 1)", got=settings.delta)
