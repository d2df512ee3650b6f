"""The guard of the drawings: each private round is paid for first, and what is told of it is what was done."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.budget import COUNT, Budget, BudgetError, Need
from client.budget_settings import BudgetSettings
from client.drawings import Drawing
from client.guard import Guard
from client.units import units_of
from common.errors import PrivacyError
from common.proto import bottega_pb2 as pb
from common.settings import PrivacySettings
from security.accounting import Steps, epsilon_of, multiplier_for
from security.noise import SeededNoise
from security.privacy_plan import kept_within, planned_steps
from security.vault import Vault

NOW = 1_800_000_000_000
ASKED = PrivacySettings(epsilon=4.0, delta=1e-4, steps=2, rate=0.5, multiplicity=3)
ROUNDS = 3


def a_guard(root: Path, drawings: int = 100, **limits: float) -> Guard:
    vault = Vault.open_or_create(root / "vault.key")
    own = [Drawing(f"{n:064x}", "a caption", f"artist {n % 60}", 8, b"") for n in range(drawings)]
    return Guard(Budget(root / "budget", vault, BudgetSettings.model_validate(limits)), own, SeededNoise(1))


def test_a_whole_run_stays_within_the_epsilon_that_it_asked_for(tmp_path: Path) -> None:
    guard = a_guard(tmp_path)
    told = [guard.allow("r1", number, ROUNDS, ASKED, NOW + number).told for number in range(1, ROUNDS + 1)]
    assert [one.epsilon for one in told] == sorted(one.epsilon for one in told)
    assert 3.9 < told[-1].epsilon <= 4.0
    assert guard.budget.spent()[0] == pytest.approx(told[-1].epsilon)


def test_what_is_told_is_what_was_asked_and_how_far_the_record_goes(tmp_path: Path) -> None:
    guard = a_guard(tmp_path)
    may = guard.allow("r1", 1, ROUNDS, ASKED, NOW)
    assert (may.told.clip, may.told.rate, may.told.steps, may.told.multiplicity) == (1e-3, 0.5, 2, 3)
    assert (may.told.unit, may.told.multiplier) == ("drawing", may.steps.multiplier)
    assert may.told.epsilon == epsilon_of([COUNT, may.steps], 1e-4)
    head = guard.budget.head
    assert may.told.budget == pb.BudgetHead(entries=head.entries, digest=bytes.fromhex(head.digest))
    assert len(may.units) == 100
    assert may.count != 100, "the exact number is nobody's business"


def test_a_site_that_allows_a_run_less_adds_more_noise_and_spends_less(tmp_path: Path) -> None:
    (tmp_path / "wide").mkdir()
    (tmp_path / "tight").mkdir()
    wide = a_guard(tmp_path / "wide").allow("r1", 1, ROUNDS, ASKED, NOW)
    guard = a_guard(tmp_path / "tight", epsilon_a_run=2.0)
    tight = [guard.allow("r1", number, ROUNDS, ASKED, NOW) for number in range(1, ROUNDS + 1)]
    assert tight[0].steps.multiplier > wide.steps.multiplier
    assert tight[-1].told.epsilon <= 2.0


def test_a_run_that_no_drawing_can_pay_to_its_end_is_refused_from_its_start(tmp_path: Path) -> None:
    """By a noised number: a site that went along as far as it could would end with rounds of noise alone."""
    guard = a_guard(tmp_path, epsilon=3.0)
    for number in (1, 2):
        with pytest.raises(BudgetError, match="the privacy budget is spent, or there are too few drawings"):
            guard.allow("r1", number, ROUNDS, ASKED, NOW)
    assert guard.budget.spends == ()
    assert guard.allow("r2", 1, ROUNDS, ASKED.model_copy(update={"epsilon": 2.0}), NOW).units


def test_a_round_that_no_drawing_can_pay_for_is_done_with_none(tmp_path: Path) -> None:
    """Another run took what was left. A refusal now would tell that there is no drawing with something left."""
    guard = a_guard(tmp_path, epsilon=5.0)
    guard.allow("r1", 1, ROUNDS, ASKED, NOW)
    units = units_of(guard.drawings, "drawing")
    while guard.budget.reserve(Need("r2", Steps(2.0, 1.0, 1)), 1, units, NOW, must=False):
        pass
    spent = guard.budget.spent()[0]
    assert guard.allow("r1", 2, ROUNDS, ASKED, NOW).units == ()
    assert guard.budget.spent()[0] == spent <= 5.0


def test_artists_are_the_units_when_they_are_what_is_protected(tmp_path: Path) -> None:
    guard = a_guard(tmp_path, drawings=600)
    may = guard.allow("r1", 1, ROUNDS, ASKED.model_copy(update={"unit": "artist"}), NOW)
    assert len(may.units) == 60
    assert {len(unit.rows) for unit in may.units} == {10}
    assert may.told.unit == "artist"


def test_a_record_that_has_forgotten_what_it_told_is_refused(tmp_path: Path) -> None:
    guard = a_guard(tmp_path)
    told = guard.allow("r1", 1, ROUNDS, ASKED, NOW).told.budget
    guard.check_not_behind(told)
    for file in (tmp_path / "budget").glob("*.entry"):
        file.unlink()
    with pytest.raises(BudgetError, match="not the one that was used before"):
        a_guard(tmp_path).check_not_behind(told)


def test_asking_again_takes_no_more_than_the_order_says_and_no_round_is_beyond_its_end(tmp_path: Path) -> None:
    guard, multipliers = a_guard(tmp_path), []
    for _ in range(4):
        may = guard.allow("r1", 1, ROUNDS, ASKED, NOW)
        multipliers.append(may.steps.multiplier)
        assert may.told.epsilon <= ASKED.epsilon
    assert multipliers == sorted(multipliers)
    assert multipliers[0] < multipliers[1], "what is left has to do for as many rounds as before"
    assert guard.budget.spent()[0] <= ASKED.epsilon
    with pytest.raises(BudgetError, match="in its own rounds alone"):
        guard.allow("r2", ROUNDS + 1, ROUNDS, ASKED, NOW)


def test_a_run_that_has_asked_for_far_too_much_is_refused() -> None:
    step = planned_steps(ASKED, ROUNDS, 4.0, 1e-4)
    assert kept_within(step, ROUNDS, [], 4.0, 1e-4) == step
    for lost in (ROUNDS, 100):
        with pytest.raises(PrivacyError, match="leaves too little of its epsilon"):
            kept_within(step, ROUNDS, [step] * lost, 4.0, 1e-4)


def test_a_run_that_lost_a_round_to_a_crash_still_comes_to_its_end(tmp_path: Path) -> None:
    guard = a_guard(tmp_path)
    told = [guard.allow("r1", number, ROUNDS, ASKED, NOW).told for number in (1, 2, 2, 3)]
    assert told[0].multiplier == told[1].multiplier < told[2].multiplier
    assert told[3].multiplier < 1.1 * told[2].multiplier
    assert told[-1].epsilon <= ASKED.epsilon
    assert guard.budget.spent()[0] <= ASKED.epsilon


def test_a_limit_of_a_round_makes_its_noise_larger(tmp_path: Path) -> None:
    guard = a_guard(tmp_path, epsilon_a_round=1.0)
    for number in range(1, ROUNDS + 1):
        may = guard.allow("r1", number, ROUNDS, ASKED, NOW)
        assert epsilon_of([COUNT, may.steps], 1e-4) <= 1.0
    with pytest.raises(BudgetError, match="spent for this run or round"):
        guard.allow("r1", 2, ROUNDS, ASKED, NOW)


@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_telling_how_many_there_are_takes_little_of_a_small_epsilon(tmp_path: Path, epsilon: float) -> None:
    may = a_guard(tmp_path).allow("r1", 1, 6, ASKED.model_copy(update={"epsilon": epsilon}), NOW)
    alone = multiplier_for(epsilon, 1e-4, 0.5, 12)
    assert alone < may.steps.multiplier < {1.0: 1.13, 3.0: 1.02}[epsilon] * alone
