"""A round's aggregation: admitted updates in, the next state out."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import pytest

from common.adapters import Adapter, AdapterSchema, LoraModule, join
from common.errors import AggregationError
from common.orthonormal import orthonormal_a
from common.quantise import Flat
from common.settings import AggregationSettings
from security.admission import AdmittedUpdate
from server.aggregation import Round, aggregate
from server.state import RunState

SCHEMA = AdapterSchema((LoraModule("x", 6, 5, 2), LoraModule("conv", 4, 2, 2, (3, 3))))
SIZE = SCHEMA.numel("B")
PLAIN = AggregationSettings(refresh_every=0)


def update(site: str, examples: int, delta: Flat) -> AdmittedUpdate:
    norm = float(np.linalg.norm(delta))
    return AdmittedUpdate(site=site, examples=examples, delta=delta, norm=norm, metrics={}, digest="", seconds=1.0)


def start(seed: int = 0) -> RunState:
    b = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
    return RunState(Adapter(SCHEMA, orthonormal_a(SCHEMA, seed), b))


def some_updates(count: int = 6, part: Literal["B", "both"] = "B") -> list[AdmittedUpdate]:
    chance = np.random.default_rng(9)
    return [
        update(f"site-{i}", 10 * i + 5, chance.standard_normal(SCHEMA.numel(part)).astype(np.float32) * np.float32(0.1))
        for i in range(count)
    ]


def products(adapter: Adapter) -> list[Flat]:
    a, b = SCHEMA.views(adapter.a, "A"), SCHEMA.views(adapter.b, "B")
    return [b[m.b.name].reshape(-1, m.rank) @ a[m.a.name].reshape(m.rank, -1) for m in SCHEMA.modules]


def ffa(settings: AggregationSettings = PLAIN, number: int = 1) -> Round:
    return Round(number, "ffa", settings)


def same_bytes(one: RunState, other: RunState) -> bool:
    return (one.adapter.a.tobytes(), one.adapter.b.tobytes(), one.optimiser) == (
        other.adapter.a.tobytes(), other.adapter.b.tobytes(), other.optimiser,
    )  # fmt: skip


def test_b_moves_by_the_mean_weighted_by_capped_examples_and_a_stays() -> None:
    ones = np.ones(SIZE, np.float32)
    state = RunState(Adapter(SCHEMA, start().adapter.a, np.full(SIZE, 2, np.float32)))
    settings = AggregationSettings(refresh_every=0, example_cap=30)
    after = aggregate(ffa(settings), state, [update("a", 10, ones), update("b", 10**18, 5 * ones)])
    assert after.adapter.b.tolist() == [2 + (10 * 1 + 30 * 5) / 40] * SIZE
    assert after.adapter.a.tobytes() == state.adapter.a.tobytes()
    assert after.optimiser == b""


@pytest.mark.parametrize(
    "this",
    [
        ffa(),
        ffa(AggregationSettings(refresh_every=1, momentum=0.6)),
        ffa(AggregationSettings(optimiser="adam", momentum=0.9)),
        Round(1, "both", AggregationSettings()),
    ],
)
def test_the_order_of_arrival_never_shows(this: Round) -> None:
    updates = some_updates(4, "B" if this.method == "ffa" else "both")
    first = aggregate(this, start(), updates)
    for order in itertools.permutations(updates):
        assert same_bytes(aggregate(this, start(), iter(order)), first)


def test_a_refresh_changes_no_product_and_comes_when_it_is_due() -> None:
    settings = AggregationSettings(refresh_every=3)
    plain = aggregate(ffa(PLAIN), start(), some_updates()).adapter
    for number in (1, 2, 4):
        assert aggregate(ffa(settings, number), start(), some_updates()).adapter.a.tobytes() == plain.a.tobytes()
    refreshed = aggregate(ffa(settings, 3), start(), some_updates()).adapter
    assert refreshed.a.tobytes() != plain.a.tobytes()
    for got, expected in zip(products(refreshed), products(plain), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_momentum_goes_on_through_a_refresh_as_if_there_had_been_none() -> None:
    nothing = [update("a", 1, np.zeros(SIZE, np.float32))]
    results = []
    for every in (0, 1):
        settings = AggregationSettings(refresh_every=every, momentum=0.5)
        state = aggregate(ffa(settings, 1), start(), some_updates())
        results.append(products(aggregate(ffa(settings, 2), state, nothing).adapter))
    for without, with_refresh in zip(*results, strict=True):
        np.testing.assert_allclose(with_refresh, without, atol=1e-5)


def test_both_factors_merge_to_the_best_of_their_rank_for_the_mean_product() -> None:
    updates = some_updates(3, "both")
    after = aggregate(Round(1, "both", AggregationSettings(example_cap=10)), start(), updates)
    assert after.adapter.schema == SCHEMA
    weights = [5, 10, 10]
    begun = join(start().adapter)
    trained = [SCHEMA.views(begun + u.delta, "both") for u in updates]
    for module, got in zip(SCHEMA.modules, products(after.adapter), strict=True):
        each = [t[module.b.name].reshape(-1, 2) @ t[module.a.name].reshape(2, -1) for t in trained]
        u, s, v = np.linalg.svd(np.average(each, axis=0, weights=weights))
        np.testing.assert_allclose(got, (u[:, :2] * s[:2]) @ v[:2], atol=1e-4)


@pytest.mark.parametrize("settings", [{"optimiser": "adam"}, {"momentum": 0.5}, {"server_learning_rate": 0.5}])
def test_a_server_optimiser_with_both_factors_is_refused(settings: dict[str, object]) -> None:
    this = Round(1, "both", AggregationSettings.model_validate(settings))
    with pytest.raises(AggregationError, match="the server optimiser steps in B's coordinates"):
        aggregate(this, start(), some_updates(2, "both"))


@pytest.mark.parametrize("method", ["ffa", "both"])
def test_an_empty_round_is_refused(method: Literal["ffa", "both"]) -> None:
    with pytest.raises(AggregationError):
        aggregate(Round(1, method, PLAIN), start(), [])


def test_an_update_without_examples_is_refused() -> None:
    with pytest.raises(AggregationError, match="no example"):
        aggregate(ffa(), start(), [update("a", 0, np.zeros(SIZE, np.float32))])
