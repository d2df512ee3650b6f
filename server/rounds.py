"""The round loop: tasks go out sealed, answers come in one by one, a round closes, the adapter moves on.

A :class:`flwr.serverapp.strategy.Strategy` whose ``start`` is its own: Flower's collects every reply in memory and
waits for all of them; this one admits and spools each as it arrives, closes at quorum and deadline, and goes on
after the last closed round when it is started again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common.adapter_schema import Adapter, join
from common.adapters import pack
from common.candidates import pack_candidates
from common.courier_records import from_envelope
from common.errors import RunError
from common.export import adapter_weights
from common.proto import bottega_pb2 as pb
from common.quantise import Flat
from common.tracing import lead_round, phase
from security.admission import ANSWER_LIFE_MS, Terms
from security.entries import WorkWord
from security.envelope import Kind, SealedBody, peek_header, seal_body, seal_letter
from security.identity import Peer
from security.replay import NonceBook
from security.run_order import RunOrder
from server.closing import Closer, Closing
from server.examination import Examination
from server.hearing import Hearing
from server.judging import REMEMBERED, Sitting, import_ahead
from server.ledger_desk import LedgerDesk
from server.pulling import POLL_S, Pulls, Unreadable
from server.replay_files import purge
from server.round_entries import closing_entries, measured_entries, opened_entry
from server.round_notes import RoundNotes
from server.run import Asked, Run
from server.spool import Spool
from server.start import fresh_state
from server.state import RunState
from server.transcript import Past
from server.verdicts import record_closing

if TYPE_CHECKING:
    from security.judgement import Judgement
    from server.site_privacy import SiteMechanism

log = logging.getLogger("bottega.rounds")

GRACE_S = 10.0
"""What the last sites get at the least, once a quorum has answered."""


class SealedRounds(Strategy):  # type: ignore[misc]
    """Rounds of sealed tasks and updates.

    Args:
        run: The run.
        state: What the first round starts from.
        first: Its number.
    """

    def __init__(self, run: Run, state: RunState, first: int = 1) -> None:
        self._run, self._state, self._first = run, state, first
        self._digest = hashlib.sha256(adapter_weights(state.adapter)).hexdigest()
        self._ledger = LedgerDesk(run.house)
        self._nonces = NonceBook(ANSWER_LIFE_MS)
        self._past = deque(_latest(run, state, first), REMEMBERED + 1)
        self._note, self._shown_size = RoundNotes(), 0
        self._judging = run.judging_files.judging(run.settings.detector) if run.settings.detector else None
        cross = run.settings.cross_validation
        self._examination = Examination(cross) if cross else None
        self._closer = Closer(run.settings, _protection(run.order), self._examination)
        self._candidates: list[Flat] = []
        self._hearing = self._fresh_hearing(first, None)
        self._before: Spool | None = None
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
            with self._led(number):
                with phase("open"):
                    tasks = list(self.configure_train(number, ArrayRecord(), ConfigRecord(), grid))
                self.aggregate_train(number, self._answers(grid, tasks))
        number = settings.rounds + 1
        with self._led(number):
            with phase("open"):
                tasks = list(self.configure_evaluate(number, ArrayRecord(), ConfigRecord(), grid))
            self.aggregate_evaluate(number, self._answers(grid, tasks))
        return Result()

    @contextlib.contextmanager
    def _led(self, number: int) -> Iterator[None]:
        """Lead a round, and record how long its phases took once it is closed."""
        with lead_round(self._run.id, number) as took:
            yield
        self._run.store.took(self._run.id, number, took)

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
        run, hearing = self._run, self._hearing
        with phase("answers", sites=len(hearing.asked)):
            hearing.hear(replies)
        answers = hearing.answers()
        judge = self._judge if hearing.sitting else None
        closing = self._closer.close(server_round, self._state, answers, judge, hearing.spool.folder)
        self._state = closing.end
        record_closing(run.store, run.id, server_round, closing)
        if not closing.why:
            self._account(server_round, closing.averaged)
        with phase("keep"):
            digest = run.states.save(server_round, self._state)
        if closing.taken_back:
            self._past[-1] = (Past(round=server_round, corrected=True), closing.start.adapter)
        self._past.append((Past(round=server_round), self._state.adapter))
        self._keep(server_round, closing)
        with phase("ledger"):
            told = closing_entries(run.store, run.id, server_round, run.settings, hearing.told, closing, digest)
            run.store.close_round(run.id, server_round, closing.outcome, digest, told)
            self._ledger.cosigned_by(self._shown_size, hearing.cosignatures)
            self._ledger.sign()
        self._digest = digest
        if self._judging and closing.judgement and not closing.why:
            accepted = closing.judgement.without(closing.harm.sites)
            self._judging.learn_aside(server_round, accepted, run.judging_files.keep)
        self._examine(closing)
        log.info(
            "round %d: %s, %d averaged of %d admitted", server_round, closing.outcome, len(closing.averaged),
            len(answers.terms),
        )  # fmt: skip
        return None, None

    @phase("judge")
    def _judge(self, sites: Collection[str]) -> Judgement:
        if not self._judging or not self._hearing.sitting:
            raise RuntimeError("a run without a detector is not judged")
        return self._judging.judge(self._hearing.sitting, sites)

    def _keep(self, number: int, closing: Closing | None) -> None:
        """Keep what a replay of a round takes, as long as the operator wants rounds to be replayable."""
        files, hearing = self._run.replay_files, self._hearing
        if not files.keeps:
            return
        transcript = self._note.transcript(self._run.id, number, hearing, closing)
        corrected = closing.start if closing and closing.taken_back else None
        files.keep(transcript, hearing.spool, self._run.judging_files.memory if self._judging else None, corrected)

    @phase("examine")
    def _examine(self, closing: Closing) -> None:
        """End the examination of the round before, and begin that of the round that was closed, if it is examined."""
        if self._before is not None:
            self._before.clear()
        self._before, self._candidates = None, []
        if self._examination is None:
            self._hearing.spool.clear()
            return
        if closing.examined is None:
            self._examination.let_go()
            self._hearing.spool.clear()
            return
        self._before = self._hearing.spool
        self._candidates = self._examination.ask(closing.examined, list(closing.shares))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message | Unreadable]) -> MetricRecord | None:
        """Record what sites say of the adapter and close the round."""
        run, hearing = self._run, self._hearing
        with phase("answers", sites=len(hearing.asked)):
            hearing.hear(replies)
        if self._judging:
            self._judging.wait()
        with phase("ledger"):
            told = measured_entries(run.store, run.id, server_round, hearing.told, run.settings)
            run.store.close_round(run.id, server_round, "measured", None, told)
            self._ledger.cosigned_by(self._shown_size, hearing.cosignatures)
            self._ledger.sign()
        self._keep(server_round, None)
        hearing.spool.clear()
        return None

    def _account(self, number: int, sites: Iterable[str]) -> None:
        """Record what a round cost each site that was in it: its epsilon so far, and the noise it was made with."""
        privacy, protected, run = self._run.settings.site_privacy, self._closer.protected, self._run
        if not privacy or protected is None:
            return
        for site in sites:
            rounds = run.store.counted(run.id, site, "site_epsilon", before=number) + 1
            spent = {"site_epsilon": protected.spent(rounds, privacy.delta), "site_multiplier": protected.multiplier}
            run.store.note(run.id, number, site, spent)

    def _tasks(self, number: int, work: pb.Work.ValueType, grid: Grid) -> Iterator[Message]:
        run, settings = self._run, self._run.settings
        sites = self._gathered(grid)
        kind: WorkWord = "train" if work == pb.WORK_TRAIN else "evaluate"
        names = [site.id.name for site in sites.values()]
        opened = opened_entry(run.id, number, kind, names, self._digest)
        run.store.open_round(run.id, number, kind, len(sites), [opened])
        self._opened = time.time()
        purge(run.house.home, run.house.settings.replay_days)
        judged = self._judging and work == pb.WORK_TRAIN
        self._note = RoundNotes.begin(self._opened, settings.deadline_s, self._past, self._examination)
        adapters = [adapter for _, adapter in self._past]
        sitting = Sitting.open(number, adapters, settings.lora.trained, self._note.seed) if judged else None
        self._hearing = self._fresh_hearing(number, sitting)
        self._hearing.spool.clear()  # what a crash left of an earlier try at this round
        body, sizes = self._sealed_adapter()
        shown = self._ledger.shown(run.id, number - 1)
        self._shown_size = shown.size
        for node, site in sites.items():
            task = pb.Task(
                work=work, order=run.signed, told=run.store.budget(site.id.name), candidates=sizes,
                ledger=shown.to(site.id),
            )  # fmt: skip
            letter = seal_letter(
                kind=Kind.TASK, run=run.id, round_number=number, in_reply_to=b"",
                manifest=task.SerializeToString(), body=body,
                sender=run.house.identity, recipient=site, now_ms=_now_ms(),
            )  # fmt: skip
            self._hearing.asked[node] = Asked(self._terms(number, work, site, peek_header(letter).nonce), node)
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
            closes_at_ms=self._note.closes_at_ms,
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
                if came and len(self._hearing.admitted) >= settings.quorum:
                    took = time.monotonic() - began
                    closes = min(closes, began + took + max(GRACE_S, settings.patience * took))

    def _fresh_hearing(self, number: int, sitting: Sitting | None) -> Hearing:
        spool = Spool(self._run.house.home.spool(self._run.id, number))
        run, house = self._run, self._run.house
        return Hearing(
            run.id, number, run.store, lambda who: who in house.roster, {}, spool, self._nonces, sitting,
            keeps_refused=run.replay_files.keeps,
        )  # fmt: skip


def _latest(run: Run, state: RunState, first: int) -> list[tuple[Past, Adapter]]:
    """Return what the last rounds before one ended with, the latest last."""
    earliest = max(0, first - 1 - REMEMBERED)
    fresh = [(Past(round=0), fresh_state(run.schema, run.settings).adapter)] if not earliest and first > 1 else []
    numbers = range(max(1, earliest), first - 1)
    closed = [(Past(round=number), run.states.load(number, run.schema).adapter) for number in numbers]
    return [*fresh, *closed, (Past(round=first - 1), state.adapter)]


def _protection(order: RunOrder) -> SiteMechanism | None:
    if not order.settings.site_privacy:
        return None
    from security.noise import SecureNoise  # noqa: PLC0415 (PyTorch, which a round loop has no other use for)
    from server.site_privacy import mechanism_of  # noqa: PLC0415

    return mechanism_of(order.settings, len(order.sites), SecureNoise())


def _now_ms() -> int:
    return int(time.time() * 1000)
