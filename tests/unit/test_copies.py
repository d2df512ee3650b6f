"""Copies: what repeats a training drawing is found, what only looks like the others is not."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client import final_look
from client.copies import Pictures, find_copies
from client.drawings import Drawing
from client.final_look import ObjectionError, check_copies
from common.errors import DrawingsError
from common.models import Base, attach_lora
from common.sampling import sample
from common.settings import LoraSettings, RunSettings
from server.start import fresh_state


def drawing_of(page: NDArray[np.uint8], caption: str) -> Drawing:
    return Drawing(hashlib.sha256(page.tobytes()).hexdigest(), caption, None, len(page), zlib.compress(page.tobytes()))


def strokes(count: int, seed: int) -> Pictures:
    """Return white pages with a few black lines each, no two alike."""
    chance, pages = np.random.default_rng(seed), np.full((count, 64, 64, 3), 255, np.uint8)
    for page in pages:
        for at, start, length in zip(*chance.integers(4, 30, (3, 5)), strict=True):
            page[2 * at : 2 * at + 3, start : start + length] = 0
    return pages


def test_the_drawings_themselves_are_copies_and_other_drawings_are_not() -> None:
    training = strokes(30, 1)
    assert find_copies(training[:7], training).share == 1
    assert find_copies(training[:7], training).nearest == 0
    assert find_copies(strokes(30, 2), training).share == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 12))
def test_a_copy_with_noise_on_it_is_still_a_copy_and_each_is_counted(seed: int, copied: int) -> None:
    training, chance = strokes(30, 1), np.random.default_rng(seed)
    noisy = np.clip(training[:copied].astype(int) + chance.integers(-20, 21, (copied, 64, 64, 3)), 0, 255)
    drawn = np.concatenate([noisy.astype(np.uint8), strokes(12, 2)[copied:]])
    assert find_copies(drawn, training).share == pytest.approx(copied / 12)


@pytest.mark.parametrize(("drawn", "training"), [(0, 5), (5, 0), (5, 1)])
def test_too_little_to_compare_is_refused(drawn: int, training: int) -> None:
    with pytest.raises(DrawingsError, match="too little"):
        find_copies(strokes(drawn, 1), strokes(training, 2))


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a few pictures takes a second."""
    monkeypatch.setattr(final_look, "PICTURES", 6)
    monkeypatch.setattr(final_look, "STEPS", 3)


@pytest.mark.usefixtures("brief")
def test_a_studio_objects_to_an_adapter_that_draws_its_drawings_and_to_no_other(base: Base) -> None:
    adapter = fresh_state(attach_lora(base.unet, LoraSettings(rank=2)), RunSettings()).adapter
    own = [drawing_of(page, f"a drawing, number {i}") for i, page in enumerate(strokes(6, 1))]
    check_copies(base, adapter, own, 0.0, seed=5)
    # What the adapter draws by these captions, taken for the studio's own drawings: it repeats each of them.
    drawn = sample(base, [d.caption for d in own], seed=5, steps=final_look.STEPS, guidance=final_look.GUIDANCE)
    repeated = [drawing_of(page, d.caption) for page, d in zip(drawn, own, strict=True)]
    with pytest.raises(ObjectionError, match="repeats drawings of this studio") as caught:
        check_copies(base, adapter, repeated, 0.05, seed=5)
    assert caught.value.got is None
    check_copies(base, adapter, repeated, 1.0, seed=5)


def test_a_studio_that_cannot_tell_objects(base: Base) -> None:
    adapter = fresh_state(attach_lora(base.unet, LoraSettings(rank=2)), RunSettings()).adapter
    few: list[Drawing] = [drawing_of(strokes(1, 1)[0], "a boat")]
    with pytest.raises(ObjectionError, match="cannot tell"):
        check_copies(base, adapter, few, 0.5, seed=0)


def test_pictures_of_a_look_are_enough_to_resolve_a_few_per_cent() -> None:
    assert 1 / final_look.PICTURES < 0.04
