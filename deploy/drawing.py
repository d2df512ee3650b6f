"""Drawing and judging with an adapter: what `bottega draw` and `bottega evaluate` do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.augment import to_tensor
from client.drawings import DrawingSettings, load_drawings
from client.evaluation import Judgement, judge
from common.errors import AdapterError
from common.export import read_adapter
from common.models import Base, attach_lora, load_adapter, load_base
from common.sampling import sample
from common.settings import LoraSettings


def equipped_base(source: str, adapter: Path | None) -> Base:
    """Return a base with an adapter on it.

    Raises:
        BaseModelError: The base cannot be loaded.
        AdapterError: The adapter cannot be read, or belongs to another base.
    """
    base = load_base(source)
    if torch.cuda.is_available():
        base.to("cuda")
    if adapter is None:
        return base
    loaded = read_adapter(adapter)
    ranks = {m.rank for m in loaded.schema.modules}
    targets = tuple(m.name for m in loaded.schema.modules)
    if len(ranks) != 1:
        raise AdapterError("the adapter's layers have several ranks", got=sorted(ranks), expected="one rank")
    schema = attach_lora(base.unet, LoraSettings(rank=ranks.pop(), targets=targets))
    if schema != loaded.schema:
        raise AdapterError(
            "the adapter does not fit this base", got=f"{len(loaded.schema.modules)} layers",
            expected=f"{len(schema.modules)} of the same shapes",
            advice="Name the base that it was trained on with --base.",
        )  # fmt: skip
    load_adapter(base.unet, loaded)
    return base


def judge_adapter(
    *,
    data: Path,
    adapter: Path | None,
    base: str,
    count: int,
    steps: int,
    guidance: float,
    seed: int,
    inception: Path | None,
) -> Judgement:
    """Generate ``count`` drawings by the captions of ``data`` and judge them against its drawings.

    Raises:
        DrawingsError: The folder holds too few drawings.
        BaseModelError: The base or the Inception weights cannot be loaded.
        AdapterError: The adapter cannot be read, or belongs to another base.
    """
    model = equipped_base(base, adapter)
    found = load_drawings(data, DrawingSettings(size=model.pixels))
    drawings = [*found.held_out, *found.train]
    real = np.stack([d.pixels for d in drawings])
    captions = [drawings[i % len(drawings)].caption for i in range(count)]
    generated = sample(model, captions, seed=seed, steps=steps, guidance=guidance)
    return judge(generated, real, _reconstructed(model, real), inception)


@torch.no_grad()
def _reconstructed(model: Base, real: NDArray[np.uint8]) -> NDArray[np.uint8]:
    parts = []
    for at in range(0, len(real), 32):
        latents = model.encode_pictures(to_tensor(list(real[at : at + 32])))
        back = model.vae.decode(latents / float(model.vae.config.scaling_factor)).sample
        parts.append((back.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)
