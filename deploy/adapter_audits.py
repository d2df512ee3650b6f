"""Audits of one adapter by somebody who has the drawings: what it gives away of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.copies import Copies, find_copies
from client.dataset import encode
from client.drawings import DrawingSettings, load_drawings
from client.membership import ATTACKS, Leak, attack, measure_leak
from common.adapter_schema import Adapter
from common.errors import DrawingsError
from common.export import read_adapter
from common.sampling import sample
from deploy.drawing import equipped_base


def membership(adapter: Path, data: Path, base: str) -> dict[str, Leak]:
    """Attack an adapter: can drawings that it was trained on be told from held-out ones? Return a leak an attack.

    Args:
        adapter: Its folder or weights file.
        data: The folder of drawings as the site has it: the same split is made again from what is in them.
        base: As in a run's settings.

    Raises:
        DrawingsError: The folder holds too few drawings.
        BaseModelError: The base cannot be loaded.
        AdapterError: The adapter cannot be read, or belongs to another base.
    """
    model, after = equipped_base(base, adapter), read_adapter(adapter)
    before = Adapter(after.schema, after.a, np.zeros_like(after.b))
    found = load_drawings(data, DrawingSettings(size=model.pixels))
    members, others = encode(model, found.train), encode(model, found.held_out)
    return {
        name: measure_leak(*(attack(model, before, after, side, by) for side in (members, others)))
        for name, by in ATTACKS.items()
    }


def copies(adapter: Path, data: Path, base: str, count: int, steps: int, guidance: float, seed: int) -> Copies:
    """Draw by the captions of drawings, and look for copies of those that were trained on.

    Args:
        adapter: Its folder or weights file.
        data: The folder of drawings as the site has it.
        base: As in a run's settings.
        count: Pictures to draw.
        steps: Denoising steps.
        guidance: Guidance scale.
        seed: First seed.

    Raises:
        DrawingsError: The folder holds too few drawings.
        BaseModelError: The base cannot be loaded.
        AdapterError: The adapter cannot be read, or belongs to another base.
    """
    model = equipped_base(base, adapter)
    own = load_drawings(data, DrawingSettings(size=model.pixels)).train
    if not own:
        raise DrawingsError("there is no drawing that was trained on", got="0 drawings", expected="at least 1")
    captions = [own[i % len(own)].caption for i in range(count)]
    drawn = sample(model, captions, seed=seed, steps=steps, guidance=guidance)
    return find_copies(drawn, np.stack([drawing.pixels for drawing in own]))
