"""The detector: honest updates pass as often as stated, hostile ones do not, it says why, and it can be kept."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from common.adapter_schema import Adapter, AdapterSchema, LoraModule
from common.orthonormal import orthonormal_a
from common.quantise import Flat
from security.conformal import DetectorError
from security.detector import FEWEST_SITES, Detector, Kind, Rows, Verdict
from security.features import FEATURES, Frame, Imprint, RoundFeatures, features_of

SCHEMA = AdapterSchema(
    tuple(LoraModule(f"{block}.{i}", 20, 16, 4) for block in ("down_blocks", "mid_block", "up_blocks") for i in (0, 1))
)
SIZE = SCHEMA.numel("B")
START = Adapter(SCHEMA, orthonormal_a(SCHEMA, 0), np.zeros(SIZE, np.float32))
SITES = tuple("abcdefgh")
HOSTILE = (6, 7)
ALPHA = 0.02

Attack = Callable[[list[Flat]], list[Flat]]


def updates(seed: int) -> list[Flat]:
    """A round of honest updates: something in common, a style of each site's own, and chance."""
    common = np.random.default_rng(11).standard_normal(SIZE)
    chance = np.random.default_rng((12, seed))
    styles = chance.standard_normal((len(SITES), 3)) @ np.random.default_rng(13).standard_normal((3, SIZE))
    sizes = np.exp(0.1 * chance.standard_normal(len(SITES)))
    own = 0.6 * common + 0.4 * styles + 1.5 * chance.standard_normal((len(SITES), SIZE))
    return [np.asarray(0.01 * size * one, np.float32) for size, one in zip(sizes, own, strict=True)]


def looked_at(of: list[Flat], seed: int) -> tuple[dict[str, Imprint], Frame, list[Flat]]:
    frame = Frame(START, "B", seed)
    past = [frame.imprint(np.mean(updates(10_000 + seed + k), axis=0), 1).sample for k in range(3)]
    return {site: frame.imprint(one, 40) for site, one in zip(SITES, of, strict=False)}, frame, past


def judged(of: list[Flat], seed: int) -> RoundFeatures:
    return features_of(*looked_at(of, seed))


def rows(first: int, count: int) -> Rows:
    return Rows.of({number: judged(updates(number), number) for number in range(first, first + count)})


def hostile(attack: Attack, seed: int) -> RoundFeatures:
    honest = updates(seed)
    bad = attack(honest)
    return judged([bad[i] if i in HOSTILE else one for i, one in enumerate(honest)], seed)


@pytest.fixture(scope="module")
def simulated() -> Rows:
    return rows(0, 30)


@pytest.fixture(scope="module")
def detector(simulated: Rows) -> Detector:
    return Detector.learn(simulated, seed=3)


def test_honest_updates_are_rejected_about_as_often_as_stated(detector: Detector) -> None:
    verdicts = [v for seed in range(500, 530) for v in detector.judge(judged(updates(seed), seed), ALPHA)]
    hits = sum(v.rejected for v in verdicts)
    assert binomtest(hits, len(verdicts), detector.worst_rate(ALPHA), alternative="greater").pvalue > 1e-4
    assert max(v.p_value for v in verdicts) > 0.9, "p-values of honest updates reach everywhere"


def _mean(of: list[Flat]) -> Flat:
    return np.asarray(np.mean(of[:6], axis=0), np.float32)


def _deviation(of: list[Flat]) -> Flat:
    return np.asarray(np.std(of[:6], axis=0), np.float32)


def _noise(_: list[Flat]) -> list[Flat]:
    return [np.random.default_rng(i).standard_normal(SIZE).astype(np.float32) * np.float32(0.016) for i in range(8)]


def _nothing(of: list[Flat]) -> list[Flat]:
    return [np.zeros_like(one) for one in of]


ATTACKS: dict[str, Attack] = {
    "sign flip": lambda of: [-one for one in of],
    "ten times": lambda of: [10 * one for one in of],
    "noise": _noise,
    "a little is enough": lambda of: [_mean(of) - np.float32(1.5) * _deviation(of)] * 8,
    "inner product": lambda of: [np.float32(-0.5) * _mean(of)] * 8,
    "nothing": _nothing,
    "copies": lambda of: [of[7]] * 8,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_updates_are_rejected_for_reasons_in_words(detector: Detector, name: str) -> None:
    caught = [
        verdict
        for seed in range(700, 706)
        for place, verdict in enumerate(detector.judge(hostile(ATTACKS[name], seed), ALPHA))
        if place in HOSTILE
    ]
    assert sum(verdict.rejected for verdict in caught) >= 0.9 * len(caught)
    for verdict in caught:
        assert len(verdict.reasons) == 3
        assert len({reason.feature for reason in verdict.reasons}) == 3
        assert verdict.words().startswith(f"the update of {verdict.site} {verdict.reasons[0].words}")


def test_the_reasons_are_the_right_ones(detector: Detector) -> None:
    def of(name: str) -> Verdict:
        return detector.judge(hostile(ATTACKS[name], 800), ALPHA)[HOSTILE[0]]

    assert any(r.feature == "size.whole" and r.spreads > 5 for r in of("ten times").reasons)
    turned = of("sign flip")
    assert turned.reasons[0].feature == "past.recent"
    assert turned.words().startswith("the update of g does not go on with what the last rounds did; it ")
    assert "is nearly a copy of another update" in {r.words for r in of("copies").reasons}


def test_the_same_seed_learns_the_same_detector(simulated: Rows, detector: Detector) -> None:
    again = Detector.learn(simulated, seed=3)
    assert again.to_bytes() == detector.to_bytes()
    assert Detector.learn(simulated, seed=4).to_bytes() != detector.to_bytes()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_learning_and_judging_leave_everybodys_chance_alone(simulated: Rows, kind: Kind) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]
    hashes = os.environ.get("PYTHONHASHSEED")
    Detector.learn(simulated, kind=kind, seed=9).judge(judged(updates(1), 1), ALPHA)
    after = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index]
    assert after == before
    assert os.environ.get("PYTHONHASHSEED") == hashes


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_detector_of_the_list_learns_judges_and_can_be_kept(simulated: Rows, kind: Kind) -> None:
    learned = Detector.learn(simulated, kind=kind, seed=2)
    of = hostile(ATTACKS["inner product"], 801)
    verdicts = learned.judge(of, ALPHA)
    assert all(verdicts[place].rejected for place in HOSTILE)
    assert Detector.from_bytes(learned.to_bytes()).judge(of, ALPHA) == verdicts


@pytest.mark.parametrize("kind", ["ecod", "copod", "autoencoder"])
def test_a_score_does_not_depend_on_whom_one_is_judged_with(simulated: Rows, kind: Kind) -> None:
    learned, values = Detector.learn(simulated, kind=kind), simulated.calibrating[:5]
    np.testing.assert_allclose(learned.scores(values)[:1], learned.scores(values[:1]), rtol=1e-5)


def test_a_kept_detector_judges_as_before(detector: Detector) -> None:
    data = detector.to_bytes()
    restored = Detector.from_bytes(data)
    of = hostile(ATTACKS["sign flip"], 802)
    assert restored.judge(of, ALPHA) == detector.judge(of, ALPHA)
    assert restored.to_bytes() == data
    assert (restored.kind, restored.seed, restored.calibrated) == ("autoencoder", 3, 120)
    assert b"pickle" not in data


@pytest.mark.parametrize("kind", ["autoencoder", "knn"])
def test_every_byte_that_is_not_as_written_is_refused(simulated: Rows, detector: Detector, kind: Kind) -> None:
    data = (detector if kind == "autoencoder" else Detector.learn(simulated, kind=kind)).to_bytes()
    header = int.from_bytes(data[:8], "little") + 8
    # Of the smaller file every byte of the header, of the rest enough of them.
    for place in [*range(0, header, 1 if kind == "knn" else 29), *range(header, len(data), 499), len(data) - 1]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        with pytest.raises(DetectorError, match="damaged"):
            Detector.from_bytes(bytes(damaged))


@pytest.mark.parametrize("data", [b"", b"x", bytes(8), b"\xff" * 64, b"{}" * 50])
def test_what_is_no_detector_is_refused(data: bytes, detector: Detector) -> None:
    with pytest.raises(DetectorError, match="learn again"):
        Detector.from_bytes(data)
    with pytest.raises(DetectorError, match="damaged"):
        Detector.from_bytes(detector.to_bytes() + data + b"!")


def test_a_detector_of_other_features_is_refused(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    data = detector.to_bytes()
    monkeypatch.setattr("security.detector._NAMES", ["something.else"])
    with pytest.raises(DetectorError, match="other features"):
        Detector.from_bytes(data)


def test_learning_goes_on_from_before(simulated: Rows, detector: Detector) -> None:
    more = rows(100, 6)
    on = Detector.learn(simulated, more, seed=3, before=detector)
    anew = Detector.learn(simulated, more, seed=3)
    assert on.to_bytes() != anew.to_bytes()
    moved = {name: float((on._learned[name] - tensor).abs().mean()) for name, tensor in detector._learned.items()}
    first = {name: float((anew._learned[name] - tensor).abs().mean()) for name, tensor in detector._learned.items()}
    assert 0 < sum(moved.values()) < sum(first.values()), "it starts where it was and so stays nearer"
    assert all(on.judge(hostile(ATTACKS["sign flip"], 803), ALPHA)[place].rejected for place in HOSTILE)


def test_what_calibrates_is_never_learned_from(simulated: Rows, detector: Detector) -> None:
    strange = simulated.values.copy()
    strange[simulated.rounds % 2 == 1] += 50
    other = Detector.learn(replace(simulated, values=strange), seed=3)
    for name, tensor in detector._learned.items():
        assert torch.equal(other._learned[name], tensor)
    assert other._middle.tobytes() == detector._middle.tobytes()
    assert other._simulated.min() > detector._simulated.max()


def test_what_accepted_history_knows_is_not_rejected_and_too_short_a_history_does_not_count(simulated: Rows) -> None:
    # Studios unlike anything simulated: the simulation alone finds nearly all of their updates strange.
    def shifted(count: int) -> Rows:
        some = rows(200, count)
        moved = some.values.copy()
        moved[:, [i for i, f in enumerate(FEATURES) if f.name.startswith("spectrum.")]] += 30
        return Rows(moved, some.rounds * 2 + 1)  # odd rounds: none of it is learned from

    unusual = judged(updates(900), 900)
    unusual = replace(unusual, standardised=shifted(1).values)
    alone = Detector.learn(simulated, seed=3)
    assert all(v.rejected for v in alone.judge(unusual, ALPHA))
    short, long = (Detector.learn(simulated, shifted(n), seed=3, before=alone) for n in (2, 13))
    assert all(v.p_value <= 0.05 for v in alone.judge(unusual, 0.05))
    assert not any(v.rejected for v in long.judge(unusual, ALPHA))
    p_short = [v.p_value for v in short.judge(unusual, ALPHA)]
    simulated_alone = np.array([(1 + np.sum(short._simulated >= v.score)) / 121 for v in short.judge(unusual, ALPHA)])
    assert p_short == simulated_alone.tolist(), "16 accepted rows cannot resolve 2 %, so they have no say"


def test_of_copies_one_is_kept_once_the_others_are_out(detector: Detector) -> None:
    honest = updates(804)
    of = [*honest[:6], honest[0], honest[0]]
    alone = detector.judge(judged(of, 804), ALPHA)
    assert [v.site for v in alone if v.rejected] == ["a", "g", "h"], "the copied one as well"
    settled = detector.judge_round(*looked_at(of, 804), alpha=ALPHA)
    assert sum(v.rejected for v in settled if v.site in "agh") == 2
    assert [v.site for v in settled] == list(SITES)
    kept = next(v for v in settled if v.site in "agh" and not v.rejected)
    assert kept.p_value > ALPHA
    for one, other in zip(alone, settled, strict=True):
        if not one.rejected:
            assert other == one, "nobody is accused in the second place"


def test_hostile_updates_stay_rejected_when_the_strangest_are_out(detector: Detector) -> None:
    for name in ("sign flip", "ten times", "nothing"):
        honest = updates(805)
        bad = ATTACKS[name](honest)
        of = [bad[i] if i in HOSTILE else one for i, one in enumerate(honest)]
        settled = detector.judge_round(*looked_at(of, 805), alpha=ALPHA)
        assert all(settled[place].rejected for place in HOSTILE), name
        assert sum(v.rejected for v in settled) <= sum(v.rejected for v in detector.judge(judged(of, 805), ALPHA))


def test_a_rate_below_what_the_calibration_resolves_is_refused(detector: Detector) -> None:
    of = judged(updates(1), 1)
    assert detector.least_rate() == 1 / 121
    detector.judge(of, 1 / 121)
    with pytest.raises(DetectorError, match=r"at least 0\.00826.*simulate until there are 199"):
        detector.judge(of, 0.005)
    with pytest.raises(DetectorError, match=r"at least 0\.0661"):
        detector.judge(of, 0.06, "round")
    assert detector.least_rate(8, "round") == 8 / 121


def test_a_round_of_few_sites_is_not_judged(detector: Detector) -> None:
    with pytest.raises(DetectorError, match="no middle"):
        detector.judge(judged(updates(1)[: FEWEST_SITES - 1], 1), ALPHA)
    assert len(detector.judge(judged(updates(1)[:FEWEST_SITES], 1), ALPHA)) == FEWEST_SITES


def test_odd_rounds_get_verdicts(detector: Detector) -> None:
    nothing = np.zeros(SIZE, np.float32)
    for of in ([nothing] * 8, [updates(1)[0]] * 8, [*updates(1)[:4], *([nothing] * 4)]):
        verdicts = detector.judge(judged(of, 1), ALPHA)
        assert all(np.isfinite(v.score) and 0 < v.p_value <= 1 for v in verdicts)
    assert all(v.rejected for v in detector.judge(judged([updates(1)[0]] * 8, 1), ALPHA)), "eight copies of one"


def test_what_cannot_be_learned_from_is_refused(simulated: Rows) -> None:
    with pytest.raises(DetectorError, match=r"no such detector.*autoencoder or copod"):
        Detector.learn(simulated, kind="oracle")  # type: ignore[arg-type]
    few = Rows(simulated.values[:12], simulated.rounds[:12])
    with pytest.raises(DetectorError, match=r"too few honest rows.*even numbers teach"):
        Detector.learn(few)
    only_even = Rows(simulated.values, simulated.rounds * 2)
    with pytest.raises(DetectorError, match="0 to calibrate by"):
        Detector.learn(only_even)
    with pytest.raises(DetectorError, match="no rows"):
        Rows(np.zeros((3, 2)), np.zeros(3, np.int64))
    with pytest.raises(DetectorError, match="infinite"):
        Rows(np.full((1, len(FEATURES)), np.inf), np.zeros(1, np.int64))
