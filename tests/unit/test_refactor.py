"""Re-factoring: no product changes, ranks mix, and everything is what the dense computation says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.adapters import Adapter, AdapterSchema, LoraModule
from common.errors import AdapterError, AggregationError
from common.orthonormal import orthonormal_a
from server.refactor import merge_ranks, refresh

Dense = NDArray[np.float64]


@st.composite
def schemas(draw: st.DrawFn) -> AdapterSchema:
    modules = []
    for i in range(draw(st.integers(1, 3))):
        inputs, outputs = draw(st.integers(1, 12)), draw(st.integers(1, 12))
        kernel = draw(st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)))
        columns = inputs * (kernel[0] * kernel[1] if kernel else 1)
        modules.append(LoraModule(f"m{i}", outputs, inputs, draw(st.integers(1, min(columns, 6))), kernel))
    return AdapterSchema(tuple(modules))


def random_adapter(schema: AdapterSchema, seed: int) -> Adapter:
    chance = np.random.default_rng(seed)
    a = chance.standard_normal(schema.numel("A")).astype(np.float32)
    return Adapter(schema, a, chance.standard_normal(schema.numel("B")).astype(np.float32))


def factors(adapter: Adapter) -> list[tuple[Dense, Dense]]:
    a, b = adapter.schema.views(adapter.a, "A"), adapter.schema.views(adapter.b, "B")
    return [
        (a[m.a.name].reshape(m.rank, -1).astype(np.float64), b[m.b.name].reshape(-1, m.rank).astype(np.float64))
        for m in adapter.schema.modules
    ]


def products(adapter: Adapter) -> list[Dense]:
    return [b @ a for a, b in factors(adapter)]


def same(got: Dense, expected: Dense, scale: float | None = None) -> None:
    reference = float(np.linalg.norm(expected)) if scale is None else scale
    assert np.linalg.norm(got - expected) <= 1e-5 * reference


def orthonormal_rows(adapter: Adapter) -> bool:
    return all(np.allclose(a @ a.T, np.eye(len(a)), atol=1e-6) for a, _ in factors(adapter))


seeds = st.integers(0, 2**32)


@given(schemas(), seeds)
def test_the_start_has_orthonormal_rows(schema: AdapterSchema, seed: int) -> None:
    a = orthonormal_a(schema, seed)
    assert orthonormal_rows(Adapter(schema, a, np.zeros(schema.numel("B"), np.float32)))
    assert orthonormal_a(schema, seed).tobytes() == a.tobytes()
    assert orthonormal_a(schema, seed + 1).tobytes() != a.tobytes() or schema.numel("A") == len(schema.modules)


def test_two_modules_of_one_shape_start_differently() -> None:
    schema = AdapterSchema((LoraModule("x", 4, 5, 2), LoraModule("y", 4, 5, 2)))
    first, second = orthonormal_a(schema, 0).reshape(2, -1)
    assert not np.allclose(first, second)


def test_a_rank_above_the_inputs_is_refused() -> None:
    schema = AdapterSchema((LoraModule("narrow", 9, 3, 4),))
    with pytest.raises(
        AdapterError, match=r"narrow cannot have orthonormal rows in A; got rank 4; expected at most its 3"
    ):
        orthonormal_a(schema, 0)
    with pytest.raises(AdapterError, match="narrow"):
        refresh(random_adapter(schema, 0))
    with pytest.raises(AdapterError, match="narrow"):
        merge_ranks([(1, random_adapter(schema.with_rank(2), 0))], schema)


@given(schemas(), seeds, st.lists(st.integers(1, 1000), min_size=1, max_size=5))
def test_under_a_shared_a_the_mean_of_b_is_the_mean_of_the_products(
    schema: AdapterSchema, seed: int, weights: list[int]
) -> None:
    a = orthonormal_a(schema, seed)
    sites = [Adapter(schema, a, random_adapter(schema, seed + i).b) for i in range(len(weights))]
    mean_b = np.average([site.b.astype(np.float64) for site in sites], axis=0, weights=weights).astype(np.float32)
    for i, got in enumerate(products(Adapter(schema, a, mean_b))):
        same(
            got,
            np.average([products(site)[i] for site in sites], axis=0, weights=weights),
            float(np.linalg.norm(products(sites[0])[i])),
        )


def test_averaging_a_and_b_apart_is_not_the_mean_of_the_products() -> None:
    schema = AdapterSchema((LoraModule("x", 6, 6, 2),))
    sites = [random_adapter(schema, i) for i in range(2)]
    half = np.float32(0.5)
    apart = Adapter(schema, (sites[0].a + sites[1].a) * half, (sites[0].b + sites[1].b) * half)
    true = (products(sites[0])[0] + products(sites[1])[0]) / 2
    assert np.linalg.norm(products(apart)[0] - true) > 0.3 * np.linalg.norm(true)


@given(schemas(), seeds)
def test_a_refresh_changes_no_product_and_makes_rows_orthonormal(schema: AdapterSchema, seed: int) -> None:
    before = random_adapter(schema, seed)
    after = refresh(before)
    assert orthonormal_rows(after.adapter)
    for got, expected, (a, b) in zip(products(after.adapter), products(before), factors(before), strict=True):
        same(got, expected, float(np.linalg.norm(a) * np.linalg.norm(b)))


@given(schemas(), seeds)
def test_a_refresh_orders_b_by_the_singular_values_of_the_product(schema: AdapterSchema, seed: int) -> None:
    before = random_adapter(schema, seed)
    for (_, b), product in zip(factors(refresh(before).adapter), products(before), strict=True):
        gram = b.T @ b
        spectrum = np.linalg.svd(product, compute_uv=False)[: len(gram)]
        expected = np.pad(spectrum, (0, len(gram) - len(spectrum))) ** 2
        np.testing.assert_allclose(gram, np.diag(expected), atol=1e-4 * expected[0])


@given(schemas(), seeds)
def test_a_refresh_carries_what_else_is_kept_in_the_coordinates_of_b(schema: AdapterSchema, seed: int) -> None:
    before, other = random_adapter(schema, seed), random_adapter(schema, seed + 1)
    after = refresh(before)
    for basis, (a, b), (new_a, new_b), (_, m) in zip(
        after.bases, factors(before), factors(after.adapter), factors(other), strict=True
    ):
        np.testing.assert_allclose(basis @ new_a, a, atol=1e-5)
        np.testing.assert_allclose(b @ basis, new_b, atol=1e-4)
        np.testing.assert_allclose((m @ basis) @ new_a, m @ a, atol=1e-4)


@given(schemas(), seeds)
def test_refreshing_orthonormal_rows_is_a_rotation_within_the_space_they_span(schema: AdapterSchema, seed: int) -> None:
    before = Adapter(schema, orthonormal_a(schema, seed), random_adapter(schema, seed).b)
    after = refresh(before)
    for basis, (a, _), (new_a, _) in zip(after.bases, factors(before), factors(after.adapter), strict=True):
        np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-6)
        np.testing.assert_allclose(new_a.T @ new_a, a.T @ a, atol=1e-6)  # the projector on the row space stays


@pytest.mark.parametrize("rank", [1, 3])
def test_a_refresh_of_b_at_zero_keeps_the_products_at_zero(rank: int) -> None:
    schema = AdapterSchema((LoraModule("x", 4, 5, rank), LoraModule("y", 2, 3, rank, (3, 3))))
    after = refresh(Adapter(schema, orthonormal_a(schema, 3), np.zeros(schema.numel("B"), np.float32))).adapter
    assert not after.b.any()
    assert orthonormal_rows(after)


@given(schemas(), seeds)
def test_a_second_refresh_changes_nothing_but_the_last_bits(schema: AdapterSchema, seed: int) -> None:
    once = refresh(random_adapter(schema, seed)).adapter
    assert refresh(once).adapter.b.tobytes() == refresh(once).adapter.b.tobytes()
    for got, expected in zip(products(refresh(once).adapter), products(once), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


@given(
    schemas(),
    seeds,
    st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 6)), min_size=1, max_size=4),
    st.integers(1, 8),
)
def test_merged_ranks_are_the_truncated_svd_of_the_dense_mean(
    schema: AdapterSchema, seed: int, sites: list[tuple[int, int]], rank: int
) -> None:
    target = schema.with_rank(min(rank, *(m.columns for m in schema.modules)))
    updates = [(weight, random_adapter(schema.with_rank(r), seed + i)) for i, (weight, r) in enumerate(sites)]
    merged = merge_ranks(updates, target)
    assert merged.schema == target
    assert orthonormal_rows(merged)
    for i, got in enumerate(products(merged)):
        mean = np.average([products(site)[i] for _, site in updates], axis=0, weights=[w for w, _ in updates])
        u, s, v = np.linalg.svd(mean, full_matrices=False)
        kept = min(target.modules[i].rank, len(s))
        error = np.linalg.norm(got - mean)
        assert error <= np.linalg.norm(s[kept:]) + 1e-5 * np.linalg.norm(s)  # as good as the best there is
        if kept == len(s) or s[kept - 1] > 1.01 * s[kept]:  # and the very same, where the best is unique
            np.testing.assert_allclose(got, (u[:, :kept] * s[:kept]) @ v[:kept], atol=1e-4 * s[0])


def test_merging_at_the_sum_of_the_ranks_loses_nothing() -> None:
    schema = AdapterSchema((LoraModule("x", 20, 30, 1), LoraModule("conv", 10, 4, 1, (3, 3))))
    updates = [(w, random_adapter(schema.with_rank(r), r)) for w, r in ((1, 1), (2, 2), (5, 3))]
    for rank in (6, 8):
        merged = merge_ranks(updates, schema.with_rank(rank))
        for i, got in enumerate(products(merged)):
            same(got, np.average([products(site)[i] for _, site in updates], axis=0, weights=[1, 2, 5]))


def test_adapters_that_do_not_belong_together_are_not_merged() -> None:
    schema = AdapterSchema((LoraModule("x", 4, 5, 2),))
    other = AdapterSchema((LoraModule("x", 5, 4, 2),))
    with pytest.raises(AdapterError, match="different modules"):
        merge_ranks([(1, random_adapter(schema, 0)), (1, random_adapter(other, 0))], schema)
    with pytest.raises(AdapterError, match="different modules"):
        merge_ranks([(1, random_adapter(schema, 0))], other)
    with pytest.raises(AggregationError, match=r"got \[\]"):
        merge_ranks([], schema)
    with pytest.raises(AggregationError, match=r"got \[1, 0\]"):
        merge_ranks([(1, random_adapter(schema, 0)), (0, random_adapter(schema, 0))], schema)
