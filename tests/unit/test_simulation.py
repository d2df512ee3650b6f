"""The federation in memory: hostile sites send what their attack makes, and what the server made of it is told."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest

from client.dataset import encode
from client.drawings import Drawing
from common.models import Base
from common.procedural import STUDIOS, studio_drawings
from common.quantise import Flat
from common.settings import LoraSettings, PrivacySettings, RunSettings, TrainingSettings
from deploy.simulation import Hostile, SimulatedSite, Simulation, losses
from deploy.zoo import WIRE, View, scaled

RUN = RunSettings(
    privacy=False, rounds=2, quorum=1, encoding="fp32", lora=LoraSettings(rank=2, targets=("to_q",)),
    training=TrainingSettings(steps=1, batch=2),
)  # fmt: skip


@pytest.fixture
def sites(base: Base) -> list[SimulatedSite]:
    made, studios = [], list(STUDIOS.values())
    for place in range(5):
        drawn = studio_drawings(studios[place % len(studios)], 3, place, size=base.pixels)
        drawings = [Drawing("", d.caption, None, base.pixels, zlib.compress(d.picture.tobytes())) for d in drawn]
        encoded = encode(base, drawings)
        made.append(SimulatedSite(f"s{place}", encoded, encoded))
    return made


def test_hostile_sites_send_their_attack_and_the_others_what_they_learned(
    base: Base, sites: list[SimulatedSite]
) -> None:
    honest = {u.site: u.delta for u in Simulation(base, sites, RUN).updates(1)}
    hostile = Hostile(frozenset({"s1", "s3"}), scaled(-2.0))
    sent = {u.site: u.delta for u in Simulation(base, sites, RUN, hostile).updates(1)}
    for site, delta in honest.items():
        np.testing.assert_allclose(sent[site], delta * (-2 if site in hostile.sites else 1), rtol=1e-5)


def test_what_admission_refuses_is_told_and_not_averaged(base: Base, sites: list[SimulatedSite]) -> None:
    run = Simulation(base, sites, RUN, Hostile(frozenset({"s1"}), scaled(1e4)))
    run.run()
    assert run.found[1]["s1"] == run.found[2]["s1"] == "refused"
    without = Simulation(base, [site for site in sites if site.name != "s1"], RUN)
    without.run()
    assert np.linalg.norm(run.state.adapter.b) < 2 * np.linalg.norm(without.state.adapter.b)


def test_without_a_rehearsal_copies_are_found_all_the_same(base: Base, sites: list[SimulatedSite]) -> None:
    run = Simulation(base, sites, RUN, Hostile(frozenset({"s1", "s3"}), WIRE["sybil"]))
    run.run()
    for found in run.found.values():
        assert {site for site, outcome in found.items() if outcome == "rejected"} == {"s1", "s3"}


def test_a_site_may_claim_what_it_likes(base: Base, sites: list[SimulatedSite]) -> None:
    hostile = Hostile(frozenset({"s1"}), scaled(1.0), claims=10**6)
    examples = {u.site: u.examples for u in Simulation(base, sites, RUN, hostile).updates(1)}
    assert examples.pop("s1") == 10**6
    assert set(examples.values()) == {3}


def test_hostile_sites_can_ask_whether_they_would_pass(base: Base, sites: list[SimulatedSite]) -> None:
    answers: dict[float, bool] = {}

    def asks(view: View) -> Flat:
        assert view.passes is not None
        answers.update({factor: view.passes(view.own * np.float32(factor)) for factor in (1.0, 0.0, 1e4)})
        return view.own

    run = Simulation(base, sites, RUN, Hostile(frozenset({"s1", "s3"}), asks))
    run.run()
    assert answers == {1.0: True, 0.0: False, 1e4: False}
    assert set(run.found[2].values()) == {"admitted"}, "what was only asked leaves nothing behind"


def test_sites_that_hold_nothing_out_train_and_say_nothing_of_the_others(
    base: Base, sites: list[SimulatedSite]
) -> None:
    nothing = encode(base, [])
    sites = [SimulatedSite(site.name, site.training, nothing) for site in sites]
    sites += [SimulatedSite(f"t{place}", site.training, nothing) for place, site in enumerate(sites)]
    privately = RUN.model_copy(update={"privacy": PrivacySettings(epsilon=8.0, steps=1, multiplicity=1)})
    for settings in (RUN, privately):
        run = Simulation(base, sites, settings)
        end = run.run()
        assert np.isfinite(end.b).all()
        assert math.isnan(losses(base, end, sites, settings)["mean"])
