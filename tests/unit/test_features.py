"""Features: what they measure, that no scale and no order shows in them, and that the round's rim cannot move them."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from client.dataset import encode
from client.drawings import Drawing
from common.adapter_schema import Adapter, AdapterSchema, LoraModule, join
from common.core import lift
from common.errors import AdapterError
from common.models import Base
from common.orthonormal import orthonormal_a
from common.procedural import STUDIOS, studio_drawings
from common.quantise import Flat
from common.settings import RunSettings, TrainingSettings
from deploy.simulation import SimulatedSite, Simulation
from security.conformal import DetectorError
from security.features import FEATURES, Frame, NoiseModel, RoundFeatures, features_of
from security.features.imprint import Part
from security.features.judged import others_median
from server.refactor import refresh

SCHEMA = AdapterSchema(
    (
        LoraModule("down_blocks.0.to_q", 40, 24, 4),
        LoraModule("down_blocks.0.conv", 30, 8, 4, (3, 3)),
        LoraModule("mid_block.to_q", 40, 24, 4),
        LoraModule("mid_block.to_v", 50, 24, 4),
        LoraModule("up_blocks.0.to_q", 40, 24, 4),
        LoraModule("up_blocks.1.to_q", 40, 24, 4),
    )
)
SIZE = SCHEMA.numel("B")
PLACE = {feature.name: i for i, feature in enumerate(FEATURES)}
SITES = tuple("abcdefghij")


def start(seed: int = 0) -> Adapter:
    b = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
    return Adapter(SCHEMA, orthonormal_a(SCHEMA, seed), b)


FRAME = Frame(start(), "B", seed=5)


def honest(count: int = 10, seed: int = 0, size: int = SIZE) -> list[Flat]:
    """Updates that have a direction in common, and more of their own."""
    chance = np.random.default_rng(seed)
    common = chance.standard_normal(size)
    return [(0.02 * (common + 1.5 * chance.standard_normal(size))).astype(np.float32) for _ in range(count)]


def judged(
    updates: list[Flat], past: list[Flat] | None = None, noise: NoiseModel | None = None, examples: int = 50
) -> RoundFeatures:
    imprints = {site: FRAME.imprint(update, examples) for site, update in zip(SITES, updates, strict=False)}
    return features_of(imprints, FRAME, past or [], noise)


def column(of: RoundFeatures, name: str) -> list[float]:
    return [float(value) for value in of.values[:, PLACE[name]]]


def distance(of: RoundFeatures, name: str) -> list[float]:
    return [float(value) for value in of.standardised[:, PLACE[name]]]


def test_every_feature_has_a_name_and_words_of_its_own() -> None:
    assert 28 <= len(FEATURES) <= 36
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    assert len({feature.says for feature in FEATURES}) == len(FEATURES)
    for feature in FEATURES:
        assert feature.high != feature.low
        assert feature.floor > 0
        assert not feature.high.endswith(".")


@settings(max_examples=40, deadline=None)
@given(st.integers(-40, 40).map(lambda power: 10.0 ** (power / 4)), st.integers(0, 3))
def test_all_updates_times_a_constant_have_the_same_features(constant: float, seed: int) -> None:
    updates = honest(seed=seed)
    past = [FRAME.imprint(honest(1, 77)[0], 1).sample]
    times = [(update * np.float32(constant)) for update in updates]
    plain = judged(updates, past, NoiseModel(0.03, SIZE))
    scaled = judged(times, past, NoiseModel(0.03 * constant, SIZE))
    np.testing.assert_allclose(scaled.values, plain.values, rtol=2e-3, atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(10)))
def test_the_order_of_sites_never_shows(order: list[int]) -> None:
    imprints = {site: FRAME.imprint(update, 50) for site, update in zip(SITES, honest(), strict=True)}
    first = features_of(imprints, FRAME)
    again = features_of({SITES[i]: imprints[SITES[i]] for i in order}, FRAME)
    assert again.sites == first.sites == SITES
    assert again.values.tobytes() == first.values.tobytes()
    assert again.standardised.tobytes() == first.standardised.tobytes()


def test_the_median_of_the_others_by_hand() -> None:
    even = np.array([[1.0], [2.0], [3.0], [10.0]], np.float32)
    assert others_median(even).ravel().tolist() == [3, 3, 2, 2]
    odd = np.array([[1.0], [2.0], [4.0], [10.0], [20.0]], np.float32)
    assert others_median(odd).ravel().tolist() == [7, 7, 6, 3, 3]
    assert others_median(odd[:1]).tolist() == [[0]]


@given(hnp.arrays(np.float32, st.tuples(st.integers(2, 9), st.integers(1, 4)), elements=st.integers(-3, 3)))
def test_the_median_of_the_others_is_what_it_says(rows: Flat) -> None:
    expected = [np.median(np.delete(rows, row, axis=0), axis=0) for row in range(len(rows))]
    np.testing.assert_array_equal(others_median(rows), np.array(expected, np.float32))


def test_under_ffa_the_norm_of_b_is_that_of_the_product() -> None:
    update = honest(1)[0]
    a, b = SCHEMA.views(start().a, "A"), SCHEMA.views(update, "B")
    products = [b[m.b.name].reshape(-1, m.rank) @ a[m.a.name].reshape(m.rank, -1) for m in SCHEMA.modules]
    energies = FRAME.imprint(update, 1).energies
    np.testing.assert_allclose(energies, [np.sum(p.astype(np.float64) ** 2) for p in products], rtol=1e-4)


def test_factors_that_change_much_and_a_product_that_does_not_are_no_change() -> None:
    begun = start()
    frame = Frame(begun, "both", seed=1)
    turned_a, turned_b = begun.a.copy(), begun.b.copy()
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))[0].astype(np.float32)
    for module in SCHEMA.modules:
        a, b = SCHEMA.views(turned_a, "A")[module.a.name], SCHEMA.views(turned_b, "B")[module.b.name]
        a[...] = (turn.T @ a.reshape(4, -1)).reshape(a.shape)
        b[...] = (b.reshape(-1, 4) @ turn).reshape(b.shape)
    change = join(Adapter(SCHEMA, turned_a, turned_b)) - join(begun)
    factors = float(np.linalg.norm(change)) ** 2
    assert frame.imprint(change, 1).energies.sum() < 1e-8 * factors


def test_small_factors_that_make_a_large_product_are_a_large_change() -> None:
    # Gradient assembly: of two updates with equal norms of A and of B, one is aligned so that the product is large.
    frame = Frame(Adapter(SCHEMA, np.zeros(SCHEMA.numel("A"), np.float32), np.zeros(SIZE, np.float32)), "both", seed=1)

    def update(*, aligned: bool) -> Flat:
        both = np.zeros(SCHEMA.numel("both"), np.float32)
        views = SCHEMA.views(both, "both")
        for module in SCHEMA.modules:
            views[module.a.name].reshape(4, -1)[0] = 1
            views[module.b.name].reshape(-1, 4)[:, 0 if aligned else 1] = 1
        return both

    assert np.linalg.norm(update(aligned=True)) == np.linalg.norm(update(aligned=False))
    assert frame.imprint(update(aligned=True), 1).energies.min() > 100
    assert frame.imprint(update(aligned=False), 1).energies.max() == 0


def test_under_both_the_norm_of_a_product_is_kept_nearly() -> None:
    begun = start()
    change = np.random.default_rng(2).standard_normal(SCHEMA.numel("both")).astype(np.float32) * np.float32(0.1)
    views, first = SCHEMA.views(change, "both"), SCHEMA.views(join(begun), "both")
    true = 0.0
    for module in SCHEMA.modules:
        a, b = (first[t.name].reshape(t.shape[0], -1).astype(np.float64) for t in (module.a, module.b))
        da, db = (views[t.name].reshape(t.shape[0], -1).astype(np.float64) for t in (module.a, module.b))
        true += float(np.sum(((b + db) @ (a + da) - b @ a) ** 2))
    seen = [Frame(begun, "both", seed).imprint(change, 1).energies.sum() for seed in range(40)]
    assert np.mean(seen) == pytest.approx(true, rel=0.15)


def test_what_a_round_did_is_seen_alike_before_and_after_a_is_refreshed() -> None:
    before = start()
    after = Adapter(SCHEMA, before.a, before.b + honest(1, 8)[0])
    refreshed = refresh(after).adapter
    assert refreshed.a.tobytes() != after.a.tobytes()
    plain, turned = FRAME.moves([before, after])[0], FRAME.moves([before, refreshed])[0]
    np.testing.assert_allclose(turned, plain, atol=1e-4)
    np.testing.assert_allclose(plain, honest(1, 8)[0][FRAME._places], atol=1e-4)
    later = Frame(refreshed, "B", seed=9)
    assert np.linalg.norm(later.moves([before, after])[0]) == pytest.approx(np.linalg.norm(plain), rel=1e-3)


def test_an_a_that_is_the_frames_own_needs_no_product() -> None:
    begun = start()
    frame, after = Frame(begun, "B", seed=5), Adapter(SCHEMA, begun.a, begun.b + honest(1, 8)[0])
    refreshed = refresh(after).adapter
    shared = frame.moves([begun, after, refreshed, after])
    copied = frame.moves([replace(one, a=one.a.copy()) for one in (begun, after, refreshed, after)])
    for ours, theirs in zip(shared, copied, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("part", ["B", "both"])
def test_what_rounds_did_is_sampled_where_updates_are(part: Part) -> None:
    chance = np.random.default_rng(13)
    adapters = [start()]
    for moves_a in (False, False, True):
        a, b = adapters[-1].a, adapters[-1].b + honest(1, len(adapters))[0]
        turn = 0.1 * chance.standard_normal(len(a)).astype(np.float32) if moves_a else np.float32(0)
        adapters.append(Adapter(SCHEMA, a + turn, b))
    few = Frame(adapters[2], part, seed=5, sampled=SIZE // 4)
    moved = few.moves(adapters)
    for before, after, seen in zip(adapters, adapters[1:], moved, strict=False):
        whole = []
        ends = [(SCHEMA.views(one.a, "A"), SCHEMA.views(one.b, "B")) for one in (before, after)]
        for module, right in zip(SCHEMA.modules, few._right, strict=True):
            old, new = (_product(b[module.b.name], a[module.a.name]) @ right for a, b in ends)
            whole.append((new - old).reshape(-1))
        np.testing.assert_allclose(seen, np.concatenate(whole)[few._places], atol=1e-4)


def _product(b: Flat, a: Flat) -> Flat:
    return b.reshape(len(b), -1) @ a.reshape(len(a), -1)


def test_a_core_is_looked_at_as_the_product_that_it_makes() -> None:
    begun, frame = start(), Frame(start(), "core", seed=5)
    core = np.random.default_rng(6).standard_normal(SCHEMA.numel("core")).astype(np.float32)
    lifted = lift(SCHEMA, core)
    imprint = frame.imprint(core, 1)
    np.testing.assert_allclose(imprint.energies, FRAME.imprint(lifted, 1).energies, rtol=1e-4)
    moved = frame.moves([begun, Adapter(SCHEMA, begun.a, begun.b + lifted)])[0]
    np.testing.assert_allclose(moved, imprint.sample, atol=1e-4)


def test_a_sample_of_each_layer_stands_for_it() -> None:
    few = Frame(start(), "B", seed=5, sampled=SIZE // 4)
    updates = honest()
    flipped = [*updates[:-1], -updates[-1]]
    imprints = {site: few.imprint(update, 50) for site, update in zip(SITES, flipped, strict=True)}
    assert len(few.sampled_of) == len(SCHEMA.modules)
    assert len(imprints["a"].sample) == sum(few.sampled_of) <= SIZE // 4 + len(SCHEMA.modules)
    assert column(features_of(imprints, few), "direction.whole")[-1] < -0.2
    assert imprints["a"].energies.sum() == pytest.approx(float(np.linalg.norm(updates[0])) ** 2, rel=1e-4)
    assert not np.array_equal(few._places, Frame(start(), "B", seed=6, sampled=SIZE // 4)._places)
    with pytest.raises(DetectorError, match="too few numbers"):
        Frame(start(), "B", seed=5, sampled=3)


def test_a_turned_update_points_against_the_others_everywhere() -> None:
    updates = honest()
    of = judged([*updates[:-1], -updates[-1]])
    for name in ("whole", "early", "middle", "late", "signs", "strong_signs"):
        assert distance(of, f"direction.{name}")[-1] < -3, name
    assert distance(of, "direction.against")[-1] > 3
    assert max(abs(value) for value in distance(of, "size.whole")) < 3


def test_an_update_turned_in_the_middle_block_alone_is_said_to_be_turned_there() -> None:
    updates = honest()
    turned = updates[-1].copy()
    views = SCHEMA.views(turned, "B")
    for module in SCHEMA.modules:
        if module.name.startswith("mid"):
            views[module.b.name][...] *= -1
    of = judged([*updates[:-1], turned])
    assert distance(of, "direction.middle")[-1] < -4
    assert abs(distance(of, "direction.early")[-1]) < 3
    assert abs(distance(of, "direction.late")[-1]) < 3


def test_two_hostile_sites_of_ten_however_large_hardly_move_what_is_said_of_the_others() -> None:
    updates = honest()
    plain = judged(updates)
    attacked = judged([*updates[:-2], -1e6 * updates[-2], -1e6 * updates[-1]])
    for name in ("direction.whole", "direction.signs", "size.whole", "projection.direction"):
        moved = np.abs(np.array(distance(attacked, name)[:8]) - np.array(distance(plain, name)[:8]))
        assert moved.max() < 3, name
    assert min(distance(attacked, "size.whole")[8:]) > 100


def test_copies_are_seen_and_kindred_updates_are_not_taken_for_them() -> None:
    updates = honest()
    of = judged([*updates[:-1], updates[0]])
    assert column(of, "pairs.copy")[0] == column(of, "pairs.copy")[-1] == pytest.approx(5, abs=0.1)
    assert max(column(of, "pairs.copy")[1:-1]) == 0


def test_what_the_last_round_did_is_recognised() -> None:
    updates, before = honest(), honest(1, 99)[0]
    past = [FRAME.imprint(one, 1).sample for one in (honest(1, 98)[0], before)]
    of = judged([*updates[:-2], before * np.float32(0.5), -before], past)
    assert column(of, "past.last")[-2:] == pytest.approx([1, -1], abs=1e-4)
    assert column(of, "past.copy")[-2:] == pytest.approx([5, 0], abs=0.1)
    assert all(math.isnan(value) for value in column(judged(updates), "past.last"))


def test_a_claim_of_many_drawings_for_an_ordinary_update_shows() -> None:
    imprints = {s: FRAME.imprint(u, 10**6 if s == "a" else 50) for s, u in zip(SITES, honest(), strict=True)}
    claimed = features_of(imprints, FRAME).standardised[:, PLACE["size.claimed"]]
    assert claimed[0] < -10
    assert np.abs(claimed[1:]).max() < 3


def test_noise_of_the_prescribed_size_is_natural_and_other_noise_is_not() -> None:
    chance = np.random.default_rng(4)
    deviation, noise = 0.03, NoiseModel(0.03, SIZE)
    updates = [(chance.standard_normal(SIZE) * deviation).astype(np.float32) for _ in range(10)]
    of = judged(updates, noise=noise)
    assert max(abs(value) for value in column(of, "noise.size")) < 5
    assert max(column(of, "noise.pairs")) < 5
    assert max(abs(value) for value in column(of, "noise.tails")) < 5
    mean = np.mean(updates, axis=0).astype(np.float32)
    attacked = judged(
        [*updates[:-3], mean, updates[-2] * np.float32(1.2), np.sign(updates[-1]) * np.float32(deviation)], noise=noise
    )
    assert column(attacked, "noise.size")[-3] < -20
    assert column(attacked, "noise.pairs")[-3] > 5
    assert column(attacked, "noise.size")[-2] > 5
    assert column(attacked, "noise.tails")[-1] < -10


def test_who_is_copied_from_is_not_accused_of_hanging_together_with_the_copy() -> None:
    chance = np.random.default_rng(4)
    updates = [(chance.standard_normal(SIZE) * 0.03).astype(np.float32) for _ in range(10)]
    crafted = (-3 * np.mean(updates[:8], axis=0)).astype(np.float32)
    pairs = column(judged([*updates[:8], crafted, crafted], noise=NoiseModel(0.03, SIZE)), "noise.pairs")
    assert max(pairs[:8]) < 3
    assert min(pairs[8:]) > 5


def test_the_closed_form_of_the_noise_by_hand() -> None:
    flat = np.full(SIZE, 0.055, np.float32)
    of = judged([flat, *honest(4)], noise=NoiseModel(0.05, SIZE))
    assert column(of, "noise.size")[0] == pytest.approx(0.1 * math.sqrt(2 * SIZE), rel=1e-4)


@pytest.mark.parametrize(("deviation", "size"), [(0.0, 5), (-1.0, 5), (math.inf, 5), (math.nan, 5), (1.0, 0)])
def test_noise_that_is_none_is_refused(deviation: float, size: int) -> None:
    with pytest.raises(DetectorError, match="no noise"):
        NoiseModel(deviation, size)


NOTHING = np.zeros(SIZE, np.float32)


@pytest.mark.parametrize(
    "updates",
    [[NOTHING] * 10, [NOTHING], honest(1), honest(2), [honest(1)[0]] * 10, [NOTHING] * 9 + honest(1), honest(3)],
    ids=["all zero", "one, zero", "one", "two", "all identical", "one not zero", "three"],
)
def test_odd_rounds_have_features_too(updates: list[Flat]) -> None:
    of = judged(updates, [FRAME.imprint(NOTHING, 1).sample], NoiseModel(0.03, SIZE))
    assert of.values.shape == of.standardised.shape == (len(updates), len(FEATURES))
    assert not np.isinf(of.values).any()
    assert not np.isinf(of.standardised).any()
    relative = [f.name for f in FEATURES if not f.absolute]
    if len({update.tobytes() for update in updates}) == 1:
        assert all(abs(value) < 1e-3 or math.isnan(value) for n in relative for value in distance(of, n))


def test_an_update_of_nothing_is_small_and_has_no_direction() -> None:
    of = judged([*honest(9), NOTHING])
    assert distance(of, "size.whole")[-1] < -50
    assert column(of, "shape.zeros")[-1] == 1
    assert math.isnan(column(of, "direction.whole")[-1])
    assert not np.isnan(of.values[:-1, PLACE["direction.whole"]]).any()


def test_a_tiny_update_is_small_and_otherwise_as_it_was() -> None:
    updates = honest()
    plain = judged(updates)
    tiny = judged([*updates[:-1], updates[-1] * np.float32(1e-25)])
    for feature in FEATURES:
        if feature.name not in ("size.whole", "size.claimed", "projection.distance"):
            expected = column(plain, feature.name)[-1]
            assert column(tiny, feature.name)[-1] == pytest.approx(expected, abs=1e-2, nan_ok=True), feature.name
    assert distance(tiny, "size.whole")[-1] < -50


def test_no_update_and_one_that_does_not_fit_are_refused() -> None:
    with pytest.raises(DetectorError, match="no update"):
        features_of({}, FRAME)
    with pytest.raises(AdapterError):
        FRAME.imprint(np.zeros(3, np.float32), 1)


def test_layers_without_telling_names_are_early_middle_and_late_by_thirds() -> None:
    schema = AdapterSchema(tuple(LoraModule(f"block.{i}", 4, 4, 2) for i in range(6)))
    adapter = Adapter(schema, orthonormal_a(schema, 0), np.zeros(schema.numel("B"), np.float32))
    assert Frame(adapter, "B", 0).blocks.tolist() == [0, 0, 1, 1, 2, 2]
    assert FRAME.blocks.tolist() == [0, 0, 1, 1, 2, 2]


def test_the_updates_of_a_real_federation_have_features(base: Base) -> None:
    sites = []
    for studio in STUDIOS.values():
        made = studio_drawings(studio, 4, 0, size=base.pixels)
        drawings = [Drawing("", m.caption, None, base.pixels, zlib.compress(m.picture.tobytes())) for m in made]
        encoded = encode(base, drawings)
        sites.append(SimulatedSite(studio.name, encoded, encoded))
    settings = RunSettings(privacy=False, rounds=1, training=TrainingSettings(steps=2, batch=2))
    simulation = Simulation(base, sites, settings)
    frame = Frame(simulation.state.adapter, "B", seed=3)
    updates = {update.site: update for update in simulation.updates(1)}
    of = features_of({site: frame.imprint(u.delta, u.examples) for site, u in updates.items()}, frame)
    missing = {FEATURES[i].name for i in np.flatnonzero(np.isnan(of.values).any(axis=0))}
    assert missing == {f.name for f in FEATURES if f.name.startswith(("past.", "noise."))}
    imprint = frame.imprint(updates["rossi"].delta, 4)
    assert math.sqrt(imprint.energies.sum()) == pytest.approx(updates["rossi"].norm, rel=1e-4)
