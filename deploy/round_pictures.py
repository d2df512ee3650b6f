"""Pictures of a run, round by round: the same prompts from the same noise with each round's adapter.

They show what no number shows, that a model comes to draw as the studios do. They are drawn by whoever keeps the
server's home; until an adapter is released it lies encrypted there, so pictures that it drew stay in that home too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.errors import HomeError, RunError
from common.models import Base, load_adapter
from common.sampling import sample
from security.files import replace
from security.run_order import RunOrder
from server.house import House
from server.state import RunStates


def draw_rounds(
    house: House,
    order: RunOrder,
    base: Base,
    numbers: Sequence[int],
    prompts: Sequence[str],
    *,
    seed: int,
    steps: int,
    guidance: float,
    seen: Callable[[int], object] = lambda _number: None,
) -> list[Path]:
    """Draw the prompts with the adapters of some closed rounds, a picture file (PNG) a round.

    All prompts of a round are beside each other in one row, drawn from the same noise in every round. The files lie in
    the run's folder, where the dashboard finds them; those of an earlier drawing are replaced.

    Args:
        house: The server's.
        order: The run's.
        base: The run's, LoRA attached; it carries the last of the adapters afterwards.
        numbers: The rounds.
        prompts: At least one.
        seed: The noise of prompt ``i`` is that of ``seed + i``.
        steps: Denoising steps.
        guidance: Guidance scale.
        seen: Told of each round that is drawn.

    Returns:
        The files, in the order of ``numbers``.

    Raises:
        HomeError: A picture cannot be written.
        VaultError: The adapter of a round is missing or was changed.
    """
    states = RunStates(house.home, order.run, house.keys.vault)
    files = []
    for number in numbers:
        load_adapter(base.unet, states.load(number, order.schema).adapter)
        drawn = sample(base, prompts, seed=seed, steps=steps, guidance=guidance)
        file = house.home.picture(order.run, number)
        write_picture(file, np.hstack(list(drawn)))
        files.append(file)
        seen(number)
    return files


def closed_rounds(closed: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Return the rounds to draw: those that were asked for, or all that closed with an adapter.

    Raises:
        RunError: There is none, or one that was asked for is not among them.
    """
    if not closed:
        raise RunError("no round of this run has an adapter yet", advice="Wait for its first round: bottega run watch.")
    if missing := sorted(set(wanted) - set(closed)):
        raise RunError("there is no adapter of these rounds", got=missing, expected=closed)
    return sorted(set(wanted)) or list(closed)


def write_picture(file: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture into a run's folder, uint8 ``[h, w, 3]``; an earlier one gives way.

    Raises:
        HomeError: It cannot be written.
    """
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG", optimize=True)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as cause:
        raise HomeError("the run's pictures cannot be written", got=cause.strerror) from None
    replace(file, [png.getvalue()], error=HomeError)
