"""Candidates: what a round would have come to with others of its updates, and how they travel."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.adapter_schema import Adapter
from common.candidates import MOST_CANDIDATES, pack_candidates, unpack_candidates
from common.errors import AdapterError
from common.quantise import Flat
from common.settings import AggregationSettings, RobustSettings
from security.admission import AdmittedUpdate
from server.aggregation import Round, aggregate
from server.candidates import averaged, candidates_of, in_coordinates
from server.examination import Closed
from server.state import RunState
from tests.unit.test_aggregation import PLAIN, SCHEMA, SIZE, some_updates, start

UPDATES = {update.site: update for update in some_updates(6)}
GROUPS = (("site-0", "site-1", "site-2"), ("site-3", "site-4", "site-5"))
REFRESHED = AggregationSettings(refresh_every=1)


def of(sites: Collection[str]) -> Iterator[AdmittedUpdate]:
    return (UPDATES[site] for site in sorted(sites))


def products(adapter: Adapter) -> Flat:
    """Return all products B A, one after the other."""
    a, b = SCHEMA.views(adapter.a, "A"), SCHEMA.views(adapter.b, "B")
    return np.concatenate(
        [
            (b[m.b.name].reshape(-1, m.rank) @ a[m.a.name].reshape(m.rank, -1)).reshape(-1).astype(np.float32)
            for m in SCHEMA.modules
        ]
    )


def whole(settings: AggregationSettings, begun: RunState) -> RunState:
    return aggregate(Round(1, "ffa", settings), begun, of(UPDATES))


@pytest.mark.parametrize("settings", [PLAIN, REFRESHED], ids=["kept A", "refreshed A"])
def test_candidates_are_where_the_round_began_and_what_each_group_makes_of_it(settings: AggregationSettings) -> None:
    begun = start()
    ended = whole(settings, begun).adapter
    made = candidates_of(Round(1, "ffa", settings), begun, ended, GROUPS, of)
    expected = [begun, *(aggregate(Round(1, "ffa", PLAIN), begun, of(group)) for group in GROUPS)]
    for b, state in zip(made, expected, strict=True):
        np.testing.assert_allclose(products(Adapter(SCHEMA, ended.a, b)), products(state.adapter), atol=2e-6)


def test_groups_are_averaged_whatever_the_runs_rule() -> None:
    begun = start()
    robust = AggregationSettings(refresh_every=0, robust=RobustSettings(rule="median", hostile=2))
    ended = whole(PLAIN, begun).adapter
    one, other = (
        candidates_of(Round(1, "ffa", settings, most=6), begun, ended, GROUPS, of) for settings in (robust, PLAIN)
    )
    np.testing.assert_array_equal(one, other)


def test_a_memory_moves_along_into_other_coordinates() -> None:
    settings = AggregationSettings(refresh_every=1, momentum=0.9)
    begun = start()
    ended = whole(settings, begun)
    again = averaged(Round(1, "ffa", settings), begun, ended.adapter, of(UPDATES))
    np.testing.assert_allclose(again.adapter.b, ended.adapter.b, atol=2e-6)
    kept, made = (np.frombuffer(state.optimiser[-4 * SIZE :], np.float32) for state in (ended, again))
    np.testing.assert_allclose(made, kept, atol=2e-6)


def test_what_is_in_the_same_coordinates_stays_as_it_is() -> None:
    begun = start()
    assert in_coordinates(begun, begun.adapter) is begun


@pytest.mark.parametrize("settings", [PLAIN, REFRESHED], ids=["kept A", "refreshed A"])
def test_a_round_is_taken_back_to_what_it_is_without_some_sites(settings: AggregationSettings) -> None:
    begun = start()
    ended = whole(settings, begun)
    closed = Closed(Round(1, "ffa", settings), begun, ended, frozenset(UPDATES), of)
    without = aggregate(Round(1, "ffa", PLAIN), begun, of(GROUPS[0])).adapter
    back = closed.without(GROUPS[1]).adapter
    np.testing.assert_allclose(products(back), products(without), atol=2e-6)
    np.testing.assert_array_equal(back.a, ended.adapter.a)
    np.testing.assert_allclose(products(closed.without(UPDATES).adapter), products(begun.adapter), atol=2e-6)


def a_body(adapter: Adapter, candidates: Sequence[Flat]) -> tuple[memoryview, list[int]]:
    parts = pack_candidates(adapter, candidates, seed=1)
    return memoryview(b"".join(parts)), [len(part) for part in parts]


@given(arrays(np.float32, (3, SIZE), elements=st.floats(-10, 10, width=32)))
def test_candidates_travel_within_an_eighth_of_a_bit_of_their_difference(differences: Flat) -> None:
    adapter = start().adapter
    candidates = [adapter.b + difference for difference in differences]
    got = unpack_candidates(adapter, *a_body(adapter, candidates))
    for one, sent in zip(got, candidates, strict=True):
        largest = float(np.abs(sent - adapter.b).max())
        np.testing.assert_allclose(one.b, sent, atol=largest / 127 + 1e-6)
        np.testing.assert_array_equal(one.a, adapter.a)


def test_too_many_candidates_other_sizes_and_what_is_no_number_are_refused() -> None:
    adapter = start().adapter
    body, sizes = a_body(adapter, [adapter.b] * 2)
    for wrong, told in ((body, sizes[:1]), (body[:-1], sizes), (body, [sizes[0] - 1, sizes[1] + 1])):
        with pytest.raises(AdapterError):
            unpack_candidates(adapter, wrong, told)
    many = MOST_CANDIDATES + 1
    with pytest.raises(AdapterError, match="too many candidates"):
        unpack_candidates(adapter, *a_body(adapter, [adapter.b] * many))
    far = Adapter(SCHEMA, adapter.a, np.full(SIZE, 3e38, np.float32))
    zero = Adapter(SCHEMA, adapter.a, np.zeros(SIZE, np.float32))
    body, sizes = a_body(zero, [far.b])
    with pytest.raises(AdapterError, match="no number"):
        unpack_candidates(far, body, sizes)


@given(st.binary(max_size=400), st.lists(st.integers(0, 2**63), max_size=4))
def test_bytes_from_anywhere_are_candidates_or_an_adapter_error(data: bytes, sizes: list[int]) -> None:
    try:
        found = unpack_candidates(start().adapter, memoryview(data), sizes)
    except AdapterError:
        return
    assert len(found) == len(sizes)
