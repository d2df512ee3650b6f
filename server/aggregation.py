"""Aggregation: the admitted updates of a round make the next adapter. Pure; it knows nothing of Flower or of files.

Under ``ffa`` (FFA-LoRA, arXiv 2403.12313) all sites share A, so the mean of B is exactly the mean of the products
B·A; updates are added one by one and never kept. Now and then A is refreshed (FedSVD, arXiv 2505.12805).

Under ``core`` sites train what stands between A and frozen columns of B (:mod:`common.core`), and the same holds.

Under ``both`` each site trains both factors, and the mean of the products is re-factored exactly and cut at the
run's rank; averaging A and B apart would not be the mean of anything. This keeps every site's factors in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.adapters import Adapter, split
from common.core import lift
from common.errors import AggregationError
from common.quantise import Flat
from common.settings import (
    NO_OPTIMISER_FOR_BOTH,
    NO_SITE_PRIVACY_FOR_BOTH,
    AggregationSettings,
    Method,
    RobustSettings,
)
from security.admission import AdmittedUpdate
from server import optimiser, robust
from server.mean import WeightedMean, capped_weight
from server.refactor import merge_ranks, refresh
from server.state import RunState

if TYPE_CHECKING:
    from server.site_privacy import SiteMechanism


@dataclass(frozen=True)
class Round:
    """What aggregation needs to know of a round.

    Attributes:
        number: From 1.
        method: What sites trained.
        settings: Weights, server optimiser, refreshes.
        protected: How sites as a whole are protected; None when they are not.
        most: The most updates that there may be; of need for a robust rule alone.
        folder: Where a robust rule keeps updates, encrypted, while it compares them; in memory when left out.
    """

    number: int
    method: Method
    settings: AggregationSettings
    protected: SiteMechanism | None = None
    most: int = 0
    folder: Path | None = None


def aggregate(this: Round, state: RunState, updates: Iterable[AdmittedUpdate]) -> RunState:
    """Return the state after a round.

    Guarantees: the same updates give the same bytes, in whatever order they come (on one machine, if A is refreshed
    or both factors are trained; see :mod:`server.refactor`), but for the noise of a run that protects sites.

    Args:
        this: The round.
        state: What the round started from.
        updates: At least one; drawn once, :data:`server.mean.GROUP` at a time but under ``both``.

    Raises:
        AggregationError: There is no update, one does not fit, or the settings do not go together.
    """
    return _merged(this, state, updates) if this.method == "both" else _federated_b(this, state, updates)


def _federated_b(this: Round, state: RunState, updates: Iterable[AdmittedUpdate]) -> RunState:
    settings, adapter = this.settings, state.adapter
    size = adapter.schema.numel("core" if this.method == "core" else "B")
    if this.protected:
        mean = _noised_mean(this.protected, size, updates)
    else:
        rule = settings.robust
        mean = _robust_mean(this, rule, size, updates) if rule else _mean(this, size, updates)
    moved = lift(adapter.schema, mean) if this.method == "core" else mean
    memory, change = optimiser.step(settings, optimiser.Memory.from_bytes(state.optimiser), moved)
    adapter = replace(adapter, b=adapter.b + change)
    if settings.refresh_every and this.number % settings.refresh_every == 0:
        refreshed = refresh(adapter)
        memory = optimiser.turned(memory, adapter.schema, refreshed.bases)
        adapter = refreshed.adapter
    return RunState(adapter, memory.to_bytes())


def _mean(this: Round, size: int, updates: Iterable[AdmittedUpdate]) -> Flat:
    cap = this.settings.example_cap
    mean = WeightedMean(size, largest_weight=cap, largest_value=this.settings.norm_bound)
    mean.add_all((capped_weight(update.examples, cap), update.delta) for update in updates)
    return mean.mean()


def _robust_mean(this: Round, rule: RobustSettings, size: int, updates: Iterable[AdmittedUpdate]) -> Flat:
    """Weigh all sites alike: a rule that weighs by what a site says of its drawings can be bought."""
    with robust.Updates(size, this.most, this.folder) as matrix:
        for update in updates:
            matrix.add(update.delta)
        return robust.aggregate(matrix, rule).update


def _noised_mean(protected: SiteMechanism, size: int, updates: Iterable[AdmittedUpdate]) -> Flat:
    """Weigh all sites alike: how many drawings one has would be another thing that it may change."""
    mean = WeightedMean(size, largest_weight=1, largest_value=protected.clip)
    mean.add_all((1, protected.clipped(update.delta)) for update in updates)
    return protected.released(mean.mean(), mean.count)


def _merged(this: Round, state: RunState, updates: Iterable[AdmittedUpdate]) -> RunState:
    settings, start = this.settings, state.adapter
    if not settings.takes_the_mean:
        raise AggregationError(NO_OPTIMISER_FOR_BOTH)
    if this.protected:
        raise AggregationError(NO_SITE_PRIVACY_FOR_BOTH)
    products = []
    for update in sorted(updates, key=lambda update: update.site):
        change = split(start.schema, update.delta)
        trained = Adapter(start.schema, start.a + change.a, start.b + change.b)
        products.append((capped_weight(update.examples, settings.example_cap), trained))
    return RunState(merge_ranks(products, start.schema))


__all__ = ["Round", "WeightedMean", "aggregate", "capped_weight"]
