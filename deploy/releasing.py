"""Checking the adapter of a round on public drawings, and writing down what was found."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from client.drawings import Drawing, DrawingSettings, load_drawings
from common.errors import RunError
from common.export import adapter_weights
from deploy.public_check import measure, pictures, procedural
from deploy.round_pictures import write_picture
from deploy.run_base import base_of_run
from security.entries import Checked, moment
from security.run_order import read_order
from server.house import House
from server.release import closed_round
from server.start import fresh_state
from server.state import RunStates
from server.store import Store


class Looked(NamedTuple):
    """What a check left: the entry of the ledger, and the picture."""

    entry: Checked
    picture: Path


def check_round(
    house: House,
    store: Store,
    run: str,
    number: int | None = None,
    *,
    alike: Callable[[int], Sequence[Drawing]] | None = None,
    seen: Callable[[], object] = lambda: None,
) -> Looked:
    """Try the adapter of a closed round on public drawings, draw the fixed prompts with it, and record both.

    Args:
        house: The server's.
        store: Of the house.
        run: The run's id.
        number: Which round's; the last that trained when left out.
        alike: Given the base's size in pixels, returns public drawings like the sites' own; procedural ones are taken
            when left out.
        seen: Told three times: after the measurement, and after each row of pictures.

    Raises:
        RunError: There is no such run or closed round.
        BaseModelError: The run's base cannot be loaded here.
        DrawingsError: The drawings cannot be read, or are too few.
        VaultError: The round's state is missing, or was changed.
        HomeError: The picture cannot be written.
    """
    row = closed_round(store, run, number)
    order = read_order(store.run(run).order)
    base = base_of_run(order)
    public = procedural(base) if alike is None else alike(base.pixels)
    start = fresh_state(order.schema, order.settings).adapter
    adapter = RunStates(house.home, run, house.keys.vault).load(row.round, order.schema).adapter
    weights = hashlib.sha256(adapter_weights(adapter)).hexdigest()
    if weights != row.adapter_digest:
        raise RunError("a round's state is not what its record says", got=weights, expected=row.adapter_digest)
    found = measure(base, start, adapter, public, alike=alike is not None)
    seen()
    entry = Checked(
        at=moment(time.time()), run=run, round=row.round, adapter=weights, by=str(house.founder),
        drawings=found.drawings, of=found.of, alike=found.alike, before=found.before, after=_finite(found.after),
        margin=_finite(found.margin), worse=found.worse,
    )  # fmt: skip
    store.checked(entry)
    drawn = pictures(base, start, adapter, public, seen=seen)
    picture = house.home.check_picture(run, row.round)
    write_picture(picture, drawn)
    return Looked(entry, picture)


def of_folder(folder: Path) -> Callable[[int], Sequence[Drawing]]:
    """Return what reads a folder of drawings (imagefolder convention) at a size.

    Args:
        folder: Of drawings that are nobody's secret.
    """

    def read(pixels: int) -> Sequence[Drawing]:
        found = load_drawings(folder, DrawingSettings(size=pixels))
        return [*found.held_out, *found.train]

    return read


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
