"""Units of privacy: what is protected as one depends on content and drawers, and on nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from client.drawings import Drawing
from client.units import Unit, units_of


def a_drawing(digest: str, drawer: str | None = None) -> Drawing:
    return Drawing(digest, "a caption", drawer, 8, b"")


def test_each_drawing_is_a_unit_and_a_copy_is_none() -> None:
    units = units_of([a_drawing("a", "anna"), a_drawing("b", "anna"), a_drawing("a")], "drawing")
    assert units == (Unit(frozenset({"a"}), (0, 2)), Unit(frozenset({"b"}), (1,)))


def test_all_drawings_of_an_artist_are_one_and_those_of_nobody_are_one_persons() -> None:
    drawings = [
        a_drawing("a", "anna"),
        a_drawing("b"),
        a_drawing("c", "anna"),
        a_drawing("d", ""),
        a_drawing("e", "bea"),
    ]
    assert units_of(drawings, "artist") == (
        Unit(frozenset({"a", "c"}), (0, 2)), Unit(frozenset({"b", "d"}), (1, 3)), Unit(frozenset({"e"}), (4,)),
    )  # fmt: skip


def test_no_name_and_no_digest_is_printed() -> None:
    assert "anna" not in repr(units_of([a_drawing("secret", "anna")], "artist"))
    assert "secret" not in repr(units_of([a_drawing("secret", "anna")], "artist"))


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", "anna", "bea"])), max_size=12))
def test_every_row_is_in_one_unit(told: list[tuple[str, str]]) -> None:
    drawings = [a_drawing(digest, drawer) for digest, drawer in told]
    for units in (units_of(drawings, "drawing"), units_of(drawings, "artist")):
        assert sorted(row for unit in units for row in unit.rows) == list(range(len(drawings)))
        assert all(unit.digests == {drawings[row].digest for row in unit.rows} for unit in units)
