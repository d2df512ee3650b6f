"""Metrics of a site for its studio's Prometheus, on loopback alone.

Nothing here names a drawing or tells of one; the numbers are those that ``bottega site status`` and ``bottega site
budget`` tell in the same house. They stay there: how many drawings there are and how long training took are what
private training hides from the server.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator

import grpc
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from client.accounts import Accounts
from client.agent import AgentService
from client.approvals import Approvals
from client.keeper import certificate_until_ms
from client.settings import SiteSettings
from client.settling import known_roster
from common.errors import BottegaError
from common.paths import SiteHome
from common.proto import bottega_pb2 as pb
from common.proto import bottega_pb2_grpc as rpc
from common.tracing import PHASES, Took
from security.envelope import peek_header
from security.header import Kind

TASK = "task"
"""The phase that is a whole task; how it ends is the task's outcome."""


class SiteMetrics:
    """The metrics of one site.

    Args:
        home: Its home.
        settings: Its settings.
    """

    def __init__(self, home: SiteHome, settings: SiteSettings) -> None:
        self.registry = CollectorRegistry()
        self._envelopes = Counter(
            "bottega_agent_envelopes", "Envelopes that came, by what became of them", ["outcome"],
            registry=self.registry,
        )  # fmt: skip
        self._bytes = Counter(
            "bottega_agent_bytes", "Bytes of envelopes: in, tasks; out, answers", ["direction"], registry=self.registry
        )
        ProcessCollector(registry=self.registry)
        self._site = SiteCollector(home, settings)
        self.registry.register(self._site)

    def tell(self, status: Callable[[], pb.Status]) -> None:
        """Tell from now on that the agent is up, and what it says of itself."""
        self._site.status = status

    def counted(self, service: AgentService) -> rpc.SiteAgentServicer:
        """Return an agent's service that counts what comes and goes."""
        return _Counted(service, self._envelopes, self._bytes)


class SiteCollector(Collector):
    """Reads the home of a site at each scrape. What cannot be read is left out, and a metric says so.

    Attributes:
        status: What the agent says of itself; None before it answers.
    """

    def __init__(self, home: SiteHome, settings: SiteSettings) -> None:
        self._home, self._settings = home, settings
        self._accounts, self._approvals = Accounts(home, settings.privacy), Approvals(home.approvals)
        self._since = time.time()
        self.status: Callable[[], pb.Status] | None = None

    def describe(self) -> Iterable[Metric]:
        """Name nothing: nothing is read before the first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        status = self.status() if self.status else None
        yield _gauge("up", "1 while the agent answers; 0 while it gets ready", status is not None)
        yield _gauge("started_seconds", "When it was started, Unix time", self._since)
        info = GaugeMetricFamily("bottega_agent_info", "Which site this is", labels=["federation", "site"])
        info.add_metric([self._settings.federation, self._settings.name], 1)
        yield info
        if status is not None:
            yield from _doing(status)
        yield from _work(PHASES.told())
        yield from self._home_figures()

    def _home_figures(self) -> Iterator[Metric]:
        readable = GaugeMetricFamily(
            "bottega_agent_readable", "Whether the last look at a part went well", labels=["part"]
        )
        parts = {
            "roster": self._roster, "certificate": self._certificate, "budget": self._epsilon, "runs": self._waiting,
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

    def _roster(self) -> Iterator[Metric]:
        yield _gauge("roster_version", "Of the roster that the site accepted last", known_roster(self._home).version)

    def _certificate(self) -> Iterator[Metric]:
        left = GaugeMetricFamily(
            "bottega_agent_certificate_seconds_left", "Until the site's certificate ends; negative afterwards"
        )
        if until_ms := certificate_until_ms(self._home):
            left.add_metric([], until_ms / 1000 - time.time())
        yield left

    def _epsilon(self) -> Iterator[Metric]:
        accounts, limit = self._accounts.latest(), self._settings.privacy.epsilon
        spent = GaugeMetricFamily(
            "bottega_agent_epsilon_spent", "Spent for good on the drawings of an account; what is reserved is spent",
            labels=["account"],
        )  # fmt: skip
        left = GaugeMetricFamily("bottega_agent_epsilon_left", "What an account has left", labels=["account"])
        last = GaugeMetricFamily(
            "bottega_agent_epsilon_of_run", "What the last run has cost the drawings that paid most", labels=["run"]
        )
        for account in accounts or ():
            spent.add_metric([str(account.cohort)], account.spent)
            left.add_metric([str(account.cohort)], max(0.0, limit - account.spent))
        run = next((run for account in accounts or () for run in reversed(account.by_run)), None)
        if run is not None:
            costs = [account.by_run[run][1] for account in accounts or () if run in account.by_run]
            last.add_metric([run], max(costs))
        yield from (_gauge("epsilon_limit", "What may ever be spent on a drawing", limit), spent, left, last)

    def _waiting(self) -> Iterator[Metric]:
        waiting = sum(asked.status == "waiting" for asked in self._approvals.list())
        yield _gauge("runs_waiting", "Runs whose tasks wait for the studio's word", waiting)

    def _disk(self) -> Iterator[Metric]:
        yield _gauge("disk_free_bytes", "Of the home's disk", shutil.disk_usage(self._home.root).free)


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"bottega_agent_{name}", words, value=float(value))


def _doing(status: pb.Status) -> Iterator[Metric]:
    run, _, number = status.doing.rpartition(" round ")
    busy = number.isdecimal()
    yield _gauge("busy", "1 while it works on a task", busy)
    doing = GaugeMetricFamily("bottega_agent_round", "The round that it works on, while it does", labels=["run"])
    if busy:
        doing.add_metric([run], int(number))
    yield doing
    drawings = GaugeMetricFamily("bottega_agent_drawings", "Drawings: to train on, and held out", labels=["split"])
    drawings.add_metric(["train"], status.drawings)
    drawings.add_metric(["held_out"], status.held_out)
    yield drawings
    contact = GaugeMetricFamily(
        "bottega_agent_last_contact_seconds", "When the registry was last reached, Unix time; none since the start"
    )
    if status.standing.last_contact_ms:
        contact.add_metric([], status.standing.last_contact_ms / 1000)
    yield contact
    yield _gauge("trouble", "1 when the last look at the registry failed", bool(status.standing.trouble))


def _work(took: dict[tuple[str, str], Took]) -> Iterator[Metric]:
    tasks = CounterMetricFamily(
        "bottega_agent_tasks", "Tasks: trained, looked, or the kind of error that a refusal tells", labels=["outcome"]
    )
    phases = SummaryMetricFamily("bottega_agent_phase_seconds", "How long the phases of tasks took", labels=["phase"])
    for (name, outcome), one in sorted(took.items()):
        if name == TASK:
            tasks.add_metric([outcome], one.count)
    for phase in sorted({name for name, _ in took}):
        all_of_it = [one for (name, _), one in took.items() if name == phase]
        phases.add_metric([phase], sum(one.count for one in all_of_it), sum(one.seconds for one in all_of_it))
    yield from (tasks, phases)


class _Counted(rpc.SiteAgentServicer):
    """An agent's service; counts envelopes and their bytes."""

    def __init__(self, service: AgentService, envelopes: Counter, carried: Counter) -> None:
        self._service, self._envelopes, self._carried = service, envelopes, carried

    def Answer(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802 (the name of the call)
        """Answer one envelope."""
        self._carried.labels("in").inc(len(request.letter) + len(request.body))
        outcome = "unbelieved"
        try:
            answer = self._service.Answer(request, context)
            outcome = "answered" if peek_header(answer.letter).kind is Kind.UPDATE else "refused"
            self._carried.labels("out").inc(len(answer.letter) + len(answer.body))
            return answer
        finally:
            self._envelopes.labels(outcome).inc()

    def GetStatus(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.Status:  # noqa: N802
        """Say what the agent is doing."""
        return self._service.GetStatus(request, context)
