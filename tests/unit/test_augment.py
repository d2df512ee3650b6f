"""Pixels to tensors and back to paper: what is varied, how far, and that the generator alone decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from client.augment import AugmentSettings, augment, to_tensor

OFF = AugmentSettings(flip=False, rotation_degrees=0, contrast=0)
FLIP = AugmentSettings(flip=True, rotation_degrees=0, contrast=0)
TURN = AugmentSettings(flip=False, rotation_degrees=20, contrast=0)
CONTRAST = AugmentSettings(flip=False, rotation_degrees=0, contrast=0.5)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sheets(count: int, height: int = 33, width: int = 33) -> Tensor:
    """White paper with a black upright line left of the middle, float32 [n, 3, h, w]."""
    batch = torch.ones(count, 3, height, width)
    batch[:, :, 8:-8, 10:13] = -1
    return batch


def test_black_is_minus_one_and_white_is_one() -> None:
    picture = np.array([[[0, 51, 255], [255, 0, 102]]], dtype=np.uint8)
    tensor = to_tensor([picture])
    assert tensor.shape == (1, 3, 1, 2)
    assert tensor.dtype == torch.float32
    expected = [[[[-1.0, 1.0]], [[-0.6, -1.0]], [[1.0, -0.2]]]]
    assert torch.allclose(tensor, torch.tensor(expected), atol=1e-6)


def test_one_picture_a_batch_and_a_sequence_are_the_same() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    assert torch.equal(to_tensor(batch), to_tensor(list(batch)))
    assert torch.equal(to_tensor(batch[0]), to_tensor(batch[:1]))


def test_every_pixel_value_comes_back() -> None:
    picture = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    back = to_tensor(picture)[0].permute(1, 2, 0).mul(127.5).add(127.5).round().to(torch.uint8).numpy()
    assert np.array_equal(back, picture)


def test_pixels_that_are_read_only_are_left_alone() -> None:
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    picture.setflags(write=False)
    to_tensor(picture).fill_(1)
    assert picture.max() == 0


def test_all_switched_off_gives_an_equal_copy() -> None:
    batch = sheets(3)
    out = augment(batch, OFF, chance())
    assert torch.equal(out, batch)
    assert out.data_ptr() != batch.data_ptr()


@pytest.mark.parametrize("settings", [AugmentSettings(), FLIP, TURN, CONTRAST])
def test_the_generator_alone_decides_and_the_batch_is_left_as_it_is(settings: AugmentSettings) -> None:
    batch = sheets(6)
    first, second, other = (augment(batch, settings, chance(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(batch, sheets(6))
    assert first.shape == batch.shape
    assert float(first.min()) >= -1
    assert float(first.max()) <= 1


def test_writing_is_not_mirrored_unless_asked() -> None:
    assert AugmentSettings().flip is False


def test_half_of_the_views_are_mirrored() -> None:
    batch = sheets(400)
    mirrored = [torch.equal(picture, batch[0].flip(2)) for picture in augment(batch, FLIP, chance())]
    plain = [torch.equal(picture, batch[0]) for picture in augment(batch, FLIP, chance())]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert 160 < sum(mirrored) < 240


def test_new_corners_are_paper() -> None:
    out = augment(sheets(20), AugmentSettings(rotation_degrees=45, contrast=0), chance())
    corners = out[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.allclose(corners, torch.ones_like(corners), atol=1e-5)


def angles(batch: Tensor) -> Tensor:
    """Return how far each line leans, degrees, by the axis of its ink's spread."""
    ink = (1 - batch[:, 0]).double()
    down, across = (torch.arange(n).double() for n in ink.shape[1:])
    total = ink.sum((1, 2))
    y, x = (ink.sum(2) @ down) / total, (ink.sum(1) @ across) / total
    dy, dx = down[None, :, None] - y[:, None, None], across[None, None] - x[:, None, None]
    syy, sxx, sxy = ((ink * v).sum((1, 2)) for v in (dy * dy, dx * dx, dx * dy))
    return torch.rad2deg(0.5 * torch.atan2(2 * sxy, syy - sxx))


@pytest.mark.parametrize(("height", "width"), [(33, 33), (33, 65)])
def test_turns_go_to_both_sides_and_stay_within_the_limit(height: int, width: int) -> None:
    found = angles(augment(sheets(300, height, width), TURN, chance()))
    assert float(found.abs().max()) < 20.5
    assert float(found.min()) < -17
    assert float(found.max()) > 17
    assert float(found.abs().mean()) == pytest.approx(10, abs=1.2)


def test_small_turns_keep_ink_and_leave_thin_lines_dark() -> None:
    thin = torch.ones(50, 3, 33, 33)
    thin[:, :, 8:-8, 10] = -1
    out = augment(thin, AugmentSettings(contrast=0), chance())
    assert float((1 - out).mean()) == pytest.approx(float((1 - thin).mean()), rel=0.1)
    darkest_of_row = out[:, 0, 10:-10].amin(2)
    assert float(darkest_of_row.mean()) < -0.85, "a bilinear turn would fade the line"


def test_contrast_keeps_the_paper_and_moves_the_ink_both_ways() -> None:
    batch = sheets(200).clamp(min=-0.2)
    out = augment(batch, CONTRAST, chance())
    assert torch.equal(out[:, :, 0, 0], batch[:, :, 0, 0])
    darkest = out.amin((1, 2, 3))
    assert float(darkest.min()) == pytest.approx(1 - 1.2 * 1.5, abs=0.02)
    assert float(darkest.max()) == pytest.approx(1 - 1.2 * 0.5, abs=0.02)


@pytest.mark.parametrize(
    "wrong", [{"rotation_degrees": 46}, {"rotation_degrees": -1}, {"contrast": 1}, {"flips": True}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AugmentSettings.model_validate(wrong)
