"""The attack zoo: every attack does what its paper says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.quantise import Flat
from deploy.zoo import ALONE, WIRE, View

D = 40


def a_view(hostile: int = 3, honest: int = 9, seed: int = 0, passes: Callable[[Flat], bool] | None = None) -> View:
    draw = np.random.default_rng(seed)
    shared = draw.standard_normal(D).astype(np.float32)

    def some(rows: int) -> Flat:
        return np.asarray(shared + draw.standard_normal((rows, D)).astype(np.float32))

    own, others = some(hostile), some(honest)
    past = [draw.standard_normal(D).astype(np.float32)]
    return View(2, own, others, past, None, np.random.default_rng(seed), ((0, D),), passes)


def spread_of(rows: Flat, to: Flat) -> Flat:
    return np.asarray(np.linalg.norm(rows[:, None] - to[None], axis=2))


@pytest.mark.parametrize("name", sorted(WIRE))
@settings(max_examples=20, deadline=None)
@given(hostile=st.integers(1, 4), honest=st.integers(0, 6), seed=st.integers(0, 999))
def test_every_attack_sends_finite_updates_of_the_right_shape(name: str, hostile: int, honest: int, seed: int) -> None:
    view = a_view(hostile, honest, seed)
    sent = WIRE[name](view)
    assert sent.shape == view.own.shape
    assert sent.dtype == np.float32
    assert np.isfinite(sent).all()


@pytest.mark.parametrize("name", sorted(WIRE))
def test_no_attack_changes_what_it_was_given(name: str) -> None:
    view = a_view()
    own, others = view.own.copy(), view.others.copy()
    WIRE[name](view)
    np.testing.assert_array_equal(view.own, own)
    np.testing.assert_array_equal(view.others, others)


def test_those_that_one_site_can_make_need_nobody_else() -> None:
    view = a_view(1)
    for name, attack in ALONE.items():
        ignorant = replace(view, others=view.others[:0], past=(), chance=np.random.default_rng(5))
        np.testing.assert_array_equal(attack(ignorant), attack(replace(view, chance=np.random.default_rng(5))), name)


def test_a_gaussian_is_as_large_as_an_honest_update_and_a_free_riders_noise_a_tenth() -> None:
    view = a_view()
    sizes = np.linalg.norm(view.own, axis=1)
    np.testing.assert_allclose(np.linalg.norm(WIRE["gaussian"](view), axis=1), sizes, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(WIRE["free-rider-noise"](view), axis=1), sizes / 10, rtol=1e-5)


def test_a_stale_site_sends_the_last_round_and_noise_in_the_first() -> None:
    view = a_view()
    np.testing.assert_array_equal(WIRE["stale"](view), np.repeat(view.past[-1][None], 3, axis=0))
    assert WIRE["stale"](replace(view, past=())).any()


def test_alie_goes_as_many_deviations_as_its_paper_says() -> None:
    # n = 50, m = 24: s = 26 - 24 = 2 supporters, z = quantile of (26 - 2) / 26 = 1.43 (Baruch et al., section 3).
    view = a_view(24, 26)
    deviations = (view.others.mean(axis=0) - WIRE["alie"](view)[0]) / view.others.std(axis=0)
    np.testing.assert_allclose(deviations, 1.426, atol=2e-3)


def test_ipm_turns_the_inner_product_with_the_true_mean_around() -> None:
    view = a_view()
    mean = view.others.mean(axis=0)
    assert all(float(row @ mean) < 0 for row in WIRE["ipm"](view))


@pytest.mark.parametrize("seed", range(5))
def test_min_max_is_no_further_from_any_than_they_are_from_each_other_and_nearly_as_far(seed: int) -> None:
    view = a_view(seed=seed)
    furthest = spread_of(view.others, view.others).max()
    reached = spread_of(view.others, WIRE["min-max"](view)[:1]).max()
    assert 0.999 * furthest <= reached <= furthest * (1 + 1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_min_sum_keeps_to_the_largest_sum_of_squares(seed: int) -> None:
    view = a_view(seed=seed)
    most = (spread_of(view.others, view.others) ** 2).sum(axis=0).max()
    reached = (spread_of(view.others, WIRE["min-sum"](view)[:1]) ** 2).sum()
    assert 0.999 * most <= reached <= most * (1 + 1e-5)


def test_fang_lies_beyond_everybody_on_the_side_that_the_mean_is_not() -> None:
    view = a_view()
    sent, down = WIRE["fang"](view), view.others.mean(axis=0) > 0
    assert (sent[:, down] <= view.others.min(axis=0)[down]).all()
    assert (sent[:, ~down] >= view.others.max(axis=0)[~down]).all()


def test_fang_moves_a_trimmed_mean_against_the_honest_direction() -> None:
    view = a_view()
    mean = view.others.mean(axis=0)
    rows = np.sort(np.concatenate([view.others, WIRE["fang"](view)]), axis=0)[3:-3].mean(axis=0)
    clean = np.sort(view.others, axis=0)[2:-2].mean(axis=0)
    assert float((rows - clean) @ np.sign(mean)) < 0


def test_a_mimic_is_close_to_one_site_and_no_copy_of_it() -> None:
    view = a_view()
    sent = WIRE["mimic"](view)
    for row in sent:
        cosine = float(row @ view.others[0]) / np.linalg.norm(row) / np.linalg.norm(view.others[0])
        assert 0.98 < cosine < 0.9999


def test_replacement_makes_the_mean_what_the_hostile_want() -> None:
    view = a_view()
    quiet = replace(view, others=np.zeros_like(view.others))
    mean = np.concatenate([quiet.others, WIRE["replacement"](quiet)]).mean(axis=0)
    np.testing.assert_allclose(mean, -view.own.mean(axis=0), rtol=1e-4)


def test_drift_turns_the_same_way_in_every_round() -> None:
    first, second = a_view(seed=1), a_view(seed=2)
    one, two = (WIRE["drift"](view) - view.own for view in (first, second))
    cosine = float(one[0] @ two[0]) / np.linalg.norm(one[0]) / np.linalg.norm(two[0])
    assert cosine == pytest.approx(1, abs=1e-4)


def test_who_adapts_goes_as_far_as_it_is_let() -> None:
    limit = 0.2

    def passes(tried: Flat) -> bool:
        asked.append(tried)
        return float(np.dot(tried.mean(axis=0), honest)) > limit

    asked: list[Flat] = []
    view = a_view(passes=passes)
    honest = view.others.mean(axis=0) / np.linalg.norm(view.others.mean(axis=0))
    sent = WIRE["adaptive"](view)
    assert passes(sent)
    assert len(asked) > 5
    bent = np.linalg.norm(view.own, axis=1).mean()
    assert float(sent.mean(axis=0) @ honest) < limit + bent / 20


def test_who_adapts_and_is_never_let_in_sends_honest_work() -> None:
    view = a_view(passes=lambda _: False)
    sent = WIRE["adaptive"](view)
    cosine = float(sent[0] @ view.own[0]) / np.linalg.norm(sent[0]) / np.linalg.norm(view.own[0])
    assert cosine > 0.97
