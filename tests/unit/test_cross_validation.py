"""Group testing by ballots: who does harm is found, who is only unlike others is not, and lies move little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.candidates import MOST_CANDIDATES
from server.cross_validation import A_DEAL, DEALS, FEWEST_SITES, GROUP, Evidence, Groups, Harm, deal

SITES = tuple(f"s{place:02}" for place in range(12))
MOST = 0.1


def ballots(
    groups: Groups, worth: Mapping[str, float], chance: np.random.Generator, noise: float = 0.05
) -> dict[str, list[float]]:
    """Return what honest sites say where each update alone would bring them so far."""
    whole = float(np.mean(list(worth.values())))
    told = [float(np.mean([worth[site] for site in group])) for group in groups]
    return {site: [whole, *(one + noise * chance.standard_normal() for one in told)] for site in worth}


def played(worth: Mapping[str, float], rounds: int, lies: Sequence[str] = (), seed: int = 0) -> list[Harm]:
    """Return what is found after each round; those who lie speak for groups that they are in and against all others."""
    chance, evidence, found = np.random.default_rng(seed), Evidence(), []
    for _ in range(rounds):
        groups = deal(list(worth), chance)
        told = ballots(groups, worth, chance)
        told |= {liar: [0.5, *(9.0 if set(lies) & set(group) else -9.0 for group in groups)] for liar in lies}
        evidence.hear(groups, told)
        found.append(evidence.harm(MOST))
    return found


def worths(**others: float) -> dict[str, float]:
    """Return what sites are worth: each about 1, but for some."""
    chance = np.random.default_rng(1)
    return {site: float(1 + 0.05 * chance.standard_normal()) for site in SITES} | others


@given(st.integers(0, 200), st.integers(0, 2**32))
def test_every_site_is_dealt_twice_to_groups_in_which_none_can_be_told_apart(count: int, seed: int) -> None:
    sites = [f"site-{place}" for place in range(count)]
    groups = deal(sites, np.random.default_rng(seed))
    if count < FEWEST_SITES:
        assert groups == ()
        return
    assert min(map(len, groups)) >= GROUP
    assert len(groups) <= DEALS * A_DEAL < MOST_CANDIDATES
    assert sorted(site for group in groups for site in group) == sorted(sites * DEALS)


def test_a_deal_does_not_hang_on_the_order_of_sites_and_hangs_on_chance() -> None:
    one = deal(SITES, np.random.default_rng(1))
    assert one == deal(SITES[::-1], np.random.default_rng(1))
    assert one != deal(SITES, np.random.default_rng(2))


@pytest.mark.parametrize("seed", range(5))
def test_three_that_do_harm_are_found_and_nobody_else(seed: int) -> None:
    bad = {"s01": 0.1, "s05": 0.0, "s09": -0.1}
    found = played(worths(**bad), 4, seed=seed)
    assert not found[0].sites, "one round cannot tell a site from its group"
    assert found[-1].sites == bad.keys()
    assert found[-1].share == pytest.approx(0.25, abs=0.06), "a quarter of the updates does nothing"
    assert "s01, s05, s09" in found[-1].words()


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_found_among_the_honest(seed: int) -> None:
    assert not any(harm.sites for harm in played(worths(), 8, seed=seed))


def test_one_who_helps_nobody_else_is_not_left_out_for_being_unlike_others() -> None:
    assert not any(harm.sites for harm in played(worths(s03=0.2), 8))


def test_one_whose_updates_undo_those_of_others_is_left_out() -> None:
    assert played(worths(s03=-1.5), 5)[-1].sites == {"s03"}


@pytest.mark.parametrize("seed", range(5))
def test_the_lies_of_a_quarter_save_nobody_and_accuse_nobody(seed: int) -> None:
    bad = {"s01": 0.0, "s05": 0.0, "s09": 0.0}
    assert played(worths(**bad), 5, lies=list(bad), seed=seed)[-1].sites == bad.keys()
    assert not played(worths(), 5, lies=list(bad), seed=seed)[-1].sites - bad.keys()


def test_what_is_told_at_another_length_or_in_another_order_is_the_same() -> None:
    chance = np.random.default_rng(0)
    one, other = Evidence(), Evidence()
    for _ in range(4):
        groups = deal(SITES, chance)
        told = ballots(groups, worths(s01=0.0, s05=0.0, s09=0.0), chance)
        one.hear(groups, told)
        other.hear(groups, {site: [1e200 * number for number in told[site]] for site in reversed(SITES)})
    assert one.harm(0.01).sites == other.harm(0.01).sites != set()
    assert one.harm(0.01).share == pytest.approx(other.harm(0.01).share)


@pytest.mark.parametrize(
    "ballot", [(), (1.0,), (0.0,) * 9, (float("nan"),) * 9, (float("inf"), *(1.0,) * 8), (1.0,) * 10]
)
def test_a_ballot_that_says_nothing_is_as_if_it_had_not_come(ballot: Sequence[float]) -> None:
    chance = np.random.default_rng(0)
    groups = deal(SITES, chance)
    told = ballots(groups, worths(s01=0.0, s05=0.0, s09=0.0), chance)
    with_it, without = Evidence(), Evidence()
    for _ in range(4):
        with_it.hear(groups, told | {"s02": list(ballot)})
        without.hear(groups, {site: one for site, one in told.items() if site != "s02"})
    assert with_it.harm(0.01) == without.harm(0.01)


def test_few_ballots_and_rounds_that_make_no_progress_show_nothing() -> None:
    chance, worth = np.random.default_rng(0), worths(s01=-2.0)
    for told in (2, 0):
        evidence = Evidence()
        groups = deal(SITES, chance)
        every = ballots(groups, worth, chance)
        evidence.hear(groups, {site: every[site] for site in SITES[:told]})
        assert evidence.harm(0.0) == Harm()
    evidence = Evidence()
    for _ in range(5):
        groups = deal(SITES, chance)
        evidence.hear(groups, {site: (-np.abs(chance.standard_normal(len(groups) + 1))).tolist() for site in SITES})
    assert evidence.harm(0.0) == Harm()


def test_half_of_the_sites_are_never_left_out() -> None:
    bad = dict.fromkeys(SITES[:6], -1.0)
    assert all(len(harm.sites) < 6 for harm in played(worths(**bad), 6))


def test_honest_work_mends_a_record() -> None:
    chance, evidence = np.random.default_rng(0), Evidence()
    for worth in [worths(s01=0.0, s05=0.0, s09=0.0)] * 4 + [worths()] * 12:
        groups = deal(SITES, chance)
        evidence.hear(groups, ballots(groups, worth, chance))
    assert evidence.harm(MOST) == Harm()
