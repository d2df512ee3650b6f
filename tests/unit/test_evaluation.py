"""Judging drawings: distances are zero for the same, grow with the difference, and refuse what says nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from client.evaluation import domain_fid, judge
from common.base import classifier_folder
from common.base.classifier import load_classifier
from common.errors import BaseModelError, DrawingsError
from common.models import Base
from common.procedural import STUDIOS, public_drawings, studio_drawings
from common.sampling import sample


def public(count: int, seed: int) -> NDArray[np.uint8]:
    return np.stack([d.picture for d in public_drawings(count, seed)])


def studio(count: int) -> NDArray[np.uint8]:
    return np.stack([d.picture for d in studio_drawings(STUDIOS["arsenale"], count, 0)])


def test_a_set_has_no_distance_from_itself() -> None:
    assert domain_fid(public(75, 1), public(75, 1)) == pytest.approx(0.0, abs=1e-3)


def test_the_distance_grows_with_the_difference() -> None:
    near, far = domain_fid(public(150, 1), public(150, 2)), domain_fid(public(150, 1), studio(150))
    assert 0 < near < far / 5


def test_a_judgement_holds_all_four_measures_and_is_the_same_each_time() -> None:
    real = public(40, 1)
    noisy = np.clip(real.astype(int) + 3, 0, 255).astype(np.uint8)
    first, second = (judge(public(40, 2), real, noisy) for _ in range(2))
    assert first == second
    assert first.features == "drawings"
    assert first.psnr > 35
    assert 0.9 < first.ssim < 1.0
    assert (first.generated, first.real) == (40, 40)


def test_few_pictures_are_refused() -> None:
    with pytest.raises(DrawingsError, match="too few"):
        domain_fid(public(7, 1), public(40, 1))


def test_inception_weights_that_are_not_there_are_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="no Inception weights"):
        domain_fid(public(8, 1), public(8, 2), tmp_path / "none.pt")


def test_inception_without_its_package_or_with_garbage_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"no weights")
    with pytest.raises(BaseModelError, match="Inception network cannot be loaded"):
        domain_fid(public(8, 1), public(8, 2), file)


def test_a_classifier_folder_without_a_classifier_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_classifier(tmp_path)


def test_the_classifier_knows_public_drawings() -> None:
    facts = (classifier_folder() / "config.json").read_text()
    assert '"held_out_accuracy"' in facts
    assert sum(p.numel() for p in load_classifier(classifier_folder()).parameters()) > 50_000


def test_a_picture_depends_on_its_own_seed_and_prompt_alone(base: Base) -> None:
    prompts = ["an ink drawing of a boat", "a pencil drawing of a cat", "an ink drawing of a boat"]
    together = sample(base, prompts, seed=5, steps=3, guidance=3.0, batch=3)
    apart = sample(base, prompts, seed=5, steps=3, guidance=3.0, batch=1)
    assert np.abs(together.astype(int) - apart.astype(int)).max() <= 2
    assert np.abs(together[0].astype(int) - together[2].astype(int)).max() > 10, "another seed, another picture"


def test_no_prompt_no_picture(base: Base) -> None:
    assert sample(base, [], seed=0).shape == (0, 64, 64, 3)
