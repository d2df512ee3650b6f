"""A tiny collector of OpenTelemetry: it takes OTLP over HTTP on loopback and keeps the spans that came."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Facts = dict[str, str | int]


@dataclass(frozen=True)
class Kept:
    """One span that came: what it says, and what its process is."""

    span: Span
    resource: Facts

    @property
    def name(self) -> str:
        return str(self.span.name)

    @property
    def trace(self) -> str:
        return self.span.trace_id.hex()

    @property
    def said(self) -> Facts:
        return _facts(self.span.attributes)


@dataclass
class Collector:
    """What came.

    Attributes:
        endpoint: What ``OTEL_EXPORTER_OTLP_ENDPOINT`` is to be.
        paths: Of all requests.
        bodies: Likewise, as they came once unzipped.
    """

    endpoint: str = ""
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def spans(self) -> list[Kept]:
        return [
            Kept(span, _facts(resource.resource.attributes))
            for body in list(self.bodies)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def until(self, done: Callable[[list[Kept]], bool], seconds: float = 30) -> list[Kept]:
        """Wait for spans; return all that came."""
        end = time.monotonic() + seconds
        while not done(found := self.spans):
            assert time.monotonic() < end, sorted(kept.name for kept in found)
            time.sleep(0.1)
        return found


@contextmanager
def a_collector() -> Iterator[Collector]:
    kept = Collector()

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.paths.append(self.path)
            kept.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the standard library's name)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    kept.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()


def _facts(attributes: Iterable[KeyValue]) -> Facts:
    return {one.key: one.value.string_value or one.value.int_value for one in attributes}
