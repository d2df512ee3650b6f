"""Metrics of a site: what its studio may see of it, on loopback, without a drawing in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from client.agent import AgentService
from client.agent_socket import GRPC_OPTIONS, serve
from client.approvals import Approvals
from client.budget import Budget, Need
from client.budget_settings import BudgetSettings
from client.metrics import SiteMetrics
from client.policy import RuleError
from client.settings import SiteSettings
from client.settling import join, settle
from client.units import Unit
from common.adapter_schema import AdapterSchema, LoraModule
from common.errors import SettingsError
from common.paths import SiteHome
from common.proto import bottega_pb2 as pb
from common.proto import bottega_pb2_grpc as rpc
from common.settings import RunSettings, parse
from common.tracing import phase
from security.accounting import Steps
from security.authority import create_authority, save_certificate
from security.envelope import Kind, seal_body, seal_letter
from security.identity import Identity
from security.key_folder import open_vault
from security.names import Role, SpiffeId
from security.roster import Roster, sign_roster
from security.run_order import RunOrder
from tests.scraping import Scraped, families_of, values

FEDERATION = "metrics.test"
SERVER = Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "server"))
SITE = Identity.generate(SpiffeId(FEDERATION, Role.SITE, "rossi"))
STEPS = Steps(30.0, 1.0, 10)
UNITS = tuple(Unit(frozenset({f"{n:064x}"}), (n,)) for n in range(20))


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """A site that has joined."""
    place = SiteHome(tmp_path / "rossi")
    settle(place, SiteSettings(federation=FEDERATION, name="rossi", server="127.0.0.1:1", data=str(tmp_path)))
    join(place, SERVER.peer, sign_roster(Roster.first(SERVER.peer, 0), SERVER), b"")
    return place


def metrics_of(home: SiteHome, **more: object) -> SiteMetrics:
    told = {"federation": FEDERATION, "name": "rossi", "server": "127.0.0.1:1", "data": str(home.root), **more}
    return SiteMetrics(home, parse(SiteSettings, told, "site.toml"))


def scraped(metrics: SiteMetrics) -> Scraped:
    return values(families_of(metrics.registry))


def scraped_until(metrics: SiteMetrics, done: Callable[[Scraped], bool]) -> Scraped:
    """Scrape as Prometheus does, again and again: sums of a budget take their time."""
    end = time.monotonic() + 60
    while not done(told := scraped(metrics)):
        assert time.monotonic() < end, told
        time.sleep(0.05)
    return told


def a_status(doing: str = "waiting", **standing: object) -> pb.Status:
    return pb.Status(site="rossi", drawings=70, held_out=7, doing=doing, standing=pb.Standing(**standing))  # type: ignore[arg-type]


def test_before_the_agent_answers_it_is_told_to_be_getting_ready(home: SiteHome) -> None:
    metrics = metrics_of(home)
    told = scraped(metrics)
    assert told["bottega_agent_up",] == 0
    assert told["bottega_agent_info", FEDERATION, "rossi"] == 1
    assert not any(name in {"bottega_agent_drawings", "bottega_agent_busy"} for name, *_ in told)
    metrics.tell(a_status)
    assert scraped(metrics)["bottega_agent_up",] == 1


def test_what_the_status_tells_is_told(home: SiteHome) -> None:
    metrics = metrics_of(home)
    metrics.tell(lambda: a_status("r1 round 3", last_contact_ms=1_800_000_000_000, trouble="it does not answer"))
    told = scraped(metrics)
    assert (told["bottega_agent_busy",], told["bottega_agent_round", "r1"]) == (1, 3)
    assert (told["bottega_agent_drawings", "train"], told["bottega_agent_drawings", "held_out"]) == (70, 7)
    assert (told["bottega_agent_last_contact_seconds",], told["bottega_agent_trouble",]) == (1_800_000_000, 1)
    assert (told["bottega_agent_roster_version",], told["bottega_agent_readable", "roster"]) == (1, 1)
    assert told["bottega_agent_disk_free_bytes",] > 0
    assert told["process_open_fds",] > 0
    metrics.tell(a_status)
    told = scraped(metrics)
    assert (told["bottega_agent_busy",], told["bottega_agent_trouble",]) == (0, 0)
    assert not any(name in {"bottega_agent_round", "bottega_agent_last_contact_seconds"} for name, *_ in told)


def test_until_when_the_certificate_holds_is_told_when_there_is_one(home: SiteHome) -> None:
    assert ("bottega_agent_certificate_seconds_left",) not in scraped(metrics_of(home))
    save_certificate(home.certificate, create_authority(FEDERATION).certificate)
    assert scraped(metrics_of(home))["bottega_agent_certificate_seconds_left",] > 86_400


def test_what_was_spent_and_what_is_left_is_told_by_account_and_kept_up(home: SiteHome) -> None:
    budget = Budget(home.budget, open_vault(home), BudgetSettings())
    budget.reserve(Need("r1", STEPS), 1, UNITS[:10], int(time.time() * 1000))
    metrics = metrics_of(home)
    told = scraped_until(metrics, lambda told: ("bottega_agent_epsilon_spent", "0") in told)
    assert told["bottega_agent_epsilon_limit",] == 10
    assert told["bottega_agent_epsilon_spent", "0"] == pytest.approx(budget.spent()[0])
    assert told["bottega_agent_epsilon_left", "0"] == pytest.approx(10 - budget.spent()[0])
    budget.reserve(Need("r2", STEPS), 1, UNITS, int(time.time() * 1000))
    told = scraped_until(metrics, lambda told: ("bottega_agent_epsilon_spent", "1") in told)
    assert told["bottega_agent_epsilon_spent", "0"] == pytest.approx(budget.spent()[0])
    assert told["bottega_agent_epsilon_spent", "1"] == pytest.approx(budget.spent()[1])
    assert told["bottega_agent_epsilon_spent", "1"] < told["bottega_agent_epsilon_spent", "0"]
    assert {name: value for name, value in told.items() if name[0] == "bottega_agent_epsilon_of_run"} == {
        ("bottega_agent_epsilon_of_run", "r2"): pytest.approx(budget.spent("r2")[1])
    }


def test_a_site_that_spent_nothing_yet_tells_its_limit_and_makes_no_record(home: SiteHome) -> None:
    metrics = metrics_of(home, privacy={"epsilon": 3.0})
    scraped(metrics)
    assert scraped(metrics)["bottega_agent_epsilon_limit",] == 3
    assert not home.budget.exists()


def test_a_record_that_cannot_be_believed_is_said_to_be_so_and_costs_the_others_nothing(home: SiteHome) -> None:
    Budget(home.budget, open_vault(home), BudgetSettings()).reserve(
        Need("r1", STEPS), 1, UNITS, int(time.time() * 1000)
    )
    next(iter(sorted(home.budget.glob("*.entry")))).write_bytes(b"something else")
    told = scraped_until(metrics_of(home), lambda told: told["bottega_agent_readable", "budget"] == 0)
    assert not any(name.startswith("bottega_agent_epsilon") for name, *_ in told)
    assert told["bottega_agent_readable", "roster"] == 1


def test_runs_that_wait_for_the_studios_word_are_counted(home: SiteHome) -> None:
    metrics, approvals = metrics_of(home), Approvals(home.approvals)
    assert scraped(metrics)["bottega_agent_runs_waiting",] == 0
    schema = AdapterSchema((LoraModule("mid.attn.to_q", 6, 5, 2),))
    operator = SpiffeId(FEDERATION, Role.OPERATOR, "anna")
    for run in ("r1", "r2"):
        with pytest.raises(RuleError):
            approvals.hold(RunOrder(run, operator, RunSettings(quorum=1), "b" * 64, schema, ("rossi",), 0), until=0)
    assert scraped(metrics)["bottega_agent_runs_waiting",] == 2
    approvals.approve("r1")
    assert scraped(metrics)["bottega_agent_runs_waiting",] == 1


def test_tasks_are_counted_by_outcome_and_phases_with_their_seconds(home: SiteHome) -> None:
    metrics = metrics_of(home)
    before = scraped(metrics)
    with phase("task") as task, phase("train"):
        task.outcome = "trained"
    with pytest.raises(RuleError), phase("task"):
        raise RuleError("so many steps", rule="most_steps")
    told = scraped(metrics)

    def more(*name: str) -> float:
        return told[name] - before.get(name, 0)

    assert (more("bottega_agent_tasks_total", "trained"), more("bottega_agent_tasks_total", "rule")) == (1, 1)
    assert more("bottega_agent_phase_seconds_count", "task") == 2
    assert more("bottega_agent_phase_seconds_count", "train") == 1
    assert more("bottega_agent_phase_seconds_sum", "train") >= 0


class Answering(AgentService):
    """A service that answers as it is told to, and looks at nothing."""

    def __init__(self) -> None:
        self.kind: Kind | None = None

    def Answer(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: ARG002, N802
        if self.kind is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this is no envelope of ours")
        body = seal_body(b"tensors")
        letter = seal_letter(
            kind=self.kind, run="r1", round_number=1, in_reply_to=b"n" * 16, manifest=b"", body=body, sender=SITE,
            recipient=SERVER.peer, now_ms=int(time.time() * 1000),
        )  # fmt: skip
        return pb.Envelope(letter=letter, body=bytes(body.ciphertext))

    def GetStatus(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.Status:  # noqa: ARG002, N802
        return a_status()


def test_envelopes_and_their_bytes_are_counted_by_what_became_of_them(home: SiteHome) -> None:
    metrics, service = metrics_of(home), Answering()
    server = serve(metrics.counted(service), home.socket)
    sent = pb.Envelope(letter=b"l" * 30, body=b"b" * 70)
    got = 0
    try:
        with grpc.insecure_channel(f"unix:{home.socket}", options=GRPC_OPTIONS) as channel:
            stub = rpc.SiteAgentStub(channel)
            for kind in (Kind.UPDATE, Kind.UPDATE, Kind.REFUSAL):
                service.kind = kind
                answer = stub.Answer(sent, timeout=20)
                got += len(answer.letter) + len(answer.body)
            service.kind = None
            with pytest.raises(grpc.RpcError, match="no envelope of ours"):
                stub.Answer(sent, timeout=20)
            assert stub.GetStatus(pb.StatusRequest(), timeout=20).site == "rossi"
    finally:
        server.stop(1).wait()
    told = scraped(metrics)
    outcomes = {name[1]: value for name, value in told.items() if name[0] == "bottega_agent_envelopes_total"}
    assert outcomes == {"answered": 2, "refused": 1, "unbelieved": 1}
    assert (told["bottega_agent_bytes_total", "in"], told["bottega_agent_bytes_total", "out"]) == (400, got)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "studio.example"])  # noqa: S104 (it is refused)
def test_metrics_of_a_site_are_told_on_loopback_alone(home: SiteHome, host: str) -> None:
    with pytest.raises(SettingsError, match="on loopback alone"):
        metrics_of(home, metrics_host=host)


def test_a_site_tells_metrics_nowhere_unless_it_is_told_to(home: SiteHome) -> None:
    told = {"federation": FEDERATION, "name": "rossi", "server": "127.0.0.1:1", "data": "drawings"}
    assert parse(SiteSettings, told, "site.toml").metrics_port is None
    assert parse(SiteSettings, {**told, "metrics_port": 0}, "site.toml").metrics_port == 0
    with pytest.raises(SettingsError):
        parse(SiteSettings, {**told, "metrics_port": 70_000}, "site.toml")
