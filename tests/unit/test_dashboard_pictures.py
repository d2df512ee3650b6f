"""Charts and the picture of a proof: what is drawn is what the numbers say, and fits where it is drawn."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.merkle import Frontier, inclusion_proof, leaf_hash
from server.dashboard import charts
from server.dashboard.path_picture import WIDTH, picture

finite = st.floats(-1e6, 1e6)


def tree(size: int) -> tuple[list[bytes], dict[tuple[int, int], bytes], bytes]:
    entries = [f"entry {n}".encode() for n in range(size)]
    frontier, nodes = Frontier(), {}
    for place, entry in enumerate(entries):
        nodes[0, place] = leaf_hash(entry)
        nodes |= {(node.level, node.number): node.hash for node in frontier.append(leaf_hash(entry))}
    return entries, nodes, frontier.root()


@given(st.integers(1, 140), st.data())
def test_the_picture_leads_from_the_entry_to_the_root(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    entries, nodes, root = tree(size)
    proof = inclusion_proof(index, size, lambda level, number: nodes[level, number])
    drawn = picture(entries[index], index, size, proof)
    assert drawn.root == root.hex()
    assert [step.sibling for step in drawn.levels] == [one.hex() for one in proof]
    covered = sorted(n for step in drawn.levels for n in range(step.start, step.end))
    assert covered == [n for n in range(size) if n != index]


@given(st.integers(1, 2**40), st.data())
def test_the_picture_of_a_large_ledger_stays_in_its_frame(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    steps = inclusion_proof(index, size, lambda level, number: hashlib.sha256(f"{level} {number}".encode()).digest())
    drawn = picture(b"{}", index, size, steps)
    for step in drawn.levels:
        assert 0 <= min(step.x, step.up_x, step.beside) <= max(step.x, step.up_x, step.beside) <= WIDTH
        assert 0 < step.up_y < step.y < drawn.height
        assert (step.beside < step.x) is step.left


@given(st.dictionaries(st.sampled_from("abcdefghijkl"), st.dictionaries(st.integers(1, 9), finite), max_size=12))
def test_every_loss_is_drawn_inside_the_plot(values: dict[str, dict[int, float]]) -> None:
    rounds = list(range(1, 10))
    plot = charts.curves(values, rounds)
    if plot is None:
        assert not any(values.values())
        return
    for curve in plot.curves:
        for dot in curve.dots:
            assert 0 < dot.x < 100
            assert 0 <= dot.y <= charts.HEIGHT
    for tick in plot.ticks:
        assert 0 <= tick.at <= charts.HEIGHT
    assert 2 <= len(plot.ticks) <= 8


def test_a_larger_loss_stands_higher() -> None:
    plot = charts.curves({"rossi": {1: 0.4, 2: 0.3}, "verdi": {1: 0.3}}, [1, 2])
    assert plot
    first, second = plot.curves[0].dots
    assert first.y < second.y
    assert plot.curves[1].dots[0].y == second.y
    assert [tick.value for tick in plot.rounds] == [1, 2]
    assert plot.curves[0].hue != plot.curves[1].hue


def test_many_sites_are_drawn_with_their_median() -> None:
    plot = charts.curves({f"site-{n}": {1: float(n), 2: float(n)} for n in range(21)}, [1, 2])
    assert plot
    assert {curve.hue for curve in plot.curves} == {None}
    ten = charts.curves({"one": {1: 10.0}, "low": {1: 0.0}, "high": {1: 20.0}}, [1])
    assert ten
    assert plot.middle[0].y1 == ten.curves[0].dots[0].y


@given(st.dictionaries(st.sampled_from("abcd"), st.dictionaries(st.integers(1, 5), st.floats(1e-9, 1.0))))
def test_what_is_as_rare_as_the_threshold_stands_at_or_under_the_line(values: dict[str, dict[int, float]]) -> None:
    plot = charts.p_values(values, [1, 2, 3, 4, 5], 0.01)
    if plot is None:
        assert not any(values.values())
        return
    assert plot.threshold is not None
    for dot in plot.dots:
        assert dot.beyond is (dot.value <= 0.01)
        assert dot.y >= plot.threshold - 0.11 if dot.beyond else dot.y <= plot.threshold + 0.11
        assert 0 <= dot.y <= charts.HEIGHT
        assert 0 < dot.x < 100


@pytest.mark.parametrize(("value", "whole", "share"), [(2, 8, 25), (9, 8, 100), (-1, 8, 0), (1, 0, 0)])
def test_a_bar_fills_its_share(value: float, whole: float, share: float) -> None:
    assert charts.share(value, whole) == share
