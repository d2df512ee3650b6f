"""The server optimiser, in literal numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.adapters import Adapter, AdapterSchema, LoraModule
from common.errors import AggregationError
from common.orthonormal import orthonormal_a
from common.quantise import Flat
from common.settings import AggregationSettings
from server.optimiser import Memory, step, turned
from server.refactor import refresh

SCHEMA = AdapterSchema((LoraModule("x", 4, 5, 2), LoraModule("conv", 3, 2, 3, (3, 3))))


def flat(*numbers: float) -> Flat:
    return np.array(numbers, np.float32)


def run(settings: AggregationSettings, *means: Flat) -> list[list[float]]:
    memory, steps = Memory(), []
    for mean in means:
        memory, change = step(settings, memory, mean)
        assert change.dtype == np.float32
        steps.append(change.tolist())
    return steps


def test_by_default_the_step_is_the_mean_and_nothing_is_remembered() -> None:
    memory, change = step(AggregationSettings(), Memory(), flat(0.1, -2))
    assert change.tobytes() == flat(0.1, -2).tobytes()
    assert memory.to_bytes() == b""


def test_a_rate_scales_the_step() -> None:
    assert run(AggregationSettings(server_learning_rate=0.5), flat(1, -2)) == [[0.5, -1.0]]


def test_momentum_adds_what_was_before() -> None:
    settings = AggregationSettings(momentum=0.5, server_learning_rate=2.0)
    assert run(settings, flat(1, 0), flat(0, 4), flat(0, 0)) == [[2, 0], [1, 8], [0.5, 4]]


def test_adam_is_as_published() -> None:
    settings = AggregationSettings(optimiser="adam", momentum=0.9, server_learning_rate=0.1)
    # m = .1, v = .01: .1 * .1 / (.1 + .001); then m = .09 - .1 = -.01, v = .0099 + .01 = .0199
    first, second = run(settings, flat(1, 0), flat(-1, 0))
    assert first == pytest.approx([0.0990099, 0])
    assert second == pytest.approx([-0.1 * 0.01 / (0.0199**0.5 + 0.001), 0], rel=1e-4)


def test_adam_steps_alike_for_large_and_small_updates() -> None:
    settings = AggregationSettings(optimiser="adam", momentum=0.0)
    large, small = run(settings, flat(1000, 10))[0]
    assert large == pytest.approx(10, rel=1e-3)
    assert small == pytest.approx(10, rel=1e-2)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9), st.sampled_from(["sgd", "adam"]))
def test_memory_survives_being_written(numbers: list[float], kind: str) -> None:
    settings = AggregationSettings.model_validate({"optimiser": kind, "momentum": 0.9})
    memory, _ = step(settings, Memory(), flat(*numbers))
    again = Memory.from_bytes(memory.to_bytes())
    mean = flat(*numbers[::-1])
    assert step(settings, again, mean)[1].tobytes() == step(settings, memory, mean)[1].tobytes()


@given(st.binary(min_size=1, max_size=200))
def test_damaged_memory_is_refused(data: bytes) -> None:
    with pytest.raises(AggregationError, match="damaged"):
        Memory.from_bytes(data)


@pytest.mark.parametrize("bad", [flat(np.nan), np.zeros(1), np.zeros((1, 1), np.float32)])
def test_memory_of_other_numbers_is_refused(bad: Flat) -> None:
    with pytest.raises(AggregationError, match="damaged"):
        Memory.from_bytes(Memory(bad).to_bytes())


def test_memory_of_another_adapter_is_refused() -> None:
    settings = AggregationSettings(momentum=0.5)
    memory, _ = step(settings, Memory(), flat(1, 2))
    with pytest.raises(AggregationError, match="got 2; expected 3"):
        step(settings, memory, flat(1, 2, 3))
    with pytest.raises(AggregationError, match="got 2; expected 17"):
        turned(memory, SCHEMA, refresh(_adapter(0)).bases)


def test_a_step_that_is_not_finite_is_refused() -> None:
    with pytest.raises(AggregationError, match="not finite"):
        step(AggregationSettings(server_learning_rate=10.0), Memory(), flat(3e38))


def _adapter(seed: int) -> Adapter:
    b = np.random.default_rng(seed).standard_normal(SCHEMA.numel("B")).astype(np.float32)
    return Adapter(SCHEMA, orthonormal_a(SCHEMA, seed), b)


def test_momentum_turned_with_a_refresh_moves_the_products_as_before() -> None:
    before, momentum = _adapter(1), _adapter(2).b
    refreshed = refresh(before)
    moved = turned(Memory(momentum), SCHEMA, refreshed.bases)
    old_a, new_a = SCHEMA.views(before.a, "A"), SCHEMA.views(refreshed.adapter.a, "A")
    old_m, new_m = SCHEMA.views(momentum, "B"), SCHEMA.views(moved.momentum, "B")
    for module in SCHEMA.modules:
        expected = old_m[module.b.name].reshape(-1, module.rank) @ old_a[module.a.name].reshape(module.rank, -1)
        got = new_m[module.b.name].reshape(-1, module.rank) @ new_a[module.a.name].reshape(module.rank, -1)
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_squares_turned_with_a_refresh_stay_positive_and_keep_their_sum_in_each_row() -> None:
    square = _adapter(2).b ** 2
    moved = turned(Memory(square=square), SCHEMA, refresh(_adapter(1)).bases)
    assert moved.momentum.size == 0
    assert (moved.square >= 0).all()
    before, after = SCHEMA.views(square, "B"), SCHEMA.views(moved.square, "B")
    for name, tensor in before.items():
        np.testing.assert_allclose(after[name].sum(axis=1), tensor.sum(axis=1), rtol=1e-5)
