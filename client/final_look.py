"""A studio's last look at an adapter before it is released: does it draw the studio's own drawings again?

The question is asked of who owns the drawings, because nobody else can answer it. Nothing of the answer leaves but that
the studio objects, and that only where its house rules ask for the look (``most_copied``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.copies import FEWEST, find_copies
from client.drawings import Drawing
from common.adapter_schema import Adapter
from common.errors import BottegaError
from common.models import Base, load_adapter
from common.sampling import sample

PICTURES = 32
STEPS = 25
GUIDANCE = 3.0


class ObjectionError(BottegaError):
    """A studio objects to the release of an adapter."""

    advice = "The studio's `rules.most_copied` says how often it may. Train with more privacy, or for less long."


def check_copies(base: Base, adapter: Adapter, drawings: Sequence[Drawing], most: float, seed: int) -> None:
    """Draw by the studio's own captions, and pass an adapter that repeats few enough of its drawings.

    Args:
        base: With LoRA attached that fits the adapter.
        adapter: What is to be released.
        drawings: What the studio trained on.
        most: Largest share of the pictures that may be copies (:mod:`client.copies`).
        seed: Of the pictures.

    Raises:
        ObjectionError: More are, or there are too few drawings to tell.
    """
    if len(drawings) < FEWEST:
        raise ObjectionError("this studio cannot tell whether the adapter repeats its drawings: it has too few")
    load_adapter(base.unet, adapter)
    captions = [drawings[i % len(drawings)].caption for i in range(PICTURES)]
    drawn = sample(base, captions, seed=seed, steps=STEPS, guidance=GUIDANCE)
    if find_copies(drawn, np.stack([drawing.pixels for drawing in drawings])).share > most:
        # How many, and how near, is told to nobody outside.
        raise ObjectionError("the adapter repeats drawings of this studio")
