"""Judging a round: what is rejected, what is cut down, and what is left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.adapter_schema import Adapter, AdapterSchema, LoraModule
from common.quantise import Flat
from security.admission import Check
from security.detector import Detector, Rows
from security.features import Frame, Imprint, features_of
from security.judgement import TWICE, Judgement, Measure, judge

SCHEMA = AdapterSchema((LoraModule("mid_block.q", 24, 20, 2), LoraModule("up_blocks.k", 16, 20, 2)))
START = Adapter(SCHEMA, np.ones(SCHEMA.numel("A"), np.float32), np.zeros(SCHEMA.numel("B"), np.float32))
FRAME = Frame(START, "B", 7)
SIZE = SCHEMA.numel("B")
NOBODY = Measure(None, 0.05)


def honest(count: int = 6, seed: int = 0) -> dict[str, Flat]:
    """Updates that have something in common, each of norm 1."""
    chance = np.random.default_rng(seed)
    common = chance.standard_normal(SIZE)
    made = {f"s{at}": common + chance.standard_normal(SIZE) for at in range(count)}
    return {name: (update / np.linalg.norm(update)).astype(np.float32) for name, update in made.items()}


def imprints(updates: dict[str, Flat], frame: Frame = FRAME) -> dict[str, Imprint]:
    return {name: frame.imprint(update, 10) for name, update in updates.items()}


def judged(updates: dict[str, Flat], past: tuple[Flat, ...] = (), by: Measure = NOBODY) -> Judgement:
    return judge(imprints(updates), FRAME, past, by)


def outcomes(judgement: Judgement) -> dict[str, tuple[str, str]]:
    return {f.site: (f.outcome, f.check.slug) for f in judgement.findings.values() if f.outcome != "admitted"}


@pytest.fixture(scope="module")
def detector() -> Detector:
    """One that has seen 40 honest rounds of six sites."""
    return Detector.learn(Rows.of({n: features_of(imprints(honest(seed=n)), FRAME) for n in range(1, 41)}), kind="knn")


def test_honest_updates_are_left_alone() -> None:
    judgement = judged(honest())
    assert outcomes(judgement) == {}
    assert {f.scale for f in judgement.findings.values()} == {1.0}
    assert judgement.accepted is not None
    assert judgement.accepted.sites == tuple(honest())


def test_an_update_that_changes_nothing_is_rejected() -> None:
    judgement = judged({**honest(), "lazy": np.zeros(SIZE, np.float32)})
    assert outcomes(judgement) == {"lazy": ("rejected", "copy")}
    assert judgement.findings["lazy"].words == "the update of lazy changes nothing"


def test_when_nobody_changes_anything_everybody_is_rejected() -> None:
    judgement = judged(dict.fromkeys(honest(), np.zeros(SIZE, np.float32)))
    assert all(finding.rejected for finding in judgement.findings.values())
    assert judgement.accepted is None


def test_copies_are_rejected_also_when_one_is_larger() -> None:
    poison = honest(1, seed=9)["s0"]
    judgement = judged({**honest(), "a": poison, "b": poison * np.float32(1.5)})
    assert outcomes(judgement) == {"a": ("rejected", "copy"), "b": ("rejected", "copy")}


def test_what_an_earlier_round_did_is_no_update() -> None:
    before = honest(1, seed=5)["s0"]
    judgement = judged({**honest(), "rider": before * np.float32(0.9)}, (FRAME.imprint(before, 1).sample,))
    assert outcomes(judgement) == {"rider": ("rejected", "copy")}
    assert judgement.findings["rider"].words == "the update of rider is what an earlier round did"


@pytest.mark.parametrize(
    ("times", "outcome"), [(1.9, "admitted"), (2.5, "clipped"), (5.9, "clipped"), (7.0, "rejected")]
)
def test_large_updates_are_cut_down_and_huge_ones_rejected(times: float, outcome: str) -> None:
    """Of updates that are all of norm 1 the limit is twice that."""
    updates = honest()
    judgement = judged({**updates, "s0": updates["s0"] * np.float32(times)})
    finding = judgement.findings["s0"]
    assert finding.outcome == outcome
    if outcome == "clipped":
        assert finding.scale * times == pytest.approx(TWICE, rel=1e-4)
        assert f"{times:.1f} times as large as the others are" in finding.words
    assert [f.site for f in judgement.findings.values() if f.outcome != "admitted"] == ["s0"] * (outcome != "admitted")


def test_the_limit_is_further_where_the_others_differ_more() -> None:
    updates = honest(9)
    spread = {name: update * np.float32(2.0 ** (at - 4)) for at, (name, update) in enumerate(updates.items())}
    assert outcomes(judged(spread)) == {}


def test_a_tiny_update_is_honest() -> None:
    updates = honest()
    assert outcomes(judged({**updates, "s0": updates["s0"] * np.float32(1e-6)})) == {}


def test_without_a_rehearsal_the_detector_says_that_it_cannot_judge() -> None:
    judgement = judged(honest())
    assert judgement.unsure == "there is no rehearsal of this run to know honest updates from"
    assert all(math.isnan(f.p_value) for f in judgement.findings.values())


def test_of_fewer_than_four_updates_nothing_is_said(detector: Detector) -> None:
    three = honest(3)
    three["s0"] = three["s0"] * np.float32(100)
    judgement = judged(three, by=Measure(detector, 0.05))
    assert outcomes(judgement) == {}
    assert judgement.unsure == "a round of so few updates has no middle to be far from"
    assert judgement.accepted is None


def test_a_stranger_is_rejected_with_reasons(detector: Detector) -> None:
    updates = honest(seed=77)
    updates["s3"] = -updates["s3"]
    judgement = judged(updates, by=Measure(detector, 0.05))
    assert outcomes(judgement) == {"s3": ("rejected", "anomaly")}
    assert judgement.findings["s3"].words.startswith("the update of s3 ")
    assert judgement.findings["s3"].p_value <= 0.05
    assert judgement.unsure == ""
    assert judgement.accepted is not None
    assert "s3" not in judgement.accepted.sites


def test_a_rate_that_the_calibration_cannot_resolve_leaves_the_detector_unsure(detector: Detector) -> None:
    judgement = judged(honest(), by=Measure(detector, 1e-4))
    assert judgement.unsure == "the calibration cannot resolve so low a false-rejection rate"
    assert outcomes(judgement) == {}


def test_where_half_of_a_round_is_strange_the_detector_is_wrong(detector: Detector) -> None:
    """Sites whose drawings are unlike those of the rehearsal must not all be thrown out for it."""
    chance = np.random.default_rng(1)
    unlike = {f"s{at}": chance.standard_normal(SIZE).astype(np.float32) for at in range(6)}
    judgement = judged(unlike, by=Measure(detector, 0.05))
    assert outcomes(judgement) == {}
    assert "strange, and half of a round cannot be" in judgement.unsure


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    scales=st.lists(st.floats(0, 1e6, width=32), min_size=9, max_size=9),
)
def test_every_site_has_a_finding_and_no_update_grows(count: int, seed: int, scales: list[float]) -> None:
    updates = {name: update * np.float32(scales[at]) for at, (name, update) in enumerate(honest(count, seed).items())}
    judgement = judged(updates)
    assert list(judgement.findings) == sorted(updates)
    for finding in judgement.findings.values():
        assert 0.0 <= finding.scale <= 1.0
        assert (finding.check is Check.ADMITTED) == (not finding.words) == (finding.scale == 1.0)
