"""What a site works with: its base, its drawings, encoded, and the bench. Seconds of imports, then perhaps minutes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from client.budget import Budget
from client.cache import kept
from client.dataset import TrainingSet, encode
from client.drawings import Drawings, load_drawings
from client.guard import Guard
from client.settings import SiteSettings
from client.work import Bench
from common.errors import DrawingsError
from common.models import Base, load_base
from common.paths import SiteHome
from security.key_folder import open_vault
from security.noise import SecureNoise


@dataclass(frozen=True)
class Workplace:
    """What a site works with."""

    base: Base
    drawings: Drawings
    bench: Bench


def set_up(home: SiteHome, settings: SiteSettings) -> Workplace:
    """Load the base and the drawings, and encode them.

    Raises:
        DrawingsError: There is nothing to train on.
        BaseModelError: The base cannot be loaded.
        BudgetError: The record of the privacy budget cannot be believed, or its settings are out of range.
        VaultError: The home's vault does not open.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    base = load_base(settings.base).to(_device(settings))
    drawings = load_drawings(Path(settings.data), settings.drawings.model_copy(update={"size": base.pixels}))
    if not drawings.train:
        raise DrawingsError("there is no drawing to train on", got="0 usable drawings", expected="at least 2")
    guard = Guard(
        Budget(home.budget, open_vault(home), settings.privacy), drawings.train, SecureNoise(), drawings.held_out,
        settings.drawings.held_out_fraction,
    )  # fmt: skip
    bench = Bench(
        settings.name, base, *_encoded(home, base, drawings, settings), settings.rules, guard, drawings.train,
        settings.memory_mib,
    )  # fmt: skip
    return Workplace(base, drawings, bench)


def _encoded(home: SiteHome, base: Base, drawings: Drawings, settings: SiteSettings) -> tuple[TrainingSet, TrainingSet]:
    splits = (
        ("train", drawings.train, partial(encode, base, drawings.train, settings.augment, settings.views)),
        ("held-out", drawings.held_out, partial(encode, base, drawings.held_out)),
    )
    if not settings.keep_latents:
        return splits[0][2](), splits[1][2]()
    training, held_out = (kept(home, name, base, split, settings, make) for name, split, make in splits)
    return training, held_out


def _device(settings: SiteSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)
