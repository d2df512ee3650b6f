"""What a run's detector has learned, round by round, and how it is remembered."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from common.settings import DetectorName, DetectorSettings
from security.conformal import DetectorError
from security.detector import Detector, Rows
from security.features import FEATURES, RoundFeatures
from security.judgement import Measure
from security.rehearsal import Rehearsal
from security.tensor_file import read_tensors, write_tensors

log = logging.getLogger("bottega.rounds")

MOST_ROUNDS = 200
"""Accepted rounds that are remembered; the oldest give way: a model that is nearly learned changes otherwise."""


class Learning:
    """A detector that goes on learning from accepted rounds.

    Args:
        kind: Which of PyOD's detectors.
        rehearsal: What it begins with; without one there is no detector.
        accepted: Features of rounds that were accepted.
        detector: As it was after the last of them; learned anew when left out.
    """

    def __init__(
        self, kind: DetectorName, rehearsal: Rehearsal | None, accepted: Rows, detector: Detector | None = None
    ) -> None:
        self._kind, self._rehearsal, self._accepted, self._detector = kind, rehearsal, accepted, detector
        if rehearsal and detector is None:
            self._learn()

    @classmethod
    def begin(cls, kind: DetectorName, rehearsal: bytes | None, memory: bytes | None, *, before: int) -> Learning:
        """Return what was learned from rounds before one, from the files of a run.

        Args:
            kind: Which of PyOD's detectors.
            rehearsal: The run's rehearsal; what is damaged is left aside.
            memory: What :meth:`to_bytes` returned; what is damaged is left aside.
            before: The round that is judged next: a later one was not closed.
        """
        known = _rehearsed(rehearsal) if rehearsal is not None else None
        if memory is not None:
            try:
                return _remembered(kind, known, memory, before)
            except DetectorError as why:
                log.warning("the detector begins again with its rehearsal: %s", why)
        return cls(kind, known, Rows.of({}))

    def measure(self, settings: DetectorSettings) -> Measure:
        """Return what rounds are judged by."""
        noise = self._rehearsal.noise if self._rehearsal else None
        return Measure(self._detector, settings.false_rejections, noise)

    def add(self, number: int, accepted: RoundFeatures) -> None:
        """Learn from the accepted updates of a round."""
        rows = Rows.of({number: accepted})
        kept = self._accepted.rounds > number - MOST_ROUNDS
        self._accepted = Rows(
            np.concatenate([self._accepted.values[kept], rows.values]),
            np.concatenate([self._accepted.rounds[kept], rows.rounds]),
        )
        if self._rehearsal:
            self._learn()

    def to_bytes(self) -> bytes:
        """Return what is to be remembered."""
        tensors: dict[str, Tensor] = {
            "values": torch.tensor(self._accepted.values), "rounds": torch.tensor(self._accepted.rounds),
        }  # fmt: skip
        if self._detector is not None:
            tensors["detector"] = torch.frombuffer(bytearray(self._detector.to_bytes()), dtype=torch.uint8)
        return write_tensors(tensors, {"features": len(FEATURES)})

    def _learn(self) -> None:
        if self._rehearsal is not None:
            rows = self._rehearsal.rows
            self._detector = Detector.learn(rows, self._accepted, kind=self._kind, before=self._detector)


def _rehearsed(content: bytes) -> Rehearsal | None:
    try:
        return Rehearsal.from_bytes(content)
    except DetectorError as why:
        log.warning("the run's rehearsal is of no use, and the detector goes on without: %s", why)
        return None


def _remembered(kind: DetectorName, rehearsal: Rehearsal | None, memory: bytes, before: int) -> Learning:
    read = read_tensors(memory)
    if read is None:
        raise DetectorError("what it has learned is damaged", got=f"{len(memory)} bytes")
    tensors, _ = read
    rows = Rows(tensors["values"].numpy(), tensors["rounds"].numpy())
    early = rows.rounds < before
    accepted = replace(rows, values=rows.values[early], rounds=rows.rounds[early])
    whole = bool(early.all()) and "detector" in tensors
    detector = Detector.from_bytes(tensors["detector"].numpy().tobytes()) if whole else None
    if detector is not None and detector.kind != kind:
        detector = None
    return Learning(kind, rehearsal, accepted, detector if rehearsal else None)
