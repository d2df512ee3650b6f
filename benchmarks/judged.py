"""Sites whose real drawings are at hand, so that what a model draws can be judged against them: benchmarks alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.dataset import encode
from client.drawings import DrawingSettings, load_drawings
from client.evaluation import domain_fid
from client.units import units_of
from common.adapter_schema import Adapter
from common.models import Base, load_adapter
from common.sampling import sample
from common.settings import PrivacySettings
from deploy.simulation import SimulatedSite


@dataclass(frozen=True)
class Studio:
    """A site with its held-out pictures kept for judging."""

    site: SimulatedSite
    captions: list[str]
    real: NDArray[np.uint8]


def read_studios(base: Base, folder: Path, unit: str = PrivacySettings().unit) -> list[Studio]:
    """Return one studio for each folder in a folder, by name.

    Args:
        base: Encodes the drawings.
        folder: Of folders of drawings, each as a site has it.
        unit: What is protected as one: ``drawing`` or ``artist``.
    """
    return [_read(base, own, unit) for own in sorted(folder.iterdir()) if own.is_dir()]


def _read(base: Base, folder: Path, unit: str) -> Studio:
    found = load_drawings(folder, DrawingSettings(size=base.pixels))
    units = units_of(found.train, "artist") if unit == "artist" else None
    site = SimulatedSite(folder.name.replace("_", "-"), encode(base, found.train), encode(base, found.held_out), units)
    return Studio(site, [d.caption for d in found.held_out], np.stack([d.pixels for d in found.held_out]))


def drawn_fid(base: Base, adapter: Adapter, studios: Sequence[Studio], pictures: int, seed: int) -> float:
    """Return the Frechet distance between what an adapter draws by the held-out captions and the held-out drawings.

    Args:
        base: With LoRA attached that fits the adapter.
        adapter: What is judged.
        studios: All of them, in equal shares.
        pictures: How many are drawn.
        seed: Of their noise.
    """
    load_adapter(base.unet, adapter)
    captions = [s.captions[i % len(s.captions)] for s in studios for i in range(pictures // len(studios))]
    generated = sample(base, captions, seed=seed, steps=25, guidance=3.0)
    return domain_fid(generated, np.concatenate([s.real for s in studios]))
