"""Where a run starts: a fresh adapter, or the state after its last closed round."""

from __future__ import annotations

import numpy as np

from common.adapter_schema import Adapter, AdapterSchema
from common.orthonormal import orthonormal_a
from common.settings import RunSettings
from server.state import RunState, RunStates
from server.store import Store


def starting_state(
    states: RunStates, store: Store, settings: RunSettings, schema: AdapterSchema
) -> tuple[int, RunState]:
    """Return the number of the next round and the state it starts from.

    Raises:
        VaultError: The state of the last closed round is missing or damaged.
        AdapterError: It does not fit the run's schema.
    """
    closed = store.last_closed(states.run)
    if not closed:
        return 1, fresh_state(schema, settings)
    return closed + 1, states.load(closed, schema)


def fresh_state(schema: AdapterSchema, settings: RunSettings) -> RunState:
    """Return what a run's first round starts from: A with orthonormal rows, the same for every site, and B zero."""
    return RunState(Adapter(schema, orthonormal_a(schema, settings.seed), np.zeros(schema.numel("B"), np.float32)))
