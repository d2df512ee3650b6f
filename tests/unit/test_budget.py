"""The privacy budget: spent before training, kept over restarts and crashes, and believed only when it is whole."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from client.budget import COUNT, Budget, BudgetError, Head, Need, _noised
from client.budget_settings import BudgetSettings
from client.units import Unit
from common.errors import BottegaError
from security import files
from security.accounting import Steps, epsilon_of, multiplier_for, would_exceed
from security.noise import SeededNoise
from security.vault import Vault

DELTA = 1e-5
ROUND = Steps(30.0, 1.0, 10)
COST = epsilon_of([ROUND], DELTA)
UNITS = tuple(Unit(frozenset({f"{n:064x}"}), (n,)) for n in range(20))
NOW = 1_800_000_000_000


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault.open_or_create(tmp_path / "vault.key")


def opened(tmp_path: Path, vault: Vault, epsilon: float = 3.0, **more: float) -> Budget:
    return Budget(
        tmp_path / "budget", vault, BudgetSettings.model_validate({"epsilon": epsilon, "delta": DELTA, **more})
    )


def test_a_round_costs_what_the_accountant_says_and_rounds_compose(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault)
    assert budget.spent() == {}
    assert budget.reserve(Need("r1", ROUND), 1, UNITS, NOW) == UNITS
    assert budget.spent() == {0: COST}
    budget.reserve(Need("r1", ROUND), 2, UNITS, NOW)
    budget.reserve(Need("r2", ROUND), 1, UNITS, NOW)
    assert budget.spent()[0] == pytest.approx(epsilon_of([Steps(30.0, 1.0, 30)], DELTA))
    assert budget.spent("r1")[0] == pytest.approx(epsilon_of([Steps(30.0, 1.0, 20)], DELTA))
    assert COST < budget.spent()[0] < 3 * COST


def test_what_was_spent_is_remembered_by_whoever_opens_the_record_next(tmp_path: Path, vault: Vault) -> None:
    opened(tmp_path, vault).reserve(Need("r1", ROUND), 1, UNITS, NOW)
    again = opened(tmp_path, vault)
    assert again.spent() == {0: COST}
    assert again.head.entries == 1


def test_the_round_that_would_go_over_is_refused_and_costs_nothing(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault, epsilon=1.5 * COST)
    budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    further = 0
    while not would_exceed([spend.steps for spend in budget.spends], ROUND, 1.5 * COST, DELTA):
        further += 1
        budget.reserve(Need("r1", ROUND), 1 + further, UNITS, NOW)
    assert further >= 1, "composition is better than adding up"
    rounds = 2 + further
    with pytest.raises(BudgetError, match="the privacy budget is spent"):
        budget.reserve(Need("r1", ROUND), rounds, UNITS, NOW)
    assert budget.spent()[0] <= 1.5 * COST
    assert len(budget.spends) == 1 + further
    budget.reserve(Need("r1", Steps(300.0, 1.0, 1)), rounds, UNITS, NOW)  # a smaller one may still fit


def test_a_run_has_a_limit_of_its_own(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault, epsilon=10.0, epsilon_a_run=1.1 * COST)
    budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    with pytest.raises(BudgetError, match="budget is spent"):
        budget.reserve(Need("r1", ROUND), 2, UNITS, NOW)
    budget.reserve(Need("r2", ROUND), 1, UNITS, NOW)


def test_a_run_costs_no_more_than_its_order_says_however_often_a_round_is_asked_for(
    tmp_path: Path, vault: Vault
) -> None:
    budget = opened(tmp_path, vault, epsilon=100.0)
    need = Need("r1", ROUND, 1.01 * epsilon_of([ROUND, ROUND], budget.settings.delta))
    budget.reserve(need, 1, UNITS, NOW)
    budget.reserve(need, 1, UNITS, NOW)
    with pytest.raises(BudgetError, match="the privacy budget is spent"):
        budget.reserve(need, 1, UNITS, NOW)
    assert max(budget.spent("r1").values()) <= need.most
    budget.reserve(Need("r2", ROUND, need.most), 1, UNITS, NOW)


def test_a_round_has_a_limit_of_its_own(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault, epsilon=100.0, epsilon_a_round=1.01 * COST)
    budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    with pytest.raises(BudgetError, match="the privacy budget is spent"):
        budget.reserve(Need("r1", Steps(ROUND.multiplier, ROUND.rate, 2 * ROUND.count)), 2, UNITS, NOW)
    budget.reserve(Need("r1", ROUND), 3, UNITS, NOW)


def test_drawings_that_have_nothing_left_are_not_counted_and_hold_up_no_new_ones(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault)
    old, new = many(60), many(80, start=5000)
    while True:
        try:
            budget.reserve(Need("r1", ROUND), 1, old, NOW)
        except BudgetError:
            break
    need = Need("r2", ROUND)
    told = budget.count("drawing", (*old, *new), SeededNoise(1), NOW, need)
    assert abs(told - 80) < 60
    assert budget.reserve(need, 1, (*old, *new), NOW) == new


def test_a_few_new_drawings_beside_those_that_have_nothing_left_decide_nothing(tmp_path: Path, vault: Vault) -> None:
    """With them the site refuses as it does without: it would train on them alone, and their being there would show."""
    budget = opened(tmp_path, vault)
    old, few = many(60), many(1, start=5000)
    while True:
        try:
            budget.reserve(Need("r1", ROUND), 1, old, NOW)
        except BudgetError:
            break
    with pytest.raises(BudgetError, match="too few drawings to hide one"):
        budget.count("drawing", (*old, *few), Quiet(), NOW, Need("r2", ROUND))


class Quiet:
    """A source whose noise is none."""

    def normals(self, count: int) -> np.ndarray:
        return np.zeros(count)

    def uniforms(self, count: int) -> np.ndarray:
        return np.full(count, 0.999)


def test_what_a_drawing_has_left_does_not_hang_on_which_others_are_there(tmp_path: Path, vault: Vault) -> None:
    """It pays for each round that it could have been in: else it would have more left because another was away too."""
    spent = []
    for place, there in (("a", UNITS), ("b", UNITS[:10]), ("c", ())):
        budget = Budget(tmp_path / place, vault, BudgetSettings(delta=DELTA))
        budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
        assert budget.reserve(Need("r1", ROUND), 2, there, NOW) == there
        spent.append((budget.head.entries, budget.spent()))
    assert spent[0] == spent[1] == spent[2] == (2, {0: epsilon_of([ROUND, ROUND], DELTA)})


def test_a_ballot_costs_those_that_are_held_out_alone(tmp_path: Path, vault: Vault) -> None:
    budget, held_out = opened(tmp_path, vault), many(30, start=5000)
    budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    budget.reserve(Need("r1", ROUND, work="ballot"), 1, held_out, NOW)
    budget.reserve(Need("r1", ROUND, work="ballot"), 2, held_out, NOW)
    assert budget.spent() == {0: COST, 1: epsilon_of([ROUND, ROUND], DELTA)}


def test_new_drawings_begin_with_nothing_spent_and_old_ones_are_left_out_when_theirs_is(
    tmp_path: Path, vault: Vault
) -> None:
    budget = opened(tmp_path, vault, epsilon=1.1 * COST)
    budget.reserve(Need("r1", ROUND), 1, UNITS[:10], NOW)
    assert budget.reserve(Need("r1", ROUND), 2, UNITS, NOW) == UNITS[10:]
    assert budget.spent() == {0: COST, 1: COST}
    with pytest.raises(BudgetError):
        budget.reserve(Need("r1", ROUND), 3, UNITS, NOW)


def test_another_folder_with_the_same_drawings_has_the_same_budget(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault, epsilon=1.1 * COST)
    budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    with pytest.raises(BudgetError):
        budget.reserve(Need("r9", ROUND), 1, tuple(reversed(UNITS)), NOW)


def test_two_who_spend_at_once_see_each_others_spending(tmp_path: Path, vault: Vault) -> None:
    one, other = opened(tmp_path, vault, epsilon=1.1 * COST), opened(tmp_path, vault, epsilon=1.1 * COST)
    one.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    with pytest.raises(BudgetError, match="budget is spent"):
        other.reserve(Need("r2", ROUND), 1, UNITS, NOW)


@pytest.mark.parametrize("step", range(1, 5))
def test_a_power_cut_while_spending_releases_nothing(
    tmp_path: Path, vault: Vault, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, writes, real = opened(tmp_path, vault), iter(range(1, 99)), files._sync_folder

    def cut(folder: Path) -> None:
        if next(writes) == step:
            raise KeyboardInterrupt
        real(folder)

    monkeypatch.setattr(files, "_sync_folder", cut)
    spent = 0
    try:
        for number in (1, 2, 3):
            budget.reserve(Need("r1", ROUND), number, UNITS, NOW)
            spent = number
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    again = opened(tmp_path, vault)
    assert len(again.spends) >= spent, "what was granted stays granted"


@given(at=st.integers(0, 2), where=st.floats(0, 0.999), bit=st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_an_entry_that_was_changed_anywhere_is_not_believed(
    tmp_path_factory: pytest.TempPathFactory, at: int, where: float, bit: int
) -> None:
    root = tmp_path_factory.mktemp("budget")
    vault = Vault.open_or_create(root / "vault.key")
    budget = opened(root, vault)
    budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    budget.reserve(Need("r1", ROUND), 2, UNITS, NOW)
    budget.reserve(Need("r1", ROUND), 3, UNITS, NOW)
    file = sorted((root / "budget").glob("*.entry"))[at]
    content = bytearray(file.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    file.write_bytes(bytes(content))
    with pytest.raises(BudgetError, match="cannot be believed"):
        opened(root, vault)


def test_an_entry_that_was_taken_out_swapped_or_cut_short_is_not_believed(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault)
    for number in (1, 2, 3, 4):
        budget.reserve(Need("r1", ROUND), number, UNITS, NOW)
    first, second, third, fourth = sorted((tmp_path / "budget").glob("*.entry"))
    kept = {file: file.read_bytes() for file in (first, second, third, fourth)}
    second.unlink()
    with pytest.raises(BudgetError, match="missing"):
        opened(tmp_path, vault)
    second.touch(mode=0o600)
    second.write_bytes(kept[third])
    third.write_bytes(kept[second])
    with pytest.raises(BudgetError, match="cannot be believed"):
        opened(tmp_path, vault)
    second.write_bytes(kept[second])
    third.write_bytes(kept[third][:-3])
    with pytest.raises(BudgetError, match="cannot be believed"):
        opened(tmp_path, vault)
    third.write_bytes(kept[third])
    assert len(opened(tmp_path, vault).spends) == 4


def test_the_head_that_is_told_says_nothing_of_the_drawings(tmp_path: Path, vault: Vault) -> None:
    """Who knows every drawing and every time cannot make the digest again, to try whether one more is there."""
    heads = set()
    for place in ("a", "b"):
        budget = Budget(tmp_path / place, vault, BudgetSettings())
        budget.reserve(Need("r", Steps(2.0, 0.25, 1)), 1, many(30), 1_000)
        heads.add(budget.head.digest)
        again = Budget(tmp_path / place, vault, BudgetSettings())
        assert again.head == budget.head
    assert len(heads) == 2


def test_a_record_that_came_back_from_a_backup_is_seen_by_the_head_that_was_told(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault)
    budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    earlier = budget.head
    budget.reserve(Need("r1", ROUND), 2, UNITS, NOW)
    told = budget.head
    budget.check_not_behind(earlier)
    budget.check_not_behind(told)
    sorted((tmp_path / "budget").glob("*.entry"))[-1].unlink()
    restored = opened(tmp_path, vault)
    restored.check_not_behind(earlier)
    with pytest.raises(BudgetError, match="not the one that was used before"):
        restored.check_not_behind(told)
    restored.reserve(Need("r1", Steps(31.0, 1.0, 10)), 2, UNITS, NOW)
    with pytest.raises(BudgetError, match="not the one that was used before"):
        restored.check_not_behind(told)
    with pytest.raises(BudgetError):
        restored.check_not_behind(Head(0, "0" * 64))


def test_a_clock_that_went_backwards_is_refused(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault)
    budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    budget.reserve(Need("r1", ROUND), 2, UNITS, NOW - 60_000)
    with pytest.raises(BudgetError, match="the clock is behind"):
        budget.reserve(Need("r1", ROUND), 3, UNITS, NOW - 86_400_000)


def many(count: int, start: int = 1000) -> tuple[Unit, ...]:
    return tuple(Unit(frozenset({f"{n:064x}"}), (n,)) for n in range(start, start + count))


def test_a_delta_that_may_give_a_unit_away_is_refused(tmp_path: Path, vault: Vault) -> None:
    budget = Budget(tmp_path / "budget", vault, BudgetSettings(epsilon=3, delta=0.01))
    with pytest.raises(BudgetError, match=r"delta is too large for so many units; got 0\.01; expected below 1/"):
        budget.count("drawing", many(300), SeededNoise(1), NOW)


def test_nothing_and_too_few_are_refused(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault)
    for few in ((), UNITS[:3]):  # with the same words: that there is none at all is nobody's to know
        with pytest.raises(BudgetError, match="too few drawings to hide one among them"):
            budget.count("drawing", few, SeededNoise(2), NOW)
    assert budget.spends == ()


def test_how_many_there_are_is_told_once_with_noise_and_costs_once(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault)
    told = budget.count("drawing", many(200), SeededNoise(1), NOW)
    assert 100 < told < 300
    assert budget.spent() == {0: epsilon_of([COUNT], DELTA)}
    for source in (SeededNoise(2), SeededNoise(3)):
        assert budget.count("drawing", many(200), source, NOW) == told
        assert opened(tmp_path, vault).count("drawing", many(200), source, NOW) == told
    assert budget.spent() == {0: epsilon_of([COUNT], DELTA)}
    budget.count("artist", many(200), SeededNoise(4), NOW)
    budget.reserve(Need("r1", ROUND), 1, many(200), NOW)
    assert budget.spent()[0] == epsilon_of([COUNT, COUNT, ROUND], DELTA)


def test_the_noise_on_the_number_is_of_seven_units() -> None:
    source = SeededNoise(7)
    drawn = np.array([_noised(200, source) for _ in range(4000)])
    spread = drawn + np.random.default_rng(1).uniform(-0.5, 0.5, len(drawn))
    assert kstest(spread, norm(200, COUNT.multiplier).cdf).pvalue > 1e-3
    for wrong in (2 / 3, 3 / 2):
        assert kstest(drawn, norm(200, wrong * COUNT.multiplier).cdf).pvalue < 1e-9
    assert min(_noised(0, source) for _ in range(50)) == 1, "no number below one is told"


def test_telling_the_number_is_refused_when_it_cannot_be_afforded(tmp_path: Path, vault: Vault) -> None:
    with pytest.raises(BudgetError, match="budget is spent"):
        opened(tmp_path, vault, epsilon=0.05).count("drawing", many(200), SeededNoise(1), NOW)


def test_an_artist_has_the_past_of_all_their_drawings(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault, epsilon=1.1 * COST)
    old, new = many(30), many(30, start=5000)
    budget.reserve(Need("r1", ROUND), 1, old, NOW)
    artists = tuple(Unit(a.digests | b.digests, (*a.rows, *b.rows)) for a, b in zip(old, new, strict=True))
    with pytest.raises(BudgetError, match="budget is spent"):
        budget.reserve(Need("r2", ROUND), 1, artists, NOW)
    assert budget.reserve(Need("r2", ROUND), 2, new, NOW) == new
    stranger = Unit(frozenset({"f" * 64}), (99,))
    assert budget.reserve(Need("r2", ROUND), 3, (*artists, stranger), NOW) == (stranger,)


def test_the_report_says_what_each_run_cost(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault)
    budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    budget.reserve(Need("r1", ROUND), 2, UNITS, NOW)
    budget.reserve(Need("r2", ROUND), 1, UNITS, NOW)
    [account] = budget.report()
    assert (account.cohort, account.drawings, account.by_run["r2"]) == (0, 20, (1, COST))
    assert account.by_run["r1"] == (2, budget.spent("r1")[0])
    assert account.spent == budget.spent()[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.0}, {"epsilon": -1.0}, {"epsilon": math.nan}, {"epsilon": math.inf}, {"delta": 0.0},
        {"delta": 1.0}, {"delta": math.nan}, {"epsilon_a_run": 0.0}, {"epsilon_a_run": math.nan},
        {"epsilon_a_round": 0.0}, {"epsilon_a_round": math.inf},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(tmp_path: Path, vault: Vault, wrong: dict[str, float]) -> None:
    with pytest.raises(BottegaError):
        Budget(tmp_path / "budget", vault, BudgetSettings.model_validate({"epsilon": 3.0, "delta": DELTA, **wrong}))


@given(rounds=st.lists(st.sampled_from([(8.0, 1.0, 4), (20.0, 1.0, 10), (6.0, 0.9, 1)]), min_size=1, max_size=8))
@settings(max_examples=6, deadline=None)
def test_whatever_is_asked_the_whole_never_goes_over_the_budget(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[float, float, int]]
) -> None:
    root = tmp_path_factory.mktemp("budget")
    budget = opened(root, Vault.open_or_create(root / "vault.key"), epsilon=2.0)
    for number, asked in enumerate(rounds, 1):
        try:
            budget.reserve(Need(f"r{number % 2}", Steps(*asked)), number, UNITS, NOW + number)
        except BudgetError:
            continue
    assert all(spent <= 2.0 for spent in budget.spent().values())


def test_noise_can_be_calibrated_to_what_is_left(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault, epsilon=1.0)
    multiplier = multiplier_for(1.0, DELTA, 1.0, 20)
    for number in (1, 2):
        budget.reserve(Need("r1", Steps(multiplier, 1.0, 10)), number, UNITS, NOW)
    assert 0.98 < budget.spent()[0] <= 1.0


def test_a_call_is_one_entry_whatever_drawings_there_are_and_also_when_it_is_refused(
    tmp_path: Path, vault: Vault
) -> None:
    """The number of entries is told: it must not show that drawings are new, or that none are held out."""
    old, more = (Budget(tmp_path / place, vault, BudgetSettings(epsilon=9, delta=DELTA)) for place in ("a", "b"))
    for budget in (old, more):
        budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    old.reserve(Need("r1", ROUND), 2, UNITS, NOW)
    more.reserve(Need("r1", ROUND), 2, (*UNITS, *many(1)), NOW)
    assert old.head.entries == more.head.entries
    with pytest.raises(BudgetError):
        more.reserve(Need("r1", ROUND, 0.5 * COST), 3, UNITS, NOW)
    old.reserve(Need("r1", ROUND), 3, (), NOW)
    assert old.head.entries == more.head.entries


def test_drawings_that_come_during_a_run_do_not_change_the_number_that_it_was_told(
    tmp_path: Path, vault: Vault
) -> None:
    budget = opened(tmp_path, vault)
    need = Need("r1", ROUND)
    told = budget.count("drawing", many(200), SeededNoise(1), NOW, need)
    assert budget.count("drawing", many(230), SeededNoise(2), NOW, need) == told
    assert budget.count("drawing", many(230), SeededNoise(3), NOW, Need("r2", ROUND)) != told


def test_a_round_has_a_limit_of_its_own_however_often_it_is_asked_for(tmp_path: Path, vault: Vault) -> None:
    budget = opened(tmp_path, vault, epsilon=10.0, epsilon_a_round=1.1 * COST)
    budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    with pytest.raises(BudgetError, match="budget is spent"):
        budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    budget.reserve(Need("r1", ROUND), 2, UNITS, NOW)


def test_what_cannot_be_written_did_not_happen(tmp_path: Path, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = opened(tmp_path, vault)

    def full(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_sync_folder", full)
    with pytest.raises(KeyboardInterrupt):
        budget.reserve(Need("r1", ROUND), 1, UNITS, NOW)
    monkeypatch.undo()
    budget.reserve(Need("r1", ROUND), 2, UNITS, NOW)
    again = opened(tmp_path, vault)
    assert (again.head, again.spent()) == (budget.head, budget.spent())


def test_looks_at_adapters_are_counted_over_all_runs_and_end(tmp_path: Path, vault: Vault) -> None:
    """Each tells one bit without noise: with no end to runs there would be none to the bits."""
    budget = opened(tmp_path, vault, looks=2)
    for run in ("r1", "r2"):
        budget.look(run, NOW)
    for one in (budget, opened(tmp_path, vault, looks=2)):
        assert one.looks == 2
        with pytest.raises(BudgetError, match="no look at an adapter is left"):
            one.look("r3", NOW)
    opened(tmp_path, vault, looks=3).look("r3", NOW)
