"""Rehearsals: what they are made for, how they are kept, and which run gets which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.adapter_schema import AdapterSchema, LoraModule
from common.models import load_base
from common.settings import DetectorSettings, LoraSettings, PrivacySettings, RunSettings, TrainingSettings, parse
from deploy.commands.demo import demo_run
from deploy.rehearsing import rehearse, rounds_needed
from security.conformal import DetectorError
from security.detector import Rows
from security.features import FEATURES, NoiseModel
from security.names import Role, SpiffeId
from security.rehearsal import Rehearsal, rehearsal_key
from security.run_order import OrderError, RunOrder
from server import rehearsals
from server.rehearsals import rehearsal_for, shipped_name

DIGEST = "0" * 64
PLAIN = RunSettings(privacy=False)


def made_for(key: str, rows: int = 240) -> Rehearsal:
    values = np.random.default_rng(0).standard_normal((rows, len(FEATURES)))
    return Rehearsal(key, Rows(values, np.arange(rows, dtype=np.int64) // 6 + 1), NoiseModel(0.5, 100))


def an_order(asked: RunSettings = PLAIN, sites: int = 4) -> RunOrder:
    schema = AdapterSchema((LoraModule("mid_block.q", 8, 8, 2),))
    names = tuple(f"s{place}" for place in range(sites))
    return RunOrder("r1", SpiffeId("a.test", Role.OPERATOR, "o"), asked, DIGEST, schema, names, 0)


def test_it_reads_what_it_wrote() -> None:
    made = made_for("k")
    read = Rehearsal.from_bytes(made.to_bytes())
    assert (read.key, read.noise) == ("k", made.noise)
    np.testing.assert_array_equal(read.rows.values, made.rows.values)
    np.testing.assert_array_equal(read.rows.rounds, made.rows.rounds)


@settings(max_examples=80, deadline=None)
@given(at=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_a_changed_file_is_refused(at: int, value: int, *, cut: bool) -> None:
    whole = made_for("k", 24).to_bytes()
    place = at % len(whole)
    changed = whole[:place] if cut else whole[:place] + bytes([value]) + whole[place + 1 :]
    if changed != whole:
        with pytest.raises(DetectorError, match="no rehearsal, or a damaged one"):
            Rehearsal.from_bytes(changed)


def test_one_for_other_features_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made_for("k").to_bytes()
    monkeypatch.setattr("security.rehearsal._NAMES", ["one"])
    with pytest.raises(DetectorError, match="by another version"):
        Rehearsal.from_bytes(whole)


OTHER = {
    "the rank": PLAIN.model_copy(update={"lora": LoraSettings(rank=4)}),
    "the steps": PLAIN.model_copy(update={"training": TrainingSettings(steps=3)}),
    "the encoding": PLAIN.model_copy(update={"encoding": "fp32"}),
    "privacy": RunSettings(),
}
SAME = {
    "the seed": PLAIN.model_copy(update={"seed": 5}),
    "the rounds": PLAIN.model_copy(update={"rounds": 50}),
    "the deadline": PLAIN.model_copy(update={"deadline_s": 5.0}),
}


@pytest.mark.parametrize("what", OTHER)
def test_what_shapes_updates_makes_another_key(what: str) -> None:
    assert rehearsal_key(OTHER[what], DIGEST, 4) != rehearsal_key(PLAIN, DIGEST, 4)


@pytest.mark.parametrize("what", SAME)
def test_what_does_not_shape_them_does_not(what: str) -> None:
    assert rehearsal_key(SAME[what], DIGEST, 4) == rehearsal_key(PLAIN, DIGEST, 4)


def test_a_private_run_of_more_rounds_has_more_noise_and_another_key() -> None:
    more = RunSettings(rounds=50)
    assert rehearsal_key(more, DIGEST, 4) != rehearsal_key(RunSettings(), DIGEST, 4)


def test_sites_and_base_make_another_key() -> None:
    keys = {rehearsal_key(PLAIN, digest, sites) for digest in (DIGEST, "1" * 64) for sites in (4, 5)}
    assert len(keys) == 4


def test_a_run_gets_the_rehearsal_that_was_made_for_it(tmp_path: Path) -> None:
    file = tmp_path / "made.safetensors"
    file.write_bytes(made_for(rehearsal_key(PLAIN, DIGEST, 4)).to_bytes())
    assert rehearsal_for(an_order(), file) == file.read_bytes()
    with pytest.raises(DetectorError, match="made for another run"):
        rehearsal_for(an_order(sites=5), file)


def test_one_that_is_too_short_for_the_rate_is_refused_with_the_least_that_it_allows(tmp_path: Path) -> None:
    file = tmp_path / "made.safetensors"
    file.write_bytes(made_for(rehearsal_key(PLAIN, DIGEST, 4), rows=24).to_bytes())
    with pytest.raises(DetectorError, match=r"got 0.01 with 12 calibration scores; expected at least 0.0769"):
        rehearsal_for(an_order(), file)


def test_a_run_without_a_detector_takes_none(tmp_path: Path) -> None:
    without = PLAIN.model_copy(update={"detector": False})
    assert rehearsal_for(an_order(without)) == b""
    with pytest.raises(OrderError, match="the run has no detector"):
        rehearsal_for(an_order(without), tmp_path / "any")


def test_one_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="cannot be read; got No such file"):
        rehearsal_for(an_order(), tmp_path / "nowhere")


def test_one_that_came_with_bottega_is_found_by_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsals, "SHIPPED", tmp_path)
    assert rehearsal_for(an_order()) == b""
    key = rehearsal_key(PLAIN, DIGEST, 4)
    (tmp_path / shipped_name(key)).write_bytes(made_for(key).to_bytes())
    assert rehearsal_for(an_order()) == made_for(key).to_bytes()


def test_every_rehearsal_that_came_with_bottega_is_whole_and_named_by_its_key() -> None:
    files = sorted(rehearsals.SHIPPED.glob("*.safetensors"))
    assert files
    for file in files:
        shipped = Rehearsal.from_bytes(file.read_bytes())
        assert file.name == shipped_name(shipped.key)
        assert len(shipped.rows.calibrating) >= 99


def test_the_demo_finds_the_one_that_came_for_it() -> None:
    asked = parse(RunSettings, demo_run(8, 0, "embedded", None), "the demo's run")
    key = rehearsal_key(asked, load_base().digest, 5)
    assert (rehearsals.SHIPPED / shipped_name(key)).is_file()


@pytest.mark.parametrize(("rate", "sites", "rounds"), [(0.01, 4, 50), (0.01, 12, 18), (0.05, 4, 10), (0.5, 8, 4)])
def test_it_takes_as_many_rounds_as_the_rate_asks_for(rate: float, sites: int, rounds: int) -> None:
    asked = RunSettings(detector=DetectorSettings(false_rejections=rate))
    assert rounds_needed(asked, sites) == rounds


def test_rounds_that_are_not_judged_need_no_rehearsal() -> None:
    with pytest.raises(DetectorError, match="rounds of so few sites are not judged; got 3; expected at least 4"):
        rounds_needed(RunSettings(), 3)
    with pytest.raises(DetectorError, match="the run has no detector"):
        rounds_needed(RunSettings(detector=False), 12)


@pytest.mark.parametrize("private", [True, False])
def test_a_rehearsal_is_the_same_by_the_same_seed_and_teaches_a_detector(*, private: bool) -> None:
    base = load_base()
    asked = RunSettings(
        rounds=2, lora=LoraSettings(rank=2), training=TrainingSettings(steps=1, batch=2),
        privacy=PrivacySettings(multiplicity=1, rate=0.5) if private else False,
        detector=DetectorSettings(false_rejections=0.1),
    )  # fmt: skip
    seen: list[int] = []
    made = rehearse(base, asked, sites=8, drawings=(4, 6), seen=seen.append)
    assert seen == [1, 2, 3, 4]
    assert len(made.rows.teaching) == len(made.rows.calibrating) == 16
    assert (made.noise is not None) is private
    assert made.key == rehearsal_key(asked, base.digest, 8)
    again = rehearse(base, asked, sites=8, drawings=(4, 6))
    np.testing.assert_array_equal(made.rows.values, again.rows.values)
