"""Encoding: what a drawing becomes depends on it, and on no other drawing."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from client.augment import AugmentSettings
from client.dataset import encode
from client.drawings import Drawing
from common.models import Base


@pytest.fixture
def drawings() -> list[Drawing]:
    made = []
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        made.append(Drawing(digest, "a drawing", None, 64, zlib.compress(pixels.tobytes())))
    return made


def test_neither_latents_nor_captions_depend_on_the_others_by_a_bit(base: Base, drawings: list[Drawing]) -> None:
    more = [replace(drawings[row % 3], digest=f"{row}", caption=f"a drawing {row}") for row in range(40)]
    together = encode(base, more)
    for row in (0, 5, 38):
        alone = encode(base, [more[row]])
        assert torch.equal(alone.views[0], together.views[row])
        assert torch.equal(alone.states[0], together.states[together.caption[row]])


def test_the_views_of_a_drawing_do_not_depend_on_the_others(base: Base, drawings: list[Drawing]) -> None:
    together = encode(base, drawings, AugmentSettings(flip=True), views=3)
    for left_out in range(3):
        rows = [row for row in range(3) if row != left_out]
        fewer = encode(base, [drawings[row] for row in rows], AugmentSettings(flip=True), views=3)
        assert torch.equal(fewer.views, together.views[rows])


def test_each_view_and_each_seed_varies_a_drawing_in_its_own_way(base: Base, drawings: list[Drawing]) -> None:
    views = encode(base, drawings[:1], AugmentSettings(), views=3).views[0]
    other = encode(base, drawings[:1], AugmentSettings(), views=3, seed=1).views[0]
    assert torch.equal(views[0], other[0])
    for one, two in ((views[0], views[1]), (views[1], views[2]), (views[1], other[1])):
        assert (one - two).abs().max() > 0.05


def test_no_drawings_are_encoded_to_none(base: Base) -> None:
    nothing = encode(base, [], AugmentSettings(), views=2)
    assert len(nothing) == 0
    assert len(nothing.states) == 1
