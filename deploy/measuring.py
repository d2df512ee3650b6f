"""Measuring a run from outside: the held-out loss of its adapters at every site, by somebody who has all the drawings.

Nobody in a real federation can. Sites of a private run tell no loss, because a loss over drawings tells of them; in a
demo all sites are one person's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.dataset import encode
from client.drawings import Drawing
from client.training import held_out_loss
from common.adapter_schema import Adapter
from common.models import Base
from security.run_order import read_order
from server.house import House
from server.start import fresh_state
from server.state import RunStates
from server.store import Store

POINTS = 6
"""Rounds that are measured at the most, the start counted in."""

DRAWINGS = 32
DRAWS = 4


def loss_curves(
    house: House, store: Store, run: str, base: Base, held_out: Mapping[str, Sequence[Drawing]]
) -> dict[str, dict[int, float]]:
    """Return the held-out loss of each site after some rounds; 0 is before the first.

    Args:
        house: The server's.
        store: Of the house.
        run: The run's id; it has closed a round.
        base: With LoRA attached as the run has it.
        held_out: Each site's held-out drawings.
    """
    order = read_order(store.run(run).order)
    settings, states = order.settings, RunStates(house.home, run, house.keys.vault)
    closed = [0, *(row.round for row in store.rounds(run) if row.adapter_digest is not None)]
    adapters: dict[int, Adapter] = {
        number: states.load(number, order.schema).adapter if number else fresh_state(order.schema, settings).adapter
        for number in _spread(closed)
    }
    alike = settings.training.model_copy(update={"held_out_most": DRAWINGS, "held_out_draws": DRAWS})
    encoded = {site: encode(base, own[:DRAWINGS]) for site, own in held_out.items()}
    return {
        site: {number: held_out_loss(base, adapter, data, alike) for number, adapter in adapters.items()}
        for site, data in encoded.items()
    }


def _spread(numbers: Sequence[int]) -> list[int]:
    """Return the first, the last, and some between, evenly."""
    last = len(numbers) - 1
    places = {round(last * k / (POINTS - 1)) for k in range(POINTS)}
    return [numbers[place] for place in sorted(places)]
