"""What several unit tests share: the embedded base, and a handful of encoded drawings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from client.dataset import TrainingSet
from common.models import Base, load_base


@pytest.fixture
def base() -> Base:
    """The embedded base, freshly loaded: tests attach what they like to it."""
    return load_base()


@pytest.fixture
def latents(base: Base) -> Callable[[int], TrainingSet]:
    """Make a training set of random latents with two captions."""

    def make(count: int, seed: int = 0) -> TrainingSet:
        chance = torch.Generator().manual_seed(seed)
        views = torch.randn(count, 1, 4, 16, 16, generator=chance)
        states = base.encode_text(["an ink drawing of a boat", "a pencil drawing of a cat", ""])
        return TrainingSet(views, states, torch.arange(count) % 2)

    return make


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
