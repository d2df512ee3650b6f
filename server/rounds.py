"""The round loop: tasks go out sealed, answers come in one by one, a round closes, the adapter moves on.

A :class:`flwr.serverapp.strategy.Strategy` whose ``start`` is its own: Flower's collects every reply in memory and
waits for all of them; this one admits and spools each as it arrives, closes at quorum and deadline, and goes on
after the last closed round when it is started again.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common.adapter_schema import Adapter, AdapterSchema, join
from common.adapters import pack
from common.candidates import pack_candidates
from common.courier_records import from_envelope, to_envelope
from common.errors import BottegaError, RunError
from common.proto import bottega_pb2 as pb
from common.quantise import Flat
from common.settings import RunSettings
from security.admission import ANSWER_LIFE_MS, AdmittedUpdate, Check, Refused, Terms, admit
from security.envelope import Kind, SealedBody, peek_header, seal_body, seal_letter
from security.identity import Peer
from security.replay import NonceBook
from security.run_order import RunOrder
from server.aggregation import Round, aggregate
from server.cross_validation import Harm
from server.examination import Closed, Examination
from server.house import House
from server.judging import REMEMBERED, JudgingFiles, Sitting, import_ahead
from server.pulling import POLL_S, Pulls, Unreadable
from server.spool import Spool
from server.start import fresh_state
from server.state import RunState, RunStates
from server.store import Store, Verdict
from server.verdicts import record_harm, record_judgement, refusal

if TYPE_CHECKING:
    from security.judgement import Judgement
    from server.site_privacy import SiteMechanism

log = logging.getLogger("bottega.rounds")

REVOKED = "the site was revoked after it was asked"

GRACE_S = 10.0
"""What the last sites get at the least, once a quorum has answered."""


@dataclass(frozen=True)
class Run:
    """Everything about one run that does not change between rounds.

    Args:
        order: What an operator asks.
        signed: The exact bytes of the signed order: sites are shown them in every task.
    """

    order: RunOrder
    signed: bytes
    house: House
    store: Store

    @property
    def id(self) -> str:
        """The run's id."""
        return self.order.run

    @property
    def settings(self) -> RunSettings:
        """What the operator asked for."""
        return self.order.settings

    @property
    def schema(self) -> AdapterSchema:
        """The adapter's layers and ranks."""
        return self.order.schema

    @property
    def states(self) -> RunStates:
        """What its rounds left."""
        return RunStates(self.house.home, self.id, self.house.keys.vault)

    @property
    def judging_files(self) -> JudgingFiles:
        """What its detector knows."""
        return JudgingFiles(self.house.home.run(self.id), self.id, self.house.keys.vault)

    @property
    def sites(self) -> dict[bytes, Peer]:
        """The sites that the order asks and that are active now, by the public key of their SuperNode."""
        return {key: site for key, site in self.house.sites.items() if site.id.name in self.order.sites}


@dataclass(frozen=True)
class Asked:
    """One site that was sent a task."""

    terms: Terms
    node: int


@dataclass(frozen=True)
class Work:
    """The admitted updates of one round, in its spool.

    Attributes:
        spool: Where.
        terms: Under which they were admitted, by site.
        shares: What each is multiplied by; those that are left out are not in it.
    """

    spool: Spool
    terms: Mapping[str, Terms]
    shares: Mapping[str, float]

    def updates(self, sites: Collection[str]) -> Iterator[AdmittedUpdate]:
        """Yield updates by site name, each opened from the spool when it is its turn, and cut down to its share."""
        for site in sorted(sites):
            letter, body = self.spool.take(site)
            update = admit(letter, body, self.terms[site], now_ms=peek_header(letter).created_at_ms, nonces=None)
            share = np.float32(self.shares[site])
            yield update if share == 1.0 else replace(update, delta=update.delta * share)


class SealedRounds(Strategy):  # type: ignore[misc]
    """Rounds of sealed tasks and updates.

    Args:
        run: The run.
        state: What the first round starts from.
        first: Its number.
    """

    def __init__(self, run: Run, state: RunState, first: int = 1) -> None:
        self._run, self._state, self._first = run, state, first
        self._protected = _protection(run.order)
        self._nonces = NonceBook(ANSWER_LIFE_MS)
        self._asked: dict[int, Asked] = {}
        self._admitted_now: dict[str, Terms] = {}
        self._adapters = deque(_latest(run, state, first), REMEMBERED + 1)
        self._judging = run.judging_files.judging(run.settings.detector) if run.settings.detector else None
        self._sitting: Sitting | None = None
        cross = run.settings.cross_validation
        self._examination = Examination(cross) if cross else None
        self._candidates: list[Flat] = []
        self._ballots: dict[str, tuple[float, ...]] = {}
        self._spool = Spool(run.house.home.spool(run.id, first))
        Spool(run.house.home.spool(run.id, first - 1)).clear()  # kept for taking back, by a loop that was ended
        self._opened = 0.0

    def summary(self) -> None:
        """Log what will be done."""
        s = self._run.settings
        log.info(
            "run %s: rounds %d to %d, %s rank %d, quorum %d",
            self._run.id,
            self._first,
            s.rounds,
            s.lora.method,
            s.lora.rank,
            s.quorum,
        )

    def start(self, grid: Grid, *_: object, **__: object) -> Result:
        """Run all rounds, then one in which sites take a last look at the adapter and may object to its release.

        They also measure it, but not in a private run: a loss over drawings tells of them.
        """
        self.summary()
        settings = self._run.settings
        if self._judging:
            import_ahead()
        for number in range(self._first, settings.rounds + 1):
            tasks = list(self.configure_train(number, ArrayRecord(), ConfigRecord(), grid))
            self.aggregate_train(number, self._answers(grid, tasks))
        number = settings.rounds + 1
        tasks = list(self.configure_evaluate(number, ArrayRecord(), ConfigRecord(), grid))
        self.aggregate_evaluate(number, self._answers(grid, tasks))
        return Result()

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,  # noqa: ARG002 (Flower's signature; the adapter travels sealed)
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,
    ) -> Iterable[Message]:
        """Open a round and return one sealed training task for each site that is online."""
        return self._tasks(server_round, pb.WORK_TRAIN, grid)

    def configure_evaluate(
        self,
        server_round: int,
        arrays: ArrayRecord,  # noqa: ARG002 (Flower's signature; the adapter travels sealed)
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,
    ) -> Iterable[Message]:
        """Open a round and return one sealed task for each site that is online: to look at the adapter."""
        return self._tasks(server_round, pb.WORK_EVALUATE, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message | Unreadable]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit and spool replies as they come, then aggregate and close the round."""
        admitted = self._still_members(server_round, self._let_in(server_round, replies))
        judgement = self._judgement(server_round, admitted)
        shares = {site: judgement.findings[site].scale if judgement else 1.0 for site in admitted}
        work = Work(self._spool, admitted, {site: share for site, share in shares.items() if share})
        harm = self._harm(server_round, work.shares)
        averaged = work.shares.keys() - harm.sites
        run = self._run
        if why := self._why_not(averaged, judgement):
            log.warning("round %d: %s: the adapter stays", server_round, why)
            work.spool.clear()
            outcome = "kept"
        else:
            self._aggregate(server_round, work, averaged)
            outcome = "aggregated"
        digest = run.states.save(server_round, self._state)
        self._adapters.append(self._state.adapter)
        if self._judging and judgement and outcome == "aggregated":
            run.judging_files.keep(self._judging.learn(server_round, judgement.without(harm.sites)))
        run.store.close_round(run.id, server_round, outcome, digest)
        log.info("round %d: %s, %d averaged of %d admitted", server_round, outcome, len(averaged), len(admitted))
        return None, None

    def _aggregate(self, number: int, work: Work, averaged: Collection[str]) -> None:
        """Put what a round's updates make of the adapter in its place, and begin to examine what they did."""
        this, start = self._round(number, len(averaged)), self._state
        self._state = aggregate(this, start, work.updates(averaged))
        self._account(number, averaged)
        if self._examination is None or number == self._run.settings.rounds:
            work.spool.clear()  # what sites look at last is what is released
            return
        closed = Closed(this, start, self._state, frozenset(averaged), work.updates, work.spool.clear)
        self._candidates = self._examination.ask(closed, list(work.shares))

    def _harm(self, number: int, judged: Collection[str]) -> Harm:
        """Hear the ballots of the updates that were let in, leave out who does harm, and take back what they did."""
        if self._examination is None:
            return Harm()
        run = self._run
        harm = self._examination.hear({site: self._ballots[site] for site in judged})
        record_harm(run.store, run.id, number, harm.sites.intersection(judged), harm.words())
        if (state := self._examination.taken_back(harm.sites)) is not None:
            back = self._examination.averaged(harm.sites)
            record_harm(run.store, run.id, number - 1, back, f"taken back a round later: {harm.words()}")
            self._state, self._adapters[-1] = state, state.adapter
        self._examination.let_go()
        self._candidates = []
        return harm

    def _judgement(self, number: int, admitted: Collection[str]) -> Judgement | None:
        """Hold the admitted updates against each other and record what comes of it; None of a run without."""
        if not self._judging or not self._sitting:
            return None
        judgement = self._judging.judge(self._sitting, admitted)
        record_judgement(self._run.store, self._run.id, number, judgement)
        return judgement

    def _why_not(self, averaged: Collection[str], judgement: Judgement | None) -> str:
        """Return why the adapter stays as it is; empty when the round is aggregated."""
        settings = self._run.settings
        if len(averaged) < settings.quorum:
            return f"{len(averaged)} can be averaged, quorum is {settings.quorum}"
        if judgement and judgement.unsure and settings.detector and settings.detector.unsure == "wait":
            return f"the detector cannot judge: {judgement.unsure}"
        return ""

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message | Unreadable]) -> MetricRecord | None:
        """Record what sites say of the adapter and close the round."""
        self._let_in(server_round, replies)
        self._run.store.close_round(self._run.id, server_round, "measured", None)
        self._spool.clear()
        if self._examination:
            self._examination.let_go()
        return None

    def _round(self, number: int, admitted: int) -> Round:
        settings = self._run.settings
        return Round(number, settings.lora.method, settings.aggregation, self._protected, admitted, self._spool.folder)

    def _account(self, number: int, sites: Iterable[str]) -> None:
        """Record what a round cost each site that was in it: its epsilon so far, and the noise it was made with."""
        privacy, protected, run = self._run.settings.site_privacy, self._protected, self._run
        if not privacy or protected is None:
            return
        for site in sites:
            rounds = run.store.counted(run.id, site, "site_epsilon", before=number) + 1
            spent = {"site_epsilon": protected.spent(rounds, privacy.delta), "site_multiplier": protected.multiplier}
            run.store.note(run.id, number, site, spent)

    def _tasks(self, number: int, work: pb.Work.ValueType, grid: Grid) -> Iterator[Message]:
        run, settings = self._run, self._run.settings
        sites = self._gathered(grid)
        run.store.open_round(run.id, number, "train" if work == pb.WORK_TRAIN else "evaluate", len(sites))
        self._opened = time.time()
        self._spool = Spool(run.house.home.spool(run.id, number))
        self._spool.clear()  # what a crash left of an earlier try at this round
        self._asked = {}
        judged = self._judging and work == pb.WORK_TRAIN
        self._sitting = Sitting.open(number, self._adapters, settings.lora.trained) if judged else None
        body, sizes = self._sealed_adapter()
        for node, site in sites.items():
            told = run.store.budget(site.id.name)
            manifest = pb.Task(work=work, order=run.signed, told=told, candidates=sizes).SerializeToString()
            letter = seal_letter(
                kind=Kind.TASK, run=run.id, round_number=number, in_reply_to=b"", manifest=manifest, body=body,
                sender=run.house.identity, recipient=site, now_ms=_now_ms(),
            )  # fmt: skip
            self._asked[node] = Asked(self._terms(number, work, site, peek_header(letter).nonce), node)
            yield Message(
                from_envelope(letter, body.ciphertext),
                node,
                "train",
                ttl=settings.deadline_s + 60,
                group_id=str(number),
            )

    def _terms(self, number: int, work: pb.Work.ValueType, site: Peer, nonce: bytes) -> Terms:
        settings = self._run.settings
        return Terms(
            server=self._run.house.identity,
            site=site,
            run=self._run.id,
            round_number=number,
            task_nonce=nonce,
            schema=self._run.schema,
            part=None if work == pb.WORK_EVALUATE else settings.lora.trained,
            encoding=settings.encoding,
            norm_bound=settings.aggregation.norm_bound,
            privacy=settings.privacy if work == pb.WORK_TRAIN else False,
            closes_at_ms=int((self._opened + settings.deadline_s) * 1000),
            ballot=len(self._candidates),
        )

    def _sealed_adapter(self) -> tuple[SealedBody, list[int]]:
        """Seal the adapter once for all sites, with the candidates behind it; return the bytes of each of these too.

        The adapter is never int8: every site would start from the same error.
        """
        encoding = "fp16" if self._run.settings.encoding == "int8" else self._run.settings.encoding
        adapter = pack(join(self._state.adapter), self._run.schema, "both", encoding)
        behind = pack_candidates(self._state.adapter, self._candidates, secrets.randbits(31))
        return seal_body(b"".join([adapter, *behind])), [len(one) for one in behind]

    def _gathered(self, grid: Grid) -> dict[int, Peer]:
        """Return the sites that are online, ``{node: site}``, waiting for a quorum of them."""
        known, settings = self._run.sites, self._run.settings
        patience = time.monotonic() + settings.gather_s
        while True:
            nodes = {n.node_id: known[n.public_key] for n in grid.get_nodes() if n.public_key in known}
            if len(nodes) >= min(len(known), max(settings.quorum, 1)) and len(nodes) > 0:
                return nodes
            if time.monotonic() > patience:
                raise RunError(
                    "too few sites are online", got=len(nodes), expected=f"a quorum of {settings.quorum}",
                    advice="Start the sites; `bottega run start --resume RUN` goes on after the last closed round.",
                )  # fmt: skip
            time.sleep(POLL_S)

    def _answers(self, grid: Grid, tasks: list[Message]) -> Iterator[Message | Unreadable]:
        """Push tasks and yield replies as they arrive, until all have come or the round closes."""
        asked = dict(zip(grid.push_messages(tasks), (task.metadata.dst_node_id for task in tasks), strict=True))
        began, settings = time.monotonic(), self._run.settings
        closes = began + settings.deadline_s
        with contextlib.closing(Pulls(grid, asked)) as pulls:
            while pulls.left and (rest := closes - time.monotonic()) > 0:
                came = False
                for reply in pulls.look(rest):
                    came = True
                    yield reply
                if came and len(self._admitted_now) >= settings.quorum:
                    took = time.monotonic() - began
                    closes = min(closes, began + took + max(GRACE_S, settings.patience * took))

    def _let_in(self, number: int, replies: Iterable[Message | Unreadable]) -> dict[str, Terms]:
        """Admit and spool each reply; return the terms of the admitted sites by name."""
        admitted = self._admitted_now = dict[str, Terms]()
        self._ballots = {}
        silent = dict(self._asked)
        for reply in replies:
            asked = self._asked.get(reply.node if isinstance(reply, Unreadable) else reply.metadata.src_node_id)
            if asked is None:
                continue  # from a node that was asked nothing: Flower does not let one reply, and nothing is owed to it
            site = asked.terms.site.id.name
            if silent.pop(asked.node, None) is None:
                again = Refused(Check.FIRST_ANSWER, "the site has answered this task before")
                self._record(number, site, again)  # the store keeps the first verdict: the first answer stands
                continue
            try:
                update = self._admitted(asked.terms, reply)
            except Refused as why:
                self._record(number, site, why)
                continue
            if self._sitting:
                self._sitting.see(update)
            admitted[site], self._ballots[site] = asked.terms, update.ballot
            verdict = Verdict(site, True, 0, Check.ADMITTED.slug, "", update.examples, update.norm, update.digest)
            self._run.store.record(self._run.id, number, verdict, {**update.metrics, "seconds": update.seconds})
            if update.budget is not None:
                self._run.store.remember_budget(site, update.budget)
            log.info("round %d: %s admitted", number, site)
        for asked in silent.values():
            self._record(
                number, asked.terms.site.id.name, Refused(Check.IN_TIME, "no answer came before the round closed")
            )
        return admitted

    def _still_members(self, number: int, admitted: dict[str, Terms]) -> dict[str, Terms]:
        """Leave out who was revoked after their update was admitted: nothing of theirs is averaged any more."""
        roster = self._run.house.roster
        left = {site: terms for site, terms in admitted.items() if terms.site.id in roster}
        for site in admitted.keys() - left.keys():
            self._run.store.overrule(self._run.id, number, refusal(site, Refused(Check.MEMBER, REVOKED)))
            log.warning("round %d: %s left out by check %d: %s", number, site, Check.MEMBER, REVOKED)
        return left

    def _admitted(self, terms: Terms, reply: Message | Unreadable) -> AdmittedUpdate:
        if terms.site.id not in self._run.house.roster:
            raise Refused(Check.MEMBER, REVOKED)
        if isinstance(reply, Unreadable):
            raise Refused(Check.DELIVERED, "what came cannot be read", got=reply.why, expected="an envelope")
        if reply.has_error():
            raise Refused(
                Check.DELIVERED, "the courier brought an error", got=_said(reply.error.reason), expected="an envelope"
            )
        try:
            letter, body = to_envelope(reply.content)
        except BottegaError as why:
            raise Refused(Check.DELIVERED, why.what, got=why.got, expected=why.expected) from None
        update = admit(letter, body, terms, now_ms=_now_ms(), nonces=self._nonces)
        try:
            self._spool.keep(terms.site.id.name, letter, body)
        except RunError as why:
            raise Refused(Check.SPOOLED, why.what, got=why.got, expected=why.expected) from None
        return update

    def _record(self, number: int, site: str, why: Refused) -> None:
        log.warning("round %d: %s refused by check %d (%s): %s", number, site, why.check, why.check.slug, why)
        self._run.store.record(self._run.id, number, refusal(site, why), {})


def _latest(run: Run, state: RunState, first: int) -> list[Adapter]:
    """Return what the last rounds before one ended with, the latest last."""
    earliest = max(0, first - 1 - REMEMBERED)
    fresh = [fresh_state(run.schema, run.settings).adapter] if not earliest and first > 1 else []
    closed = [run.states.load(number, run.schema).adapter for number in range(max(1, earliest), first - 1)]
    return [*fresh, *closed, state.adapter]


def _protection(order: RunOrder) -> SiteMechanism | None:
    if not order.settings.site_privacy:
        return None
    from security.noise import SecureNoise  # noqa: PLC0415 (PyTorch, which a round loop has no other use for)
    from server.site_privacy import mechanism_of  # noqa: PLC0415

    return mechanism_of(order.settings, len(order.sites), SecureNoise())


def _said(text: str | None) -> str:
    return "".join(c if c.isprintable() else " " for c in text or "nothing")[:200]


def _now_ms() -> int:
    return int(time.time() * 1000)
