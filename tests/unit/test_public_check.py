"""The check on public drawings: what counts as worse, and that a harmed adapter is found and a harmless one is not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.dataset import encode
from client.drawings import Drawing
from client.training import train
from common.adapter_schema import Adapter
from common.errors import DrawingsError
from common.models import Base, attach_lora
from common.procedural import STUDIOS, public_drawings, studio_drawings
from common.settings import LoraSettings, RunSettings, TrainingSettings
from deploy.public_check import FEWEST, SEED, PublicCheck, margin_of, measure, pictures, procedural
from server.start import fresh_state


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return [Drawing.of(d.picture, d.caption) for d in public_drawings(FEWEST, SEED)]


@pytest.fixture
def start(base: Base) -> Adapter:
    lora = LoraSettings(rank=2, targets=("to_q", "to_v"))
    return fresh_state(attach_lora(base.unet, lora), RunSettings(lora=lora)).adapter


def test_an_adapter_that_changes_nothing_has_forgotten_nothing_and_learned_nothing(
    base: Base, start: Adapter, drawings: list[Drawing]
) -> None:
    found = measure(base, start, start, drawings, alike=False)
    assert (found.drawings, found.change, found.margin, found.worse) == (FEWEST, 0.0, 0.0, False)
    assert measure(base, start, start, drawings, alike=True).worse


def test_an_adapter_that_was_harmed_is_worse_on_any_drawings(
    base: Base, start: Adapter, drawings: list[Drawing]
) -> None:
    noise = 100 * np.random.default_rng(1).standard_normal(len(start.b)).astype(np.float32)
    for alike in (False, True):
        assert measure(base, start, replace(start, b=noise), drawings, alike=alike).worse


def test_an_adapter_that_learned_from_such_drawings_is_better_on_others_like_them(base: Base) -> None:
    lora = LoraSettings(rank=8)
    start = fresh_state(attach_lora(base.unet, lora), RunSettings(lora=lora)).adapter
    studio = next(iter(STUDIOS.values()))
    own, public = (
        [Drawing.of(d.picture, d.caption) for d in studio_drawings(studio, FEWEST, seed, size=base.pixels)]
        for seed in (0, SEED)
    )
    settings = TrainingSettings(steps=12, batch=8, learning_rate=5e-3)
    change = train(base, start, encode(base, own), lora, settings, seed=0).delta
    found = measure(base, start, replace(start, b=start.b + change), public, alike=True)
    assert not found.worse, found


def test_which_drawings_they_were_is_told_by_a_digest_of_them_and_their_captions(
    base: Base, start: Adapter, drawings: list[Drawing]
) -> None:
    renamed = [replace(drawings[0], caption="something else"), *drawings[1:]]
    digests = [measure(base, start, start, of, alike=False).of for of in (drawings, list(drawings), renamed)]
    assert digests[0] == digests[1] != digests[2]


def test_too_few_drawings_say_nothing(base: Base, start: Adapter, drawings: list[Drawing]) -> None:
    with pytest.raises(DrawingsError, match="too few public drawings") as caught:
        measure(base, start, start, drawings[1:], alike=False)
    assert (caught.value.got, caught.value.expected) == (FEWEST - 1, f"at least {FEWEST}")


def test_procedural_drawings_fit_the_base_and_are_the_same_each_time(base: Base) -> None:
    first, again = procedural(base), procedural(base)
    assert first == again
    assert {d.size for d in first} == {base.pixels}
    assert len({d.digest for d in first}) == len(first)


def test_the_fixed_prompts_are_drawn_without_and_with_the_adapter(
    base: Base, start: Adapter, drawings: list[Drawing]
) -> None:
    noise = np.random.default_rng(1).standard_normal(len(start.b)).astype(np.float32)
    done: list[None] = []
    page = pictures(base, start, replace(start, b=noise), drawings, steps=1, seen=lambda: done.append(None))
    above, below = np.vsplit(page, 2)
    assert page.shape == (2 * base.pixels, 4 * base.pixels, 3)
    assert len(done) == 2
    assert (above != below).any()
    same = pictures(base, start, start, drawings, steps=1)
    np.testing.assert_array_equal(same, np.vstack([above, above]))


def test_the_margin_by_hand() -> None:
    """Losses 1 and 3 become 2 and 4: the mean rises from 2 to 3, by a half; around that lie 0.5 and -0.5; t of one."""
    expected = 6.313751514675 * math.sqrt(0.5) / (2 * math.sqrt(2))
    assert margin_of(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)), min_size=2, max_size=40), st.floats(0.1, 10))
def test_no_unit_of_loss_shows_in_the_margin(pairs: list[tuple[float, float]], unit: float) -> None:
    before, after = (np.array(side) for side in zip(*pairs, strict=True))
    margin = margin_of(before, after)
    assert margin >= 0
    assert margin_of(before * unit, after * unit) == pytest.approx(margin, rel=1e-6, abs=1e-9)


@given(st.floats(-1, 1))
def test_a_share_that_rises_by_the_same_everywhere_is_known_exactly(rise: float) -> None:
    before = np.array([0.5, 1.0, 2.0])
    assert margin_of(before, before * (1 + rise)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("alike", "after", "margin", "worse"),
    [
        (True, 0.7, 0.1, False), (True, 0.95, 0.1, True), (True, 1.2, 0.1, True), (True, math.nan, 0.1, True),
        (True, 0.7, math.nan, True), (False, 1.9, 0.0, False), (False, 2.2, 0.3, True), (False, 2.2, 0.1, True),
        (False, math.nan, 0.1, True), (False, 0.5, math.inf, True), (False, 0.5, math.nan, True),
    ],
)  # fmt: skip
def test_when_it_stands_against_a_release(alike: bool, after: float, margin: float, worse: bool) -> None:
    assert PublicCheck(64, "", alike, 1.0, after, margin).worse is worse
