"""The site agent: it believes a task only if the server signed it for this site, now, and only once."""

from __future__ import annotations

import datetime as dt
import json
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.agent import AgentService, SiteAgent
from client.agent_socket import get_status, is_alive, serve
from client.approvals import Approvals
from client.cli import site_app
from client.ledger_book import LedgerBook
from client.policy import HouseRules, RuleError, check_rules
from client.work import Answer, Bench, Job, asked
from common.adapter_schema import AdapterSchema, LoraModule
from common.adapters import pack, unpack
from common.errors import AdapterError, AgentError, BaseModelError, BottegaError, EnvelopeError
from common.paths import SiteHome
from common.proto import bottega_pb2 as pb
from common.proto import bottega_pb2_grpc as rpc
from common.settings import LoraSettings, PrivacySettings, RunSettings
from common.tracing import slug
from security.checkpoint import Checkpoint, sign_checkpoint
from security.envelope import (
    Expectation,
    Kind,
    OpenedLetter,
    SealedBody,
    open_body,
    open_letter,
    seal_body,
    seal_letter,
)
from security.identity import Identity
from security.merkle import EMPTY_ROOT
from security.names import Role, SpiffeId
from security.roster import Roster
from security.run_order import RunOrder, sign_order

SERVER = Identity.generate(SpiffeId("fed.example", Role.SERVER, "server"))
SITE = Identity.generate(SpiffeId("fed.example", Role.SITE, "rossi"))
OTHER = Identity.generate(SpiffeId("fed.example", Role.SITE, "bianchi"))
OPERATOR = Identity.generate(SpiffeId("fed.example", Role.OPERATOR, "anna"))
LEFT = Identity.generate(SpiffeId("fed.example", Role.OPERATOR, "left"))
ROSTER = (
    Roster.first(SERVER.peer, 0)
    .with_member(OPERATOR.peer, b"", 0)
    .with_member(LEFT.peer, b"", 0)
    .with_revocation(LEFT.id, "left", 0)
)
SCHEMA = AdapterSchema((LoraModule("mid.attn.to_q", 6, 5, 2),))
BASE = "b" * 64
EMPTY = sign_checkpoint(Checkpoint("fed.example/bottega", 0, EMPTY_ROOT), SERVER.signing)
"""The federation's ledger before anything was written."""
SECRET = "a pencil drawing of grandmother, scan_0042.png"


class Desk(Bench):
    """A bench without a model. It checks what a bench checks, counts what it is asked, and breaks when told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.breaks: Exception | None = None

    def check(self, order: RunOrder) -> None:
        check_rules(HouseRules(most_steps=20), asked(order), dt.datetime.now(dt.UTC))

    def answer(
        self,
        job: Job,
        open_body: Callable[[], memoryview],
    ) -> Answer:
        self.asked += 1
        order = job.order
        if order.base_digest != BASE:
            raise BaseModelError("the run is for another base model", got=BASE[:4], expected=order.base_digest[:4])
        if order.schema != SCHEMA:
            raise AdapterError("the order's adapter schema is not the one that its settings make on this base")
        unpack(open_body(), SCHEMA, "both")
        if self.breaks is not None:
            raise self.breaks
        return Answer(pb.Update(examples=5), b"the tensors")


@dataclass(frozen=True)
class Task:
    """A task, every part of it open to change."""

    sender: Identity = SERVER
    recipient: Identity = SITE
    kind: Kind = Kind.TASK
    base: str = BASE
    schema: AdapterSchema = SCHEMA
    steps: int = 12
    rounds: int = 6
    round_number: int = 2
    run: str = "r1"
    work: pb.Work.ValueType = pb.WORK_TRAIN
    operator: Identity = OPERATOR
    sites: tuple[str, ...] = ("rossi",)
    age_ms: int = -1
    manifest: bytes | None = None
    checkpoint: bytes = EMPTY

    def sealed(self) -> tuple[bytes, bytes]:
        body: SealedBody = seal_body(pack(np.zeros(SCHEMA.numel("both"), np.float32), SCHEMA, "both", "fp32"))
        settings = RunSettings(
            quorum=1, rounds=self.rounds, encoding="fp32", lora=LoraSettings(rank=2),
            privacy=PrivacySettings(steps=self.steps),
        )  # fmt: skip
        order = RunOrder(self.run, self.operator.id, settings, self.base, self.schema, self.sites, 0)
        manifest = pb.Task(
            work=self.work, order=sign_order(order, self.operator), ledger=pb.Shown(checkpoint=self.checkpoint)
        ).SerializeToString()
        letter = seal_letter(
            kind=self.kind, run="r1", round_number=self.round_number,
            in_reply_to=b"" if self.kind is Kind.TASK else b"n" * 16,
            manifest=manifest if self.manifest is None else self.manifest, body=body, sender=self.sender,
            recipient=self.recipient.peer, now_ms=now_ms() - self.age_ms,
        )  # fmt: skip
        return letter, bytes(body.ciphertext)


def now_ms() -> int:
    return int(time.time() * 1000)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def nonces(tmp_path: Path) -> Path:
    """As a site that has just settled in leaves it."""
    file = tmp_path / "nonces.json"
    file.write_text(json.dumps({"horizon_ms": now_ms() - 10 * 24 * 3_600_000, "nonces": []}))
    return file


@pytest.fixture
def agent(desk: Desk, nonces: Path) -> SiteAgent:
    return an_agent(desk, nonces)


def an_agent(desk: Desk, nonces: Path, approvals: Approvals | None = None) -> SiteAgent:
    """Return an agent whose book of the ledger lies beside its memory of tasks."""
    book = LedgerBook(nonces.with_name("witness"), SITE, lambda: SERVER.signing.public)
    return SiteAgent(SITE, lambda: ROSTER, desk, nonces, book, approvals=approvals)


def opened(answer: tuple[bytes, memoryview]) -> tuple[OpenedLetter, bytes]:
    expect = Expectation(frozenset({Kind.UPDATE, Kind.REFUSAL}), "fed.example")
    letter = open_letter(answer[0], opener=SERVER, sender=SITE.peer, expect=expect, now_ms=now_ms())
    return letter, bytes(open_body(letter, answer[1]))


def refusal_of(agent: SiteAgent, task: Task) -> pb.Refusal:
    letter, body = opened(agent.answer(*task.sealed()))
    assert letter.header.kind is Kind.REFUSAL
    assert body == b""
    return pb.Refusal.FromString(letter.manifest)


def test_an_honest_task_is_answered_with_an_update(agent: SiteAgent, desk: Desk) -> None:
    letter, body = opened(agent.answer(*Task().sealed()))
    assert (letter.header.kind, letter.header.run, letter.header.round_number) == (Kind.UPDATE, "r1", 2)
    assert pb.Update.FromString(letter.manifest).examples == 5
    assert body == b"the tensors"
    assert desk.asked == 1


STRANGER = Identity.generate(SERVER.id)
REFUSED = {
    "signed by a stranger": Task(sender=replace(SERVER, signing=STRANGER.signing)),
    "from another server": Task(sender=Identity.generate(SpiffeId("fed.example", Role.SERVER, "second"))),
    "from another federation": Task(
        sender=Identity.generate(SpiffeId("else.example", Role.SERVER, "server")),
        recipient=Identity.generate(SpiffeId("else.example", Role.SITE, "rossi")),
    ),
    "for another site": Task(recipient=OTHER),
    "for this name but another key": Task(recipient=Identity.generate(SITE.id)),
    "no task": Task(sender=OTHER, recipient=SERVER, kind=Kind.UPDATE),
    "stale": Task(age_ms=25 * 3_600_000),
    "from the future": Task(age_ms=-3_600_000),
}


@pytest.mark.parametrize("task", REFUSED.values(), ids=REFUSED.keys())
def test_a_foreign_misaddressed_or_stale_task_is_refused_and_no_work_is_done(
    task: Task, agent: SiteAgent, desk: Desk, nonces: Path
) -> None:
    before = nonces.read_bytes()
    with pytest.raises(EnvelopeError):
        agent.answer(*task.sealed())
    assert desk.asked == 0
    assert nonces.read_bytes() == before


def test_a_changed_byte_anywhere_in_the_letter_is_refused(agent: SiteAgent, desk: Desk) -> None:
    letter, body = Task().sealed()
    for at in range(0, len(letter), 37):
        with pytest.raises(EnvelopeError):
            agent.answer(letter[:at] + bytes([letter[at] ^ 0x20]) + letter[at + 1 :], body)
    assert desk.asked == 0


@given(st.binary(max_size=300), st.binary(max_size=50))
@settings(max_examples=80)
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, letter: bytes, body: bytes) -> None:
    desk = Desk()
    agent = an_agent(desk, tmp_path_factory.getbasetemp() / "nonces.json")
    with pytest.raises(EnvelopeError):
        agent.answer(letter, body)
    assert desk.asked == 0


def test_a_replayed_task_is_refused(agent: SiteAgent, desk: Desk) -> None:
    letter, body = Task().sealed()
    agent.answer(letter, body)
    with pytest.raises(EnvelopeError, match="this is a replay"):
        agent.answer(letter, body)
    assert desk.asked == 1


def test_a_replayed_task_is_refused_after_a_restart_too(agent: SiteAgent, desk: Desk, nonces: Path) -> None:
    letter, body = Task().sealed()
    agent.answer(letter, body)
    again = an_agent(desk, nonces)
    with pytest.raises(EnvelopeError, match="this is a replay"):
        again.answer(letter, body)
    again.answer(*Task().sealed())
    assert desk.asked == 2


def test_a_task_whose_work_broke_is_not_answered_a_second_time(agent: SiteAgent, desk: Desk, nonces: Path) -> None:
    letter, body = Task().sealed()
    desk.breaks = ValueError("once")
    agent.answer(letter, body)
    desk.breaks = None
    with pytest.raises(EnvelopeError, match="this is a replay"):
        an_agent(desk, nonces).answer(letter, body)


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b'{"horizon_ms": 0}', b'{"horizon_ms": "x", "nonces": []}', b"\xff\xfe", None,
     b'{"horizon_ms": 0, "nonces": [["a", "b"]]}', b'{"horizon_ms": 0, "nonces": 3}'],
)  # fmt: skip
def test_with_a_damaged_memory_everything_sealed_before_now_is_refused(
    damage: bytes | None, desk: Desk, nonces: Path
) -> None:
    early = Task(age_ms=50).sealed()
    nonces.unlink() if damage is None else nonces.write_bytes(damage)
    agent = an_agent(desk, nonces)
    with pytest.raises(EnvelopeError, match="too old to tell"):
        agent.answer(*early)
    assert desk.asked == 0
    agent.answer(*Task(age_ms=-1000).sealed())  # sealed after
    assert desk.asked == 1


def test_the_memory_of_tasks_is_for_its_owner_alone(agent: SiteAgent, nonces: Path) -> None:
    agent.answer(*Task().sealed())
    assert stat.S_IMODE(nonces.stat().st_mode) == 0o600
    assert len(json.loads(nonces.read_text())["nonces"]) == 1


def test_a_task_that_cannot_be_remembered_is_not_worked_on(desk: Desk, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    agent = an_agent(desk, gone / "nonces.json")
    with pytest.raises(BottegaError):
        agent.answer(*Task(age_ms=-1000).sealed())
    assert desk.asked == 0


@pytest.mark.parametrize(
    ("task", "check", "words"),
    [
        (Task(steps=21), "rule", "got 21; expected at most 20"),
        (Task(base="c" * 64), "base-model", "got bbbb; expected cccc"),
        (Task(schema=SCHEMA.with_rank(3)), "adapter", "adapter schema"),
        (Task(operator=LEFT), "order", "operator cannot be believed: this member was revoked"),
        (Task(operator=Identity.generate(LEFT.id)), "order", "operator cannot be believed"),
        (Task(operator=Identity.generate(OPERATOR.id)), "order", "not signed by the operator that it names"),
        (Task(sites=("bianchi",)), "order", "does not ask this site"),
        (Task(run="another"), "order", "of another run"),
        (Task(rounds=1, round_number=3), "order", "has fewer rounds"),
        (Task(work=pb.WORK_UNSPECIFIED), "agent", "asks for no known work"),
    ],
    ids=[
        "house rules",
        "base digest",
        "schema",
        "a revoked operator",
        "a stranger by a revoked name",
        "another key of the operator",
        "not this site",
        "another run",
        "a round too many",
        "unknown work",
    ],
)
def test_a_task_that_a_site_will_not_do_comes_back_as_a_sealed_refusal_with_its_slug(
    task: Task, check: str, words: str, agent: SiteAgent
) -> None:
    refusal = refusal_of(agent, task)
    assert refusal.check == check
    assert words in refusal.reason


def test_a_task_with_another_body_comes_back_as_a_sealed_refusal(agent: SiteAgent) -> None:
    letter, _ = Task().sealed()
    _, other = Task().sealed()
    answer, _body = opened(agent.answer(letter, other))
    assert pb.Refusal.FromString(answer.manifest).check == "envelope"


def test_a_task_with_a_manifest_that_is_none_comes_back_as_a_sealed_refusal(agent: SiteAgent) -> None:
    assert refusal_of(agent, Task(manifest=b"\xff\xff\xff")).check == "agent"


@pytest.mark.parametrize("error", [ValueError, KeyError, MemoryError, RecursionError, UnicodeError])
def test_whatever_breaks_at_a_site_only_the_kind_of_the_error_leaves_it(
    error: type[Exception], agent: SiteAgent, desk: Desk
) -> None:
    desk.breaks = error(SECRET)
    answer = agent.answer(*Task().sealed())
    letter, body = opened(answer)
    refusal = pb.Refusal.FromString(letter.manifest)
    assert (refusal.check, letter.header.kind) == ("agent", Kind.REFUSAL)
    assert error.__name__ in refusal.reason
    for word in SECRET.replace(",", "").split():
        assert len(word) < 4 or word.encode() not in letter.manifest + body


def test_errors_have_slugs() -> None:
    found = [slug(e) for e in (BaseModelError("x"), RuleError("x", rule="ask"), AdapterError("x"))]
    assert found == ["base-model", "rule", "adapter"]


@pytest.fixture
def service(agent: SiteAgent) -> AgentService:
    return AgentService(agent, lambda: pb.Status(site="rossi", drawings=7))


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s") / "agent.sock"


@pytest.fixture
def serving(service: AgentService, path: Path) -> Iterator[Path]:
    server = serve(service, path)
    yield path
    server.stop(None).wait()


def test_the_socket_is_for_its_owner_alone(serving: Path) -> None:
    assert stat.S_ISSOCK(serving.stat().st_mode)
    assert stat.S_IMODE(serving.stat().st_mode) == 0o600


def test_the_agent_says_what_it_is_doing(serving: Path) -> None:
    status = get_status(serving)
    assert status is not None
    assert (status.site, status.drawings) == ("rossi", 7)


def test_over_the_socket_an_envelope_is_answered_and_a_replay_refused(serving: Path, desk: Desk) -> None:
    letter, body = Task().sealed()
    with grpc.insecure_channel(f"unix:{serving}") as channel:
        stub = rpc.SiteAgentStub(channel)
        answer = stub.Answer(pb.Envelope(letter=letter, body=body), timeout=10)
        assert opened((answer.letter, memoryview(answer.body)))[1] == b"the tensors"
        with pytest.raises(grpc.RpcError) as caught:
            stub.Answer(pb.Envelope(letter=letter, body=body), timeout=10)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "replay" in str(caught.value.details())
    assert desk.asked == 1


def test_a_socket_left_over_from_a_crash_is_replaced(service: AgentService, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    assert not is_alive(path)
    server = serve(service, path)
    try:
        assert is_alive(path)
    finally:
        server.stop(None).wait()


def test_a_second_agent_on_a_live_socket_is_refused_and_the_first_goes_on(service: AgentService, serving: Path) -> None:
    with pytest.raises(AgentError, match="another agent already serves this home"):
        serve(service, serving)
    assert is_alive(serving)


def test_too_long_a_path_is_a_clear_error(service: AgentService, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"too long for a UNIX socket; got 1[0-9]+ bytes; expected at most 107"):
        serve(service, Path("/tmp") / ("x" * 120) / "agent.sock")  # noqa: S108 (nothing is made there)


def test_no_agent_is_alive_where_there_is_no_socket(tmp_path: Path) -> None:
    assert get_status(tmp_path / "agent.sock") is None


def test_the_status_of_a_site_names_the_runs_that_wait_and_how_to_let_them(
    service: AgentService, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = SiteHome(tmp_path_factory.mktemp("h"))
    order = RunOrder("r7", OPERATOR.id, RunSettings(quorum=1), BASE, SCHEMA, ("rossi",), 0)
    with pytest.raises(RuleError):
        Approvals(home.approvals).hold(order, time.monotonic())
    server = serve(service, home.socket)
    try:
        asked = CliRunner().invoke(site_app, ["status", "--json", "--home", str(home.root)])
        Approvals(home.approvals).approve("r7")
        approved = CliRunner().invoke(site_app, ["status", "--json", "--home", str(home.root)])
    finally:
        server.stop(None).wait()
    assert json.loads(asked.stdout)["waiting_runs"] == ["r7"]
    assert f"Next: bottega site approve-run r7 --home {home.root}" in asked.stderr
    assert json.loads(approved.stdout)["waiting_runs"] == []
    assert "Next" not in approved.stderr


def test_in_a_folder_that_is_for_a_group_the_socket_is_too(service: AgentService, path: Path) -> None:
    path.parent.chmod(0o750)
    server = serve(service, path)
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert path.stat().st_gid == path.parent.stat().st_gid
    finally:
        server.stop(None).wait()
