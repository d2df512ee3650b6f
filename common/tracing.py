"""How long the phases of a round take: counted for metrics and, where somebody wants traces, told as spans.

``with phase("train"):`` does both, at the server and at a site. Spans are made only where the environment says where
they go (:data:`VARIABLE`); otherwise nothing of OpenTelemetry is so much as imported.

The spans of one round meet in one trace without a byte on the wire: server and site each take the trace's id from the
run and the number of the round (:mod:`common.spans`).

What a span or a metric may say of a phase stands in :class:`Told`, and is nothing of a drawing. How long a phase took
does depend on drawings, though; so a site tells it to its own studio, and never to the server.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, cast

from common.errors import BottegaError

if TYPE_CHECKING:
    from common.spans import Spans

log = logging.getLogger("bottega.traces")

VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""Of the environment: where spans are sent, by OTLP over HTTP. Without it no span is made."""

Phase = Literal[
    # At the server: getting the sites together and sealing their tasks; until the last answer; holding updates against
    # each other; hearing the ballots; aggregating; keeping the adapter; writing the ledger; asking for ballots.
    "open", "answers", "judge", "ballots", "aggregate", "keep", "ledger", "examine",
    # At a site: a whole task; waiting for the studio's word; opening the adapter ("open" too); looking at the ledger's
    # checkpoint; and the work itself.
    "task", "hold", "witness", "train", "measure", "look", "ballot", "seal",
]  # fmt: skip
"""Every phase that there is: a metric has one series for each, and no more."""

DONE = "done"
BROKEN = "broken"
"""How a phase ends that an error ends which is none of ours."""

END_S = 3.0

_OURS = "http/protobuf"


class Told(TypedDict, total=False):
    """What may be told of a phase. Nothing of it may come from a drawing."""

    sites: int
    bytes: int


@dataclass(frozen=True)
class Took:
    """How often there was a phase, and how long all of them took together, seconds."""

    count: int = 0
    seconds: float = 0.0


class Moment:
    """A phase while it lasts.

    Attributes:
        outcome: How it ends, a slug: :data:`DONE`, the kind of an error, or what is said of it.
    """

    outcome: str = DONE


class Phases:
    """How long phases took in this process, since it began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._took: dict[tuple[str, str], Took] = defaultdict(Took)

    def add(self, name: str, outcome: str, seconds: float) -> None:
        """Count a phase that has ended."""
        with self._lock:
            before = self._took[name, outcome]
            self._took[name, outcome] = Took(before.count + 1, before.seconds + seconds)

    def told(self) -> dict[tuple[str, str], Took]:
        """Return what was counted, by phase and outcome."""
        with self._lock:
            return dict(self._took)


PHASES = Phases()
"""Those of this process."""


@contextmanager
def phase(name: Phase, **told: Unpack[Told]) -> Iterator[Moment]:
    """Count how long something takes, and make a span of it where traces are wanted. Good as a decorator too.

    Args:
        name: What.
        told: What else a span may say.
    """
    moment, began, spans = Moment(), time.monotonic(), _TRACES.spans()
    said = cast("Mapping[str, int]", told)
    with spans.phase(name, said, moment) if spans else contextlib.nullcontext():
        try:
            yield moment
        except BaseException as why:
            moment.outcome = slug(why) if isinstance(why, BottegaError) else BROKEN
            raise
        finally:
            seconds = time.monotonic() - began
            PHASES.add(name, moment.outcome, seconds)
            if (took := _ROUND.get()) is not None:
                took[name] = took.get(name, 0.0) + seconds


def lead_round(run: str, number: int) -> AbstractContextManager[Mapping[str, float]]:
    """Lead a round, as the server does: what is a phase in it is of that round, and of its trace.

    Args:
        run: The run's id.
        number: The round.

    Returns:
        A context manager that gives the seconds of each phase, so far as it has ended.
    """
    return _round(run, number, leads=True)


def join_round(run: str, number: int) -> AbstractContextManager[Mapping[str, float]]:
    """Take part in a round that a server leads; as :func:`lead_round`."""
    return _round(run, number, leads=False)


def name_service(name: str, **facts: str) -> None:
    """Say what this process is, before its first phase.

    Args:
        name: ``bottega-server`` or ``bottega-site``; ``OTEL_SERVICE_NAME`` in the environment counts for more.
        facts: What else every span says: ``site``.
    """
    _TRACES.service, _TRACES.facts = name, facts


def end_traces() -> None:
    """Send what was not sent yet, in :data:`END_S` seconds or never; a process that goes on traces on."""
    _TRACES.end()


def slug(error: BottegaError) -> str:
    """Return the short name of a kind of error: ``BaseModelError`` is ``base-model``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()


_ROUND: ContextVar[dict[str, float] | None] = ContextVar("round", default=None)


@contextmanager
def _round(run: str, number: int, *, leads: bool) -> Iterator[Mapping[str, float]]:
    took: dict[str, float] = {}
    spans, before = _TRACES.spans(), _ROUND.set(took)
    try:
        with spans.round(run, number, leads=leads) if spans else contextlib.nullcontext():
            yield took
    finally:
        _ROUND.reset(before)


class _Traces:
    """Knows whether spans are made: decided at the first phase, and anew after an end."""

    def __init__(self) -> None:
        self.service, self.facts = "bottega", dict[str, str]()
        self._lock, self._decided = threading.Lock(), False
        self._spans: Spans | None = None

    def spans(self) -> Spans | None:
        if not self._decided:
            with self._lock:
                if not self._decided:
                    self._spans, self._decided = self._made(), True
        return self._spans

    def end(self) -> None:
        with self._lock:
            spans, self._spans, self._decided = self._spans, None, False
        if spans is not None:
            # In a thread that is not waited for longer: a collector that does not answer holds nobody up.
            last = threading.Thread(target=spans.close, name="traces", daemon=True)
            last.start()
            last.join(END_S)

    def _made(self) -> Spans | None:
        if not os.environ.get(VARIABLE, "").strip():
            return None
        if (protocol := _protocol()) != _OURS:
            log.warning("%s is set, and no trace is sent: %s is spoken here, not %s", VARIABLE, _OURS, protocol)
            return None
        try:
            from common.spans import Spans  # noqa: PLC0415 (optional, and a part of a second of imports)

            spans = Spans(self.service, self.facts)
        except ImportError:
            log.warning("%s is set, and no trace is sent: pip install 'bottega[otel]'", VARIABLE)
            return None
        except Exception:
            log.exception("%s is set, and no trace is sent: it cannot be", VARIABLE)
            return None
        log.info("traces are sent to where %s says", VARIABLE)
        return spans


def _protocol() -> str:
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    return next((said for name in names if (said := os.environ.get(name))), _OURS)


_TRACES = _Traces()
atexit.register(_TRACES.end)
