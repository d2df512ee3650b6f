"""What all tests share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

import common  # noqa: F401 (before any test imports gRPC, as in our own programs)

# Speed is measured in benchmarks/, never in a test: a busy machine must not fail one.
settings.register_profile("bottega", deadline=None)
settings.load_profile("bottega")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Several processes train at once on few cores; and results are the same from run to run."""
    torch.set_num_threads(1)
