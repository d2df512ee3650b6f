"""Many long updates: kept on disk or in memory, and read in blocks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from common.errors import AggregationError
from common.settings import RuleName
from server.robust import Updates, aggregate
from server.robust.geometry import distances_from, mixed, squared_distances
from server.robust.matrix import WIDTH
from server.robust.nnm import mixing
from tests.unit.robust.rounds import EVERY, Rows, drawn, held, settings

LONG = 2 * WIDTH + 77


def on_disk(rows: Rows, folder: Path) -> Updates:
    updates = Updates(rows.shape[1], len(rows), folder)
    for row in rows:
        updates.add(row)
    return updates


@pytest.mark.parametrize(("rule", "mix"), EVERY)
def test_disk_and_memory_give_the_same_bytes(rule: RuleName, mix: bool, tmp_path: Path) -> None:
    rows, chosen, centre = drawn(4, 9, LONG), settings(rule, mix, 2), drawn(5, 1, LONG)[0]
    with held(rows) as here, on_disk(rows, tmp_path) as there:
        assert aggregate(there, chosen, centre).update.tobytes() == aggregate(here, chosen, centre).update.tobytes()


def test_the_gram_matrix_of_long_updates_is_numpys() -> None:
    rows, centre = drawn(6, 7, LONG), drawn(7, 1, LONG)[0]
    wide = rows.astype(np.float64)
    with held(rows) as updates:
        order = updates.order
        np.testing.assert_allclose(updates.gram(), (wide @ wide.T)[np.ix_(order, order)], rtol=1e-12)
        apart = wide[order] - centre
        gram = updates.gram(centre)
    np.testing.assert_allclose(gram, apart @ apart.T, rtol=1e-12)
    pairs = np.linalg.norm(apart[:, None] - apart[None], axis=2)
    np.testing.assert_allclose(np.sqrt(squared_distances(gram)), pairs, rtol=1e-9)
    shares = np.linspace(0, 0.3, 7)
    np.testing.assert_allclose(distances_from(gram, shares), np.linalg.norm(apart - shares @ apart, axis=1), rtol=1e-9)
    mix = mixing(gram, 2)
    np.testing.assert_allclose(mixed(gram, mix), (mix @ apart) @ (mix @ apart).T, rtol=1e-9)


def test_what_is_only_rounding_is_no_distance() -> None:
    assert squared_distances(np.array([[4, 4 - 1e-14], [4 - 1e-14, 4]])).tolist() == [[0, 0], [0, 0]]
    assert squared_distances(np.array([[4, 4 - 1e-10], [4 - 1e-10, 4]]))[0, 1] == pytest.approx(2e-10, rel=1e-4)


def test_what_is_combined_is_the_sum_by_shares_and_the_rest_is_the_centres() -> None:
    rows, centre = drawn(8, 5, LONG), drawn(9, 1, LONG)[0]
    shares = np.array([0.1, 0, 0.2, 0.3, 0])
    with held(rows) as updates:
        expected = shares @ rows[updates.order].astype(np.float64)
        np.testing.assert_allclose(updates.combined(shares), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(updates.combined(shares, centre), expected + 0.4 * centre, rtol=1e-5, atol=1e-6)


def test_nothing_plain_and_nothing_named_is_on_disk(tmp_path: Path) -> None:
    rows = np.full((3, LONG), 1.2345678, np.float32)
    with on_disk(rows, tmp_path) as updates:
        assert list(tmp_path.iterdir()) == []
        file = updates._pieces._file.fileno()  # type: ignore[union-attr]
        kept = os.pread(file, os.fstat(file).st_size, 0)
    assert len(kept) >= rows.nbytes
    assert rows[0, :2].tobytes() not in kept


@pytest.mark.parametrize("damage", ["changed", "cut", "swapped"])
def test_an_update_that_was_changed_on_disk_is_never_averaged(damage: str, tmp_path: Path) -> None:
    with on_disk(drawn(1, 3, LONG), tmp_path) as updates:
        file, piece = updates._pieces._file.fileno(), 12 + 4 * WIDTH + 16  # type: ignore[union-attr]
        if damage == "changed":
            os.pwrite(file, bytes([os.pread(file, 1, 99)[0] ^ 1]), 99)
        elif damage == "cut":
            os.ftruncate(file, 8 * piece)
        else:
            first, second = os.pread(file, piece, 0), os.pread(file, piece, piece)
            os.pwrite(file, second + first, 0)
        with pytest.raises(AggregationError, match="not what was written there"):
            aggregate(updates, settings("mean", False, 0))


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(AggregationError, match=r"do not fit on the disk; got .* GB free; expected 400\d{7}\.\d GB"):
        Updates(10**12, 10**6, tmp_path)


def test_a_memory_without_room_is_an_error_in_words() -> None:
    for capacity in (10**6, 10**15):
        with pytest.raises(AggregationError, match="do not fit into memory"):
            Updates(10**12, capacity)


def test_a_folder_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(AggregationError, match="cannot be kept on disk"):
        Updates(5, 5, tmp_path / "gone")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_refused_leaves_no_trace(bad: float) -> None:
    rows = drawn(2, 3, LONG)
    with held(rows) as clean:
        expected = clean.gram()
    with Updates(LONG, 3) as updates:
        for row in rows:
            spoilt = row.copy()
            spoilt[-1] = bad
            with pytest.raises(AggregationError, match="not finite"):
                updates.add(spoilt)
            updates.add(row)
        assert updates.gram().tobytes() == expected.tobytes()
        with pytest.raises(AggregationError, match="more updates than were announced"):
            updates.add(rows[0])


@pytest.mark.parametrize("wrong", [np.zeros(4, np.float32), np.zeros((1, 5), np.float32), np.zeros(5)])
def test_an_update_of_another_shape_or_kind_is_refused(wrong: np.ndarray) -> None:
    with Updates(5, 2) as updates, pytest.raises(AggregationError, match="does not fit the round"):
        updates.add(wrong)


def test_a_matrix_of_nothing_is_refused() -> None:
    for numel, capacity in ((0, 1), (1, 0)):
        with pytest.raises(AggregationError, match="no such matrix"):
            Updates(numel, capacity)
