"""Encoded drawings kept between starts: the same tensors again, nothing readable on the disk, nothing stale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from client.cache import kept
from client.dataset import TrainingSet, encode
from client.drawings import Drawing, DrawingSettings, load_drawings
from client.settings import SiteSettings
from common.models import Base
from common.paths import SiteHome
from security.key_folder import make_key_folder


@pytest.fixture
def drawings(tmp_path: Path) -> tuple[Drawing, ...]:
    folder = tmp_path / "drawings"
    folder.mkdir()
    for i in range(4):
        picture = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a drawing with number {i}")
    return load_drawings(folder, DrawingSettings(held_out_fraction=0.0)).train


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    home = SiteHome(tmp_path / "site")
    home.keys.mkdir(mode=0o700, parents=True)
    home.cache.mkdir()
    make_key_folder(home)
    return home


SETTINGS = SiteSettings(federation="f", name="s", server="x:1", data="d")


def test_drawings_are_encoded_once_and_come_back_equal(
    base: Base, drawings: tuple[Drawing, ...], home: SiteHome
) -> None:
    calls = []

    def make() -> TrainingSet:
        calls.append(1)
        return encode(base, drawings)

    first, second = (kept(home, "train", base, drawings, SETTINGS, make) for _ in range(2))
    assert len(calls) == 1
    assert all(torch.equal(getattr(first, k), getattr(second, k)) for k in ("views", "states", "caption"))


def test_another_folder_of_drawings_is_encoded_anew_and_the_old_file_is_gone(
    base: Base, drawings: tuple[Drawing, ...], home: SiteHome
) -> None:
    kept(home, "train", base, drawings, SETTINGS, lambda: encode(base, drawings))
    fewer = kept(home, "train", base, drawings[:2], SETTINGS, lambda: encode(base, drawings[:2]))
    assert len(fewer) == 2
    assert len(list(home.cache.iterdir())) == 1


def test_a_damaged_file_is_made_again(base: Base, drawings: tuple[Drawing, ...], home: SiteHome) -> None:
    whole = kept(home, "train", base, drawings, SETTINGS, lambda: encode(base, drawings))
    file = next(home.cache.iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    again = kept(home, "train", base, drawings, SETTINGS, lambda: encode(base, drawings))
    assert torch.equal(whole.views, again.views)


def test_nothing_of_the_drawings_can_be_read_on_the_disk(
    base: Base, drawings: tuple[Drawing, ...], home: SiteHome
) -> None:
    made = kept(home, "train", base, drawings, SETTINGS, lambda: encode(base, drawings))
    content = next(home.cache.iterdir()).read_bytes()
    assert b"views" not in content
    assert made.views[0].numpy().tobytes()[:32] not in content
