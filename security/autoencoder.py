"""PyOD's autoencoder, kept to itself: it goes on from weights that it had, and leaves everybody's chance alone.

An autoencoder learns to squeeze honest rows through a narrow layer and to restore them; how badly it restores a row is
how strange the row is. The network, its training and its score are PyOD's (Zhao, Nasrullah and Li, JMLR 2019). Of its
threshold, which declares a fixed tenth of the honest rows strange, no use is made.

What one of them finds strange depends on the weights it happened to begin with. So there are several, and a row's score
is the mean of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pyod.models.auto_encoder import AutoEncoder
from torch import Tensor

Array: TypeAlias = NDArray[np.float64]
Weights: TypeAlias = Mapping[str, Tensor]

MEMBERS = 5

HIDDEN = (24, 8)
"""Widths from the row to the narrow layer; back again they are mirrored."""

_BATCH = 32
_EPOCHS = 60
_EPOCHS_FROM_WEIGHTS = 15
_RATE = 3e-3
_SEEDS_APART = 1_000_003


class Autoencoders:
    """Several autoencoders whose scores are averaged.

    Args:
        members: They have learned.
    """

    def __init__(self, members: list[WarmAutoEncoder]) -> None:
        self._members = members

    @classmethod
    def learn(cls, rows: Array, seed: int, before: Weights | None = None) -> Autoencoders:
        """Return autoencoders that learned from rows, float64 ``[n, features]``; from weights, if they had some."""
        starts = [_of_member(before, place) if before else None for place in range(MEMBERS)]
        return cls(
            [
                WarmAutoEncoder(_member_seed(seed, place), len(rows), start).fit(rows)
                for place, start in enumerate(starts)
            ]
        )

    @classmethod
    def restored(cls, weights: Weights, width: int) -> Autoencoders:
        """Return the autoencoders that :meth:`weights` came from, for rows of ``width`` features."""
        return cls([WarmAutoEncoder(0, 1, _of_member(weights, place)).restored(width) for place in range(MEMBERS)])

    def weights(self) -> dict[str, Tensor]:
        """Return all weights, float32, by member and name."""
        return {
            f"{place}.{name}": tensor.detach().clone()
            for place, member in enumerate(self._members)
            for name, tensor in member.model.state_dict().items()
        }

    def decision_function(self, rows: Array) -> Array:
        """Return how strange rows are, float64 ``[n]``."""
        return np.asarray(np.mean([member.decision_function(rows) for member in self._members], axis=0))


class WarmAutoEncoder(AutoEncoder):  # type: ignore[misc]
    """An autoencoder that starts from weights, if it is given some.

    Args:
        seed: Of the first weights and of the order of rows.
        rows: How many it will learn from.
        before: Weights to start from; random ones when left out.
    """

    def __init__(self, seed: int, rows: int, before: Weights | None = None) -> None:
        self.before = before
        super().__init__(
            preprocessing=False,
            lr=_RATE,
            epoch_num=_EPOCHS_FROM_WEIGHTS if before else _EPOCHS,
            batch_size=min(_BATCH, rows),
            device=torch.device("cpu"),
            random_state=seed,
            verbose=0,
            optimizer_params={"weight_decay": 1e-4},
            hidden_neuron_list=list(HIDDEN),
            hidden_activation_name="tanh",
            batch_norm=False,
            dropout_rate=0.0,
        )

    def build_model(self) -> None:
        """Make the network, from the weights where there are some."""
        super().build_model()
        if self.before is not None:
            self.model.load_state_dict(dict(self.before))

    def fit(self, X: Array, y: None = None) -> WarmAutoEncoder:  # noqa: ARG002 (PyOD's signature)
        """Learn from rows, float64 ``[n, features]``. Torch's global generator is as before afterwards."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            super().fit(X)
        self.evaluating_prepare()
        return self

    def decision_function(self, X: Array, batch_size: None = None) -> Array:  # noqa: ARG002
        """Return PyOD's score of rows, float64 ``[n]``, without its loader, which draws from the global generator."""
        with torch.no_grad():
            return np.asarray(self.evaluating_forward(torch.from_numpy(X.astype(np.float32))), np.float64)

    def restored(self, width: int) -> WarmAutoEncoder:
        """Return this with the weights that it was given, fit to score rows of so many features."""
        with torch.random.fork_rng(devices=[]):
            self.feature_size = width
            self.build_model()
        self.evaluating_prepare()
        return self

    @staticmethod
    def _set_seed(random_state: int) -> None:
        """Leave the generators of Python, NumPy and torch alone, and the environment: PyOD would seed them all."""


def _member_seed(seed: int, place: int) -> int:
    return (seed + place * _SEEDS_APART) % 2**63


def _of_member(weights: Weights, place: int) -> dict[str, Tensor]:
    """Return the weights of one member, without its number."""
    mark = f"{place}."
    return {name.removeprefix(mark): tensor for name, tensor in weights.items() if name.startswith(mark)}
