"""Small rounds of updates for the tests of robust rules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from common.quantise import Flat
from common.settings import RobustSettings, RuleName
from server.robust import Aggregate, Updates, aggregate

RULES: tuple[RuleName, ...] = get_args(RuleName)
EVERY = [(rule, mixing) for rule in RULES for mixing in (False, True)]
ROBUST = [(rule, mixing) for rule, mixing in EVERY if rule != "mean"]

Rows = NDArray[np.float32]


def settings(rule: RuleName, mixing: bool, hostile: int, **options: Any) -> RobustSettings:  # noqa: ANN401
    """Return settings; ``hostile`` is 0 for the mean, which allows no other."""
    return RobustSettings(rule=rule, mixing=mixing, hostile=0 if rule == "mean" else hostile, **options)


def held(rows: Iterable[Flat]) -> Updates:
    """Return the rows as updates in memory."""
    rows = list(rows)
    updates = Updates(rows[0].size, len(rows))
    for row in rows:
        updates.add(row)
    return updates


def outcome(rows: Iterable[Flat], chosen: RobustSettings, centre: Flat | None = None) -> Aggregate:
    """Apply a rule to the rows."""
    with held(rows) as updates:
        return aggregate(updates, chosen, centre)


def line(*values: float) -> Rows:
    """Return updates of one number each."""
    return np.array(values, np.float32)[:, None]


def drawn(seed: int, count: int, numel: int) -> Rows:
    """Return updates with a direction in common."""
    chance = np.random.default_rng(seed)
    return (chance.standard_normal((count, numel)) + chance.standard_normal(numel)).astype(np.float32)
