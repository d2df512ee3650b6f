"""Metrics for Prometheus: calls and bytes as they are counted, all else read when it is asked for.

What the store, the roster and the SuperLink know is never counted a second time here, so a restart loses none of it.
No label tells anything of drawings: there are names of sites, of calls and of checks.
"""

from __future__ import annotations

import datetime as dt
import shutil
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from flwr.superlink.routers.fleet.router import router as fleet_router
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.errors import BottegaError
from common.proto import registry_pb2 as pb
from security.authority import load_certificate
from server.certificates_seen import SeenCertificates
from server.figures import ROUND_SECONDS, Figures, read_figures
from server.gate import AnyHandler, Interceptor
from server.house import House
from server.presence import online_sites, standings

OTHER = "other"
"""The label of calls that there are none of: whoever makes up names must not make up time series."""

_GRPC_CALLS = {
    f"/{service.full_name}/{call.name}": call.name
    for service in pb.DESCRIPTOR.services_by_name.values()
    for call in service.methods
}
_FLEET_CALLS = {route.path: route.path.rpartition("/")[2] for route in fleet_router.routes}


class Metrics:
    """The metrics of one server.

    Args:
        house: Its home.
        control_address: Host and port of the SuperLink's Control API, on loopback.
    """

    def __init__(self, house: House, control_address: Callable[[], str]) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter(
            "bottega_calls", "Calls that were answered", ["port", "call", "outcome"], registry=self.registry
        )
        self.fleet_bytes = Counter(
            "bottega_fleet_bytes",
            "Bytes of bodies on the fleet port; updates come in by push-object",
            ["call", "direction"],
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self._seen = SeenCertificates()
        self.registry.register(HouseCollector(house, control_address, self._seen))

    def grpc(self, port: str) -> Interceptor:
        """Return what counts the calls of a gRPC port; it goes before every other interceptor."""
        return _CountedCalls(self.calls, port, self._seen)

    def fleet(self, app: ASGIApp) -> ASGIApp:
        """Return an application that counts the calls of the one behind the fleet port."""
        return _CountedFleet(app, self.calls, self.fleet_bytes)


class HouseCollector(Collector):
    """Reads the home of a server at each scrape. What cannot be read is left out, and ``bottega_readable`` says so."""

    def __init__(self, house: House, control_address: Callable[[], str], seen: SeenCertificates) -> None:
        self._house, self._control, self._seen = house, control_address, seen
        self._since = time.time()

    def describe(self) -> Iterable[Metric]:
        """Name nothing: nothing is read before the first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        yield GaugeMetricFamily("bottega_up", "1 while the server runs", value=1)
        yield GaugeMetricFamily("bottega_started_seconds", "When it came up, Unix time", value=self._since)
        readable = GaugeMetricFamily("bottega_readable", "Whether the last look at a part went well", labels=["part"])
        parts = {
            "store": self._store, "superlink": self._online, "roster": self._roster, "certificates": self._certificates,
            "disk": self._disk,
        }  # fmt: skip
        for name, read in parts.items():
            try:
                found = list(read())
            except (BottegaError, OSError):
                found = []
                readable.add_metric([name], 0)
            else:
                readable.add_metric([name], 1)
            yield from found
        yield readable

    def _store(self) -> Iterator[Metric]:
        figures = read_figures(self._house.home.database)
        members = GaugeMetricFamily("bottega_members", "Members and applicants", labels=["role", "status"])
        standing = standings(self._house.roster, figures.applicants)
        for (role, status), count in sorted(Tally((role, status) for role, _, status in standing).items()):
            members.add_metric([role, status], count)
        yield members
        yield from _counted(figures)
        yield from _underway(figures)

    def _online(self) -> Iterator[Metric]:
        online = online_sites(self._control(), self._house)
        yield GaugeMetricFamily("bottega_sites_online", "Sites whose SuperNode is connected", value=len(online))
        each = GaugeMetricFamily("bottega_site_online", "Whether a site's SuperNode is connected", labels=["site"])
        for site in sorted(peer.id.name for peer in self._house.sites.values()):
            each.add_metric([site], site in online)
        yield each

    def _roster(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("bottega_roster_version", "Of the roster", value=self._house.roster.version)

    def _certificates(self) -> Iterator[Metric]:
        left = GaugeMetricFamily(
            "bottega_certificate_seconds_left", "Until a certificate ends; negative afterwards", labels=["certificate"]
        )
        home, now = self._house.home, dt.datetime.now(dt.UTC)
        for name, path in (("server", home.certificate), ("authority", home.authority_certificate)):
            left.add_metric([name], (load_certificate(path).not_valid_after_utc - now).total_seconds())
        yield left
        members = GaugeMetricFamily(
            "bottega_member_certificate_seconds_left", "Of the certificate that a member called the registry with last",
            labels=["role", "member"],
        )  # fmt: skip
        roster = self._house.roster
        for who, until in self._seen.until().items():
            if who in roster:
                members.add_metric([str(who.role), who.name], (until - now).total_seconds())
        yield members

    def _disk(self) -> Iterator[Metric]:
        free = shutil.disk_usage(self._house.home.root).free
        yield GaugeMetricFamily("bottega_disk_free_bytes", "Of the home's disk", value=free)


def _counted(figures: Figures) -> Iterator[Metric]:
    """Yield what the store counts. They are gauges: a round that is tried again takes its verdicts back."""
    runs = GaugeMetricFamily("bottega_runs", "Runs", labels=["status"])
    rounds = GaugeMetricFamily("bottega_rounds", "Rounds", labels=["outcome"])
    verdicts = GaugeMetricFamily("bottega_verdicts", "Verdicts on answers", labels=["site", "check"])
    for status, count in sorted(figures.runs.items()):
        runs.add_metric([status], count)
    for outcome, count in sorted(figures.rounds.items()):
        rounds.add_metric([outcome], count)
    for (site, check), count in sorted(figures.verdicts.items()):
        verdicts.add_metric([site, check], count)
    lengths = figures.lengths
    buckets = [
        *((str(bound), count) for bound, count in zip(ROUND_SECONDS, lengths.up_to, strict=True)),
        ("+Inf", lengths.count),
    ]
    took = HistogramMetricFamily(
        "bottega_round_seconds", "How long rounds took", buckets=buckets, sum_value=lengths.total
    )
    phases = SummaryMetricFamily("bottega_phase_seconds", "How long the phases of rounds took", labels=["phase"])
    for phase, (count, seconds) in sorted(figures.phases.items()):
        phases.add_metric([phase], count_value=count, sum_value=seconds)
    yield from (runs, rounds, verdicts, took, phases)


def _underway(figures: Figures) -> Iterator[Metric]:
    """Yield where runs stand, for the runs that are running or the last one: a series for each run would pile up."""
    yield GaugeMetricFamily(
        "bottega_runs_pending", "Runs that are running and have not opened a round yet", value=figures.pending
    )
    awaited = GaugeMetricFamily(
        "bottega_sites_awaited", "Sites that were asked in the open round and have no verdict yet", labels=["run"]
    )
    for run in figures.underway:
        awaited.add_metric([run.run], run.awaited)
    yield awaited
    p_values = _by_site("bottega_p_value", "The detector's, in the last round that it judged")
    told = _by_site("bottega_told_epsilon", "What the run has cost the drawings that paid most, as the site told last")
    whole = _by_site("bottega_site_epsilon", "What the run has cost the site as a whole, where it is protected as one")
    for run in figures.underway:
        for family, values in ((p_values, run.p_values), (told, run.epsilons), (whole, run.site_epsilons)):
            for site, value in sorted(values.items()):
                family.add_metric([run.run, site], value)
    yield from (p_values, told, whole)


def _by_site(name: str, words: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, labels=["run", "site"])


class _CountedCalls(Interceptor):
    """Counts the calls of a gRPC server by name and outcome, and looks at the certificates of those that went well."""

    def __init__(self, calls: Counter, port: str, seen: SeenCertificates) -> None:
        self._calls, self._port, self._seen = calls, port, seen

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], AnyHandler | None], details: grpc.HandlerCallDetails
    ) -> AnyHandler | None:
        """Count the call when it has been answered."""
        handler, name = continuation(details), _GRPC_CALLS.get(details.method, OTHER)
        behaviour = handler.stream_unary if handler else None
        if handler is None or behaviour is None:  # not one of the gate's: it lets every call come as a stream
            return handler

        def counted(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:  # noqa: ANN401 (any record)
            outcome = grpc.StatusCode.OK
            try:
                answer = behaviour(messages, context)
            except BaseException:
                said: Any = context
                outcome = said.code() or grpc.StatusCode.CANCELLED
                raise
            else:
                self._seen.see(context)
                return answer
            finally:
                self._calls.labels(self._port, name, outcome.name).inc()

        return grpc.stream_unary_rpc_method_handler(counted, handler.request_deserializer, handler.response_serializer)


class _CountedFleet:
    """An ASGI application that counts calls by name and HTTP status, and the bytes of their bodies."""

    def __init__(self, app: ASGIApp, calls: Counter, carried: Counter) -> None:
        self._app, self._calls, self._carried = app, calls, carried

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = _FLEET_CALLS.get(scope["path"], OTHER)

        async def received() -> Message:
            message = await receive()
            self._carried.labels(name, "in").inc(len(message.get("body", b"")))
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._calls.labels("fleet", name, str(message["status"])).inc()
            self._carried.labels(name, "out").inc(len(message.get("body", b"")))
            await send(message)

        await self._app(scope, received, sent)
