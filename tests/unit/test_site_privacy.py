"""A site as a whole: what it can change is bounded, the noise is what is accounted, and reports weigh nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from common.errors import SettingsError
from common.proto import run_order_pb2 as pb
from common.quantise import Flat
from common.settings import LoraSettings, RunSettings, SitePrivacySettings, parse
from security.identity import Identity, Role, SpiffeId
from security.noise import SeededNoise
from security.records import joined
from security.roster import Roster
from security.run_order import OrderError, RunOrder, open_order, sign_order
from server.aggregation import Round, aggregate
from server.site_privacy import SiteMechanism, mechanism_of
from tests.unit.test_aggregation import PLAIN, SCHEMA, SIZE, some_updates, start, update

CLIP, SITES = 0.5, 8
SERVER = Identity.generate(SpiffeId("fed.example", Role.SERVER, "server"))
OPERATOR = Identity.generate(SpiffeId("fed.example", Role.OPERATOR, "anna"))


def mechanism(multiplier: float = 1e-9, sites: int = SITES) -> SiteMechanism:
    return SiteMechanism(multiplier, CLIP, sites, SeededNoise(3))


def moved(*sites: tuple[str, int, Flat], by: SiteMechanism | None = None) -> Flat:
    """Return what a round adds to B."""
    updates = [update(*site) for site in sites]
    before = start()
    after = aggregate(Round(1, "ffa", PLAIN, by or mechanism()), before, updates)
    return after.adapter.b - before.adapter.b


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 60.0), st.integers(1, 10**6))
def test_a_site_that_comes_or_stays_away_moves_the_sum_by_the_clip_at_the_most(
    seed: int, length: float, examples: int
) -> None:
    others = [(u.site, u.examples, u.delta) for u in some_updates()]
    delta = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
    delta *= np.float32(length) / np.linalg.norm(delta)
    distance = np.linalg.norm(moved(*others, ("z", examples, delta)) - moved(*others))
    assert distance <= CLIP / SITES + 1e-6


def test_a_small_update_is_added_as_it_is_over_the_number_of_sites_asked() -> None:
    delta = np.full(SIZE, 0.001, np.float32)
    assert np.allclose(moved(("a", 10, delta)), delta / SITES, atol=1e-6)


def test_what_a_site_says_of_its_drawings_weighs_nothing() -> None:
    delta = np.full(SIZE, 0.01, np.float32)
    few, many = moved(("a", 1, delta), ("b", 1, -delta)), moved(("a", 1, delta), ("b", 10**6, -delta))
    assert np.array_equal(few, many)
    assert np.abs(few).max() < 1e-6


def noise_of(by: SiteMechanism) -> Flat:
    quiet = np.zeros(20_000, np.float32)
    return by.released(quiet, 3)


def test_the_noise_is_normal_with_the_deviation_that_is_accounted() -> None:
    drawn = noise_of(mechanism(multiplier=2.0))
    deviation = 2.0 * CLIP / SITES
    assert stats.kstest(drawn, "norm", args=(0, deviation)).pvalue > 1e-3
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(drawn, "norm", args=(0, wrong * deviation)).pvalue < 1e-9


def test_a_run_keeps_to_its_epsilon_and_who_came_seldom_spent_less() -> None:
    asked = RunSettings(rounds=5, detector=False, site_privacy=SitePrivacySettings(epsilon=3.0, delta=1e-4))
    found = mechanism_of(asked, SITES, SeededNoise(0))
    assert found is not None
    spent = [found.spent(rounds, 1e-4) for rounds in range(6)]
    assert spent[0] == 0
    assert spent == sorted(spent)
    assert 2.9 < spent[5] <= 3.0
    assert spent[1] < 1.8


def test_a_run_without_site_privacy_has_no_mechanism() -> None:
    assert mechanism_of(RunSettings(), SITES, SeededNoise(0)) is None


def test_both_factors_and_site_privacy_do_not_go_together() -> None:
    with pytest.raises(SettingsError, match="does not fit") as caught:
        parse(RunSettings, {"lora": LoraSettings(method="both"), "site_privacy": {}}, "run.toml")
    assert "ffa" in str(caught.value.expected)


@pytest.mark.parametrize(
    "wrong", [{"epsilon": 0}, {"epsilon": float("nan")}, {"delta": 1.0}, {"clip": 0}, {"clips": 1}]
)
def test_numbers_that_protect_nobody_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        parse(RunSettings, {"site_privacy": wrong}, "run.toml")


def order(delta: float, sites: int) -> RunOrder:
    names = tuple(f"s{place:04}" for place in range(sites))
    asked = RunSettings(detector=False, site_privacy=SitePrivacySettings(delta=delta))
    return RunOrder("r1", OPERATOR.id, asked, "0" * 64, SCHEMA, names, 0)


@pytest.mark.parametrize("sites", [2, 5, 1000])
def test_a_delta_that_protects_nobody_among_so_few_is_refused_when_ordered_and_at_the_site(sites: int) -> None:
    just, over = 0.999 / sites, 1.0 / sites
    signed = sign_order(order(just, sites), OPERATOR)
    roster = Roster.first(SERVER.peer, 0).with_member(OPERATOR.peer, b"", 0)
    assert open_order(signed, roster).settings.site_privacy
    with pytest.raises(OrderError, match="protects nobody among so few"):
        order(over, sites)
    # Somebody signs it all the same.
    wire = pb.SignedRunOrder.FromString(signed)
    told = pb.RunOrder.FromString(wire.order)
    told.settings = told.settings.replace(str(just), str(over))
    wire.order = told.SerializeToString(deterministic=True)
    wire.signature = OPERATOR.signing.sign(joined(b"bottega/v1/run-order\x00", wire.order))
    with pytest.raises(OrderError, match="protects nobody among so few"):
        open_order(wire.SerializeToString(deterministic=True), roster)
