"""The closed list of rules, and the one function that applies the chosen one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from common.errors import AggregationError
from common.quantise import Flat
from common.settings import RobustSettings, RuleName
from server.robust.clipping import centred_clipping
from server.robust.coordinate import median, trimmed_mean
from server.robust.geometric import geometric_median
from server.robust.geometry import mixed
from server.robust.krum import multi_krum
from server.robust.matrix import Block, Gram, Shares, Updates
from server.robust.nnm import mixing


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a rule made.

    Attributes:
        update: float32 [numel].
        shares: How much of each update is in it, in the order in which they were added: float64 [n]. Of equal updates
            each counts for the other. None for the rules that take each coordinate from other sites.
    """

    update: Flat
    shares: Shares | None


def aggregate(updates: Updates, settings: RobustSettings, centre: Flat | None = None) -> Aggregate:
    """Apply a rule. Updates weigh alike, and the order in which they were added never shows.

    Args:
        updates: At least ``settings.fewest``.
        settings: Which rule.
        centre: Where centred clipping begins, float32 [numel], such as the last round's result; None: zero, which is
            "nothing changes". Other rules do not depend on it.

    Raises:
        AggregationError: There are too few updates for so many hostile ones, the centre does not fit, or what is on
            disk cannot be read.
    """
    _check(updates, settings, centre)
    if settings.rule == "mean":
        return _of_shares(updates, np.full(len(updates), 1.0 / len(updates)))
    if settings.rule != "centred_clipping":
        centre = None  # else it would show in the last bits
    if settings.rule in _BY_COORDINATE:
        mix = mixing(updates.gram(), settings.hostile) if settings.mixing else None
        return Aggregate(updates.coordinatewise(partial(_BY_COORDINATE[settings.rule], settings), mix), None)
    rule, gram = _BY_SHARES[settings.rule], updates.gram(centre)
    if not settings.mixing:
        return _of_shares(updates, rule(settings, gram), centre)
    mix = mixing(gram, settings.hostile)
    return _of_shares(updates, rule(settings, mixed(gram, mix)) @ mix, centre)


def _of_shares(updates: Updates, shares: Shares, centre: Flat | None = None) -> Aggregate:
    by_adding = np.empty_like(shares)
    by_adding[updates.order] = shares
    return Aggregate(updates.combined(shares, centre), by_adding)


def _check(updates: Updates, settings: RobustSettings, centre: Flat | None) -> None:
    if len(updates) < settings.fewest:
        raise AggregationError(
            f"there are too few updates for the rule {settings.rule}",
            got=f"{len(updates)} updates, {settings.hostile} of them perhaps hostile",
            expected=f"at least {settings.fewest} updates",
            advice="Lower `hostile`, wait for more sites, or choose a rule that needs fewer; the adapter stays.",
        )
    if centre is not None and (centre.shape != (updates.numel,) or not np.isfinite(centre).all()):
        raise AggregationError("the centre does not fit the updates", got=centre.shape, expected=(updates.numel,))


_BY_SHARES: Mapping[RuleName, Callable[[RobustSettings, Gram], Shares]] = MappingProxyType(
    {
        "geometric_median": lambda _, gram: geometric_median(gram),
        "multi_krum": lambda settings, gram: multi_krum(gram, settings.hostile),
        "centred_clipping": lambda settings, gram: centred_clipping(gram, settings.clip_radius, settings.clip_steps),
    }
)
_BY_COORDINATE: Mapping[RuleName, Callable[[RobustSettings, Block], Flat]] = MappingProxyType(
    {
        "median": lambda _, block: median(block),
        "trimmed_mean": lambda settings, block: trimmed_mean(block, settings.hostile),
    }
)
