"""A rehearsal: what honest updates of a run look like before anybody has sent one.

Whoever orders a run trains simulated sites with the run's own settings on public drawings, in rounds of as many sites
as the run has, and keeps the features of their updates (:mod:`security.features`). The detector learns from those rows
and is calibrated by them; nothing else of the simulation is kept, and none of it is anybody's drawing.

Features depend on how sites train and how many they are. So a rehearsal is made for settings, a base and a number of
sites, and fits no others: its ``key`` says which.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

import numpy as np
from torch import from_numpy

from common.settings import RunSettings
from security.conformal import DetectorError
from security.detector import Rows
from security.features import FEATURES, NoiseModel
from security.tensor_file import read_tensors, write_tensors

MOST_REHEARSAL_BYTES = 2**22
"""Some 15,000 rows."""

_FORMAT = 1
_NAMES = [feature.name for feature in FEATURES]


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """Honest rows for one way of training.

    Attributes:
        key: What it was made for: see :func:`rehearsal_key`.
        rows: Standardised features of simulated honest updates.
        noise: The noise in them, in a private run; None otherwise.
    """

    key: str
    rows: Rows = field(repr=False)
    noise: NoiseModel | None = None

    def to_bytes(self) -> bytes:
        """Return the rehearsal as one file; see :mod:`security.tensor_file`."""
        tensors = {"values": from_numpy(self.rows.values.copy()), "rounds": from_numpy(self.rows.rounds.copy())}
        noise = [self.noise.deviation, self.noise.size] if self.noise else None
        return write_tensors(tensors, {"format": _FORMAT, "key": self.key, "features": _NAMES, "noise": noise})

    @classmethod
    def from_bytes(cls, data: bytes) -> Rehearsal:
        """Return the rehearsal that :meth:`to_bytes` wrote.

        Raises:
            DetectorError: It is none, or damaged, or was made for other features.
        """
        read = read_tensors(data) if len(data) <= MOST_REHEARSAL_BYTES else None
        if read is None:
            raise DetectorError(
                "this is no rehearsal, or a damaged one", got=f"{len(data)} bytes",
                advice="Make it anew with `bottega run rehearse`.",
            )  # fmt: skip
        tensors, about = read
        if about.get("format") != _FORMAT or about.get("features") != _NAMES:
            raise DetectorError(
                "the rehearsal was made by another version", advice="Make it anew with `bottega run rehearse`."
            )
        rows = Rows(tensors["values"].numpy().astype(np.float64), tensors["rounds"].numpy().astype(np.int64))
        return cls(str(about["key"]), rows, NoiseModel(*about["noise"]) if about["noise"] else None)

    def check_for(self, key: str) -> None:
        """Pass a rehearsal that was made for this.

        Raises:
            DetectorError: It was made for other settings, another base or another number of sites.
        """
        if self.key != key:
            raise DetectorError(
                "the rehearsal was made for another run", got=self.key[:12], expected=key[:12],
                advice="Make one with `bottega run rehearse` from the same settings, base and number of sites.",
            )  # fmt: skip


def rehearsal_key(settings: RunSettings, base_digest: str, sites: int) -> str:
    """Return what a rehearsal must have been made for, SHA-256 in hex: everything that shapes an honest update.

    Args:
        settings: The run's.
        base_digest: Of the base.
        sites: How many the run asks.
    """
    shown = settings.model_dump(mode="json")
    shaping = {name: shown[name] for name in ("lora", "encoding", "privacy")}
    # How much noise a round carries hangs on how many rounds share the budget.
    shaping |= {"rounds": shown["rounds"]} if settings.privacy else {"training": shown["training"]}
    moving = ("refresh_every", "optimiser", "server_learning_rate", "momentum")
    shaping["aggregation"] = {name: shown["aggregation"][name] for name in moving}
    text = json.dumps({**shaping, "base": base_digest, "sites": sites, "features": _NAMES}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
