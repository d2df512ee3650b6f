"""Procedural drawings: a function of the seed, and what is kept from the base is really kept from it."""

from __future__ import annotations

import numpy as np
import pytest

from common.procedural import PALETTES, STUDIOS, caption_of, draw, public_drawings, studio_drawings, styles, subjects


def test_at_least_twelve_subjects_in_five_styles() -> None:
    assert len(subjects.PUBLIC) >= 12
    assert len(styles.PUBLIC) >= 5


def test_studios_draw_what_the_base_has_never_seen() -> None:
    for studio in STUDIOS.values():
        assert studio.style not in styles.PUBLIC
        assert set(studio.subjects).isdisjoint(subjects.PUBLIC)


@pytest.mark.parametrize("style", [*styles.PUBLIC, *styles.STUDIO])
@pytest.mark.parametrize("subject", [*subjects.PUBLIC, *subjects.STUDIO])
def test_every_subject_can_be_drawn_in_every_style(subject: str, style: str) -> None:
    drawing = draw(subject, style, np.random.default_rng(1))
    assert drawing.picture.shape == (64, 64, 3)
    assert drawing.picture.dtype == np.uint8
    assert drawing.picture.std() > 4, "an empty sheet"


def test_the_same_seed_draws_the_same_pictures() -> None:
    first, second = (np.stack([d.picture for d in public_drawings(40, 7)]) for _ in range(2))
    assert np.array_equal(first, second)
    other = np.stack([d.picture for d in public_drawings(40, 8)])
    assert not np.array_equal(first, other)


def test_a_drawing_does_not_depend_on_how_many_are_made() -> None:
    few, many = list(public_drawings(3, 5)), list(public_drawings(9, 5))
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(few, many, strict=False))


def test_two_studios_differ_even_with_the_same_seed() -> None:
    firsts = [next(studio_drawings(s, 1, 0)).picture.mean() for s in STUDIOS.values()]
    assert len({round(float(f)) for f in firsts}) == len(firsts)


def test_captions_name_subject_style_and_colouring() -> None:
    assert caption_of("house", "ink") == "an ink drawing of a house"
    assert caption_of("owl", "charcoal", "blue") == "a charcoal drawing of an owl in blue"
    assert caption_of("strokes", "brush") == "a brush drawing of abstract strokes"


def test_a_colouring_changes_paper_and_ink() -> None:
    drawing = draw("house", "ink", np.random.default_rng(3), colouring="night")
    assert tuple(drawing.picture[0, 0]) == PALETTES["night"].paper
