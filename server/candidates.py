"""What a round would have come to with others of its updates (:mod:`server.cross_validation`).

All is computed in the coordinates that the round began in and turned into those that it ended with: a refresh of A
turns the rows of A within the space that they span (``docs/adr/0002``), so the product is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from common.adapter_schema import Adapter
from common.quantise import Flat
from security.admission import AdmittedUpdate
from server import optimiser
from server.aggregation import Round, aggregate
from server.cross_validation import Groups
from server.optimiser import Bases
from server.state import RunState

Updates: TypeAlias = Callable[[Collection[str]], Iterable[AdmittedUpdate]]
"""Returns the updates of some sites, each once."""


def candidates_of(this: Round, start: RunState, end: Adapter, groups: Groups, updates: Updates) -> list[Flat]:
    """Return B of where a round began, and of what each group alone would have made of that, float32 each.

    Groups are averaged plainly, whatever the run's rule: a robust rule among three would hide the one in question.

    Args:
        this: The round.
        start: What it started from.
        end: What it ended with.
        groups: Of sites whose updates there are.
        updates: Gives them.

    Raises:
        AggregationError: A group is empty, or an update does not fit.
    """
    plain = replace(this, settings=this.settings.model_copy(update={"robust": False}))
    alone = (averaged(plain, start, end, updates(group)).adapter.b for group in groups)
    return [in_coordinates(start, end).adapter.b, *alone]


def averaged(this: Round, start: RunState, end: Adapter, updates: Iterable[AdmittedUpdate]) -> RunState:
    """Return what a round would have ended with, in the coordinates of what it did end with.

    Args:
        this: The round.
        start: What it started from.
        end: What it ended with.
        updates: At least one.

    Raises:
        AggregationError: There is no update, or one does not fit.
    """
    unturned = replace(this, settings=this.settings.model_copy(update={"refresh_every": 0}))
    return in_coordinates(aggregate(unturned, start, updates), end)


def in_coordinates(state: RunState, other: Adapter) -> RunState:
    """Return the same products and the same memory in the coordinates of another adapter's A."""
    adapter = state.adapter
    if np.array_equal(adapter.a, other.a):
        return state
    bases = _between(adapter, other)
    memory = optimiser.turned(optimiser.Memory.from_bytes(state.optimiser), adapter.schema, bases)
    b = optimiser.times(adapter.b, adapter.schema, bases)
    return RunState(Adapter(adapter.schema, other.a, b), memory.to_bytes())


def _between(adapter: Adapter, other: Adapter) -> Bases:
    """Return ``A A'^T`` of every module: A is that times A', where both have orthonormal rows of one space."""
    own, theirs = (adapter.schema.views(one.a, "A") for one in (adapter, other))
    pairs = ((own[m.a.name].reshape(m.rank, -1), theirs[m.a.name].reshape(m.rank, -1)) for m in adapter.schema.modules)
    return tuple(a.astype(np.float64) @ b.astype(np.float64).T for a, b in pairs)
