"""What a server may do about poisoned updates: the columns of :mod:`benchmarks.poisoning`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from common.quantise import Flat
from common.settings import AggregationSettings, DetectorSettings, RobustSettings, RuleName, RunSettings
from deploy.simulation import Simulation
from security.admission import AdmittedUpdate

if TYPE_CHECKING:
    from flwr.common import RecordDict

UNBOUNDED = 1e4
"""The norm bound of a server that does nothing: nobody reaches it."""


@dataclass(frozen=True)
class Defence:
    """What a server does.

    Attributes:
        detector: Whether updates are judged, and those of undue norms refused.
        robust: The rule in place of the mean; False for the mean.
        rule: A rule of others' in place of ours, of float32 ``[sites, d]``.
    """

    detector: bool = False
    robust: RobustSettings | None = None
    rule: Callable[[Flat, int], Flat] | None = None

    def settings(self, run: RunSettings) -> RunSettings:
        """Return a run's settings with this defence."""
        aggregation = AggregationSettings(robust=self.robust or False)
        if not self.detector:
            aggregation = aggregation.model_copy(update={"norm_bound": UNBOUNDED})
        return run.model_copy(
            update={"detector": DetectorSettings() if self.detector else False, "aggregation": aggregation}
        )


class OthersRule(Simulation):
    """A simulation whose rounds are averaged by a rule that others wrote."""

    rule: Callable[[Flat, int], Flat]
    hostile = 0

    def close(self, number: int, updates: Sequence[AdmittedUpdate]) -> None:
        """Put what the rule makes of a round's updates in the place of them all."""
        one = self.rule(np.stack([update.delta for update in updates]), self.hostile)
        super().close(number, [replace(updates[0], delta=one)])


def flower_krum(rows: Flat, hostile: int) -> Flat:
    """Return what Flower's Krum takes."""
    return _flowers(rows, hostile, 1)


def flower_multi_krum(rows: Flat, hostile: int) -> Flat:
    """Return the mean of what Flower's Multi-Krum takes."""
    return _flowers(rows, hostile, len(rows) - hostile)


def defences(hostile: int) -> Mapping[str, Defence]:
    """Return all defences by name, for at most so many hostile sites."""

    def ours(rule: RuleName, *, mixing: bool = False) -> Defence:
        return Defence(robust=RobustSettings(rule=rule, hostile=hostile, mixing=mixing))

    return MappingProxyType(
        {
            "bottega": Defence(detector=True, robust=_behind(hostile)),
            "none": Defence(),
            "median": ours("median"),
            "trimmed mean": ours("trimmed_mean"),
            "geometric median": ours("geometric_median"),
            "Multi-Krum": ours("multi_krum"),
            "centred clipping": ours("centred_clipping"),
            "NNM + trimmed mean": ours("trimmed_mean", mixing=True),
            "Flower's Krum": Defence(rule=flower_krum),
            "Flower's MultiKrum": Defence(rule=flower_multi_krum),
        }
    )


def _behind(hostile: int) -> RobustSettings:
    """Return the rule that stands behind the detector by default (``server.planning.defended``)."""
    return RobustSettings(rule="trimmed_mean", hostile=hostile, mixing=False)


def _flowers(rows: Flat, hostile: int, kept: int) -> Flat:
    from flwr.common import Array, ArrayRecord, RecordDict  # noqa: PLC0415 (half a second, for two columns)
    from flwr.serverapp.strategy.multikrum import select_multikrum  # noqa: PLC0415

    contents: list[RecordDict] = [RecordDict({"arrays": ArrayRecord({"b": Array(row)})}) for row in rows]
    chosen = select_multikrum(contents, hostile, kept)
    taken = [one.array_records["arrays"].to_numpy_ndarrays()[0] for one in chosen]
    return np.asarray(np.mean(taken, axis=0), np.float32)
