"""Spans of OpenTelemetry, sent by OTLP over HTTP (protobuf). Imported where traces are wanted (:mod:`common.tracing`).

A round is one trace. Its id is the first 16 bytes of SHA-256 over ``run|round``, and the next 8 bytes are the id of the
server's span of the whole round, under which all others stand: server and sites know both without telling each other.
A round that is tried again after a crash has the same ids, so its trace shows both tries.

A span says of an error what kind it is, and never its words or a traceback.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, use_span

if TYPE_CHECKING:
    from common.tracing import Moment

Ids = tuple[int, int]
"""Of a trace, 16 bytes, and of the span that leads it, 8 bytes, as whole numbers (W3C Trace Context, section 3.2.2)."""


def ids_of(run: str, number: int) -> Ids:
    """Return the ids of a round's trace and of the server's span of the whole round."""
    digest = hashlib.sha256(f"{run}|{number}".encode()).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


class Spans:
    """Makes spans, and sends them in the background to where the environment says.

    Args:
        service: What this process is.
        facts: What every span says besides, under ``bottega.``.
    """

    def __init__(self, service: str, facts: Mapping[str, str]) -> None:
        said = {f"bottega.{name}": value for name, value in facts.items()}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            said["service.name"] = service
        self._provider = TracerProvider(
            resource=Resource.create(said), id_generator=_Ids(), shutdown_on_exit=False
        )  # fmt: skip
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("bottega")

    @contextmanager
    def round(self, run: str, number: int, *, leads: bool) -> Iterator[None]:
        """Put what comes inside into the trace of a round.

        Args:
            run: The run's id.
            number: The round.
            leads: Whether this is the server, whose span of the whole round it is.
        """
        ids = ids_of(run, number)
        where = _ROUND.set({"bottega.run": run, "bottega.round": number})
        try:
            if leads:
                with self._leading(ids):
                    yield
            else:
                with self._under(ids):
                    yield
        finally:
            _ROUND.reset(where)

    @contextmanager
    def phase(self, name: str, told: Mapping[str, int], moment: Moment) -> Iterator[None]:
        """Make a span of what comes inside.

        Args:
            name: The phase.
            told: What the span says.
            moment: Knows at its end how the phase ended.
        """
        said = {**_ROUND.get(), **{f"bottega.{key}": value for key, value in told.items()}}
        with self._tracer.start_as_current_span(
            name, attributes=said, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException:
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                span.set_attribute("bottega.outcome", moment.outcome)

    def close(self) -> None:
        """Send what was not sent yet, and make no more."""
        self._provider.shutdown()

    @contextmanager
    def _leading(self, ids: Ids) -> Iterator[None]:
        now = _NEXT.set(ids)
        try:
            span = self._tracer.start_span("round", Context(), attributes=_ROUND.get())
        finally:
            _NEXT.reset(now)
        with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield
            except BaseException:
                span.set_status(Status(StatusCode.ERROR))
                raise

    @contextmanager
    def _under(self, ids: Ids) -> Iterator[None]:
        leader = SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        with use_span(NonRecordingSpan(leader), record_exception=False, set_status_on_exception=False):
            yield


_ROUND: ContextVar[Mapping[str, str | int]] = ContextVar("attributes", default={})  # noqa: B039 (never changed)
_NEXT: ContextVar[Ids | None] = ContextVar("ids", default=None)


class _Ids(RandomIdGenerator):
    """Random ids, but of the span that leads a round."""

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        ids = _NEXT.get()
        return ids[0] if ids else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """Return the id of a new span."""
        ids = _NEXT.get()
        return ids[1] if ids else super().generate_span_id()
