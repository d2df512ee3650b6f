"""What long benchmarks keep: a cell is measured once, and what was cut off goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cells import Cells, Facts


def once(value: float, calls: list[float]) -> Facts:
    calls.append(value)
    return {"loss": value}


def test_a_cell_is_measured_once(tmp_path: Path) -> None:
    calls: list[float] = []
    for _ in range(3):
        found = Cells(tmp_path).cell("unlike/plain/sign-flip-3/Flower's Krum", lambda: once(0.5, calls))
        assert found is not None
        assert found["loss"] == 0.5
        assert found["seconds"] >= 0
    assert calls == [0.5]


def test_without_a_folder_nothing_is_kept() -> None:
    calls: list[float] = []
    for _ in range(2):
        assert Cells(None).cell("a", lambda: once(1.0, calls))
    assert calls == [1.0, 1.0]


def test_names_that_differ_have_cells_of_their_own(tmp_path: Path) -> None:
    calls: list[float] = []
    cells = Cells(tmp_path)
    for place, name in enumerate(("scaling", "scaling-1.5", "epsilon 8 1", "epsilon 8 2")):
        assert cells.cell(name, lambda place=place: once(place, calls))  # type: ignore[misc]
    assert len(calls) == 4


def test_what_is_not_measured_now_is_counted(tmp_path: Path) -> None:
    calls: list[float] = []
    cells = Cells(tmp_path, part="b/")
    assert cells.cell("a/1", lambda: once(1.0, calls)) is None
    assert cells.cell("b/1", lambda: once(2.0, calls)) is not None
    late = Cells(tmp_path, minutes=-1)
    assert late.cell("c/1", lambda: once(3.0, calls)) is None
    assert late.cell("b/1", lambda: once(4.0, calls)) is not None
    assert (cells.missing, late.missing, calls) == (["a/1"], ["c/1"], [2.0])


def test_a_cell_that_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    def cut_off() -> Facts:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path).cell("a", cut_off)
    assert list(tmp_path.iterdir()) == []


def test_what_takes_long_to_make_is_made_once(tmp_path: Path) -> None:
    assert Cells(tmp_path).kept("plain/rehearsal", lambda: b"rows") == b"rows"
    assert Cells(tmp_path).kept("plain/rehearsal", lambda: b"others") == b"rows"
