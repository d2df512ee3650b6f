"""The site agent: the one process at a site that reads drawings and keys.

It takes envelopes on a UNIX socket that only its owner may open, believes a task only when the federation's server
signed it for this site and it was never answered before, and returns a sealed update or a sealed refusal.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import grpc

from client.approvals import Approvals
from client.ledger_book import LedgerBook
from client.work import Answer, Bench, Job
from common.errors import AgentError, BottegaError, EnvelopeError
from common.proto import bottega_pb2 as pb
from common.proto import bottega_pb2_grpc as rpc
from common.tracing import join_round, phase, slug
from security.envelope import Expectation, Kind, OpenedLetter, open_body, open_letter, seal_body, seal_letter
from security.files import replace
from security.header import parse
from security.identity import Identity
from security.replay import NonceBook, Remembered
from security.roster import Roster
from security.run_order import OrderError, RunOrder, open_order

log = logging.getLogger("bottega.agent")

TASK_LIFE_MS = 24 * 3_600_000
"""A task older than this is stale. Longer than any round: a site may have been busy with another run."""

MARGIN_S = 10.0
"""How long before a round's deadline waiting for the studio's word ends, so that the refusal still comes in time."""


class SiteAgent:
    """Opens tasks, has them worked on, seals the answers. Knows nothing of sockets.

    Args:
        identity: The site's own.
        roster: Returns who belongs to the federation, as the site knows it now: its server, whose tasks alone are
            believed, and the operators who may order runs.
        bench: Where the work is done.
        nonces: The file that remembers which tasks were answered.
        ledger: What the site keeps of the federation's ledger.
        refresh: Fetches the newest roster, for an operator whom the known one does not name yet.
        approvals: Where the studio's word on each new run is waited for; it is not asked when left out.
    """

    def __init__(
        self,
        identity: Identity,
        roster: Callable[[], Roster],
        bench: Bench,
        nonces: Path,
        ledger: LedgerBook,
        *,
        refresh: Callable[[], object] | None = None,
        approvals: Approvals | None = None,
    ) -> None:
        self.identity, self._roster, self._bench, self._ledger = identity, roster, bench, ledger
        self._file, self._refresh, self._approvals = nonces, refresh or (lambda: None), approvals
        self._book = NonceBook(TASK_LIFE_MS, _remembered(nonces))

    def answer(self, letter: bytes, body: bytes) -> tuple[bytes, memoryview]:
        """Return the letter and sealed body that answer a task.

        Raises:
            EnvelopeError: The envelope is not a fresh task from the federation's server to this site. Nothing is
                answered then, since there is nobody to answer to.
        """
        expect = Expectation(frozenset({Kind.TASK}), self.identity.id.federation, past_ms=TASK_LIFE_MS)
        server = self._roster().server.peer
        opened = open_letter(letter, opener=self.identity, sender=server, expect=expect, now_ms=_now_ms())
        self._take(opened)
        with join_round(opened.header.run, opened.header.round_number):
            kind, manifest, plain = self._worked(opened, body)
            with phase("seal", bytes=len(plain)):
                sealed = seal_body(plain)
                self._ledger.sent(opened.header.run, opened.header.round_number, sealed.sha256)
                reply = seal_letter(
                    kind=kind,
                    run=opened.header.run,
                    round_number=opened.header.round_number,
                    in_reply_to=opened.header.nonce,
                    manifest=manifest,
                    body=sealed,
                    sender=self.identity,
                    recipient=server,
                    now_ms=_now_ms(),
                )
        return reply, sealed.ciphertext

    def _take(self, opened: OpenedLetter) -> None:
        """Remember the task before any work is done: after a crash it is lost, never answered twice."""
        self._book.take(opened.header, _now_ms())
        replace(self._file, [json.dumps(asdict(self._book.remembered())).encode()], error=AgentError)

    def _worked(self, opened: OpenedLetter, body: bytes) -> tuple[Kind, bytes, bytes]:
        header = opened.header
        log.info("round %d of run %s: task taken", header.round_number, header.run)
        try:
            answer = self._attempt(opened, lambda: open_body(opened, body))
        except BottegaError as why:
            log.warning("round %d of run %s: refused: %s", header.round_number, header.run, why)
            return Kind.REFUSAL, pb.Refusal(reason=str(why), check=slug(why)).SerializeToString(), b""
        log.info("round %d of run %s: answered, %d bytes", header.round_number, header.run, len(answer.body))
        return Kind.UPDATE, answer.manifest.SerializeToString(), answer.body

    def _attempt(self, opened: OpenedLetter, body: Callable[[], memoryview]) -> Answer:
        with phase("task") as whole:
            try:
                task = parse(pb.Task, opened.manifest, "task", error=AgentError)
                with phase("witness"):
                    line = self._ledger.see(task.ledger)
                job = self._job(opened, task)
                self._bench.check(job.order)  # nobody is asked about a run that the rules forbid
                self._hold(job.order, opened.header.created_at_ms)
                answer = self._bench.answer(job, body).with_cosignature(line)
            except BottegaError:
                raise
            except Exception as cause:  # whatever broke, what leaves is a refusal that tells nothing of the drawings
                log.exception("the work on a task broke")
                raise AgentError("the work on the task broke at the site", got=type(cause).__name__) from None
            whole.outcome = "trained" if job.work == pb.WORK_TRAIN else "looked"
            return answer

    @phase("hold")
    def _hold(self, order: RunOrder, asked_at_ms: int) -> None:
        """Wait for the studio's word on the run, if the studio wants to be asked."""
        if self._approvals is not None:
            left = asked_at_ms / 1000 + order.settings.deadline_s - MARGIN_S - time.time()
            self._approvals.hold(order, time.monotonic() + left)

    def _job(self, opened: OpenedLetter, task: pb.Task) -> Job:
        header = opened.header
        if task.work not in {pb.WORK_TRAIN, pb.WORK_EVALUATE}:
            raise AgentError("the task asks for no known work", got=int(task.work), expected="to train or to measure")
        order = self._believed(task.order)
        order.check_asks(self.identity.id, header.run, header.round_number)
        if (task.work == pb.WORK_TRAIN) != (header.round_number <= order.settings.rounds):
            raise AgentError(
                "the task asks for other work than the order has for its round", got=f"round {header.round_number}",
                expected=f"training up to round {order.settings.rounds}, and then a last look",
            )  # fmt: skip
        told = task.told if task.HasField("told") else None
        return Job(order, task.work, header.round_number, told, tuple(task.candidates))

    def _believed(self, signed: bytes) -> RunOrder:
        try:
            return open_order(signed, self._roster())
        except OrderError:
            self._refresh()  # the operator may have joined, or gone over to new keys, since the last look
            return open_order(signed, self._roster())


class AgentService(rpc.SiteAgentServicer):
    """The agent on gRPC."""

    def __init__(self, agent: SiteAgent, status: Callable[[], pb.Status]) -> None:
        self._agent, self._status = agent, status

    def Answer(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802 (the name of the call)
        """Answer one envelope; an envelope that is not to be believed is refused with its error."""
        try:
            letter, body = self._agent.answer(request.letter, request.body)
        except (EnvelopeError, AgentError) as why:
            log.warning("an envelope was refused: %s", why)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(why))
        return pb.Envelope(letter=letter, body=bytes(body))

    def GetStatus(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.Status:  # noqa: ARG002, N802
        """Say what the agent is doing."""
        return self._status()


def _remembered(file: Path) -> Remembered:
    """Return what the file remembers; without a readable file, everything sealed before now is refused."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return Remembered(int(kept["horizon_ms"]), tuple((str(s), str(n), int(c)) for s, n, c in kept["nonces"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Remembered(_now_ms(), ())


def _now_ms() -> int:
    return int(time.time() * 1000)
