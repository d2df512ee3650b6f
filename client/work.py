"""What a site does for one task: checks what is asked, trains or measures, and returns what may leave the house."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.ballot import cast
from client.budget import BudgetError
from client.dataset import TrainingSet
from client.drawings import Drawing
from client.final_look import ObjectionError, check_copies
from client.guard import Guard
from client.physical_batches import fitting
from client.policy import Asked, HouseRules, Stopwatch, check_rules
from client.private_training import Mechanism, train_privately
from client.training import held_out_loss, train
from client.units import Unit
from common.adapter_schema import Adapter, AdapterSchema, split
from common.adapters import pack, unpack
from common.candidates import unpack_candidates
from common.errors import AdapterError, BaseModelError, PrivacyError
from common.models import Base, LoraFactors, attach_lora
from common.proto import bottega_pb2 as pb
from common.settings import LoraSettings, PrivacySettings
from common.tracing import phase
from security.accounting import Steps
from security.run_order import RunOrder

log = logging.getLogger("bottega.site")


@dataclass(frozen=True)
class Job:
    """What a task asks that was opened and believed: one round of a run that an operator ordered.

    Attributes:
        work: To train, or to take the last look at the adapter.
        number: The round.
        told: How far the record of the site's budget went when the site last told of it; None if it never did.
        candidates: Bytes of each candidate that comes behind the adapter.
    """

    order: RunOrder
    work: pb.Work.ValueType
    number: int
    told: pb.BudgetHead | None = None
    candidates: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What leaves the house: the manifest of an update and its tensors (empty after an evaluation)."""

    manifest: pb.Update
    body: bytes

    def with_cosignature(self, line: bytes) -> Answer:
        """Return the same answer with the site's line on the checkpoint that its task showed."""
        self.manifest.cosignature = line
        return self


class Bench:
    """The work bench: the warm base model and the encoded drawings. One task at a time.

    Args:
        site: The site's name; part of the seed, so that no two sites draw the same noise.
        base: The base, LoRA attached as tasks ask for it.
        training: The training split.
        held_out: The held-out split.
        rules: The house rules.
        guard: Spends the privacy budget; without one no private run is taken.
        drawings: The training split as pictures, for the last look at an adapter.
        memory_mib: Of a private step, beside the base and the drawings; no limit when left out.
    """

    def __init__(
        self,
        site: str,
        base: Base,
        training: TrainingSet,
        held_out: TrainingSet,
        rules: HouseRules,
        guard: Guard | None = None,
        drawings: Sequence[Drawing] = (),
        memory_mib: int | None = None,
    ) -> None:
        self._drawings, self._memory_mib = drawings, memory_mib
        self._site, self._base, self._rules, self._guard = site, base, rules, guard
        self._training, self._held_out = training, held_out
        self._lora: LoraSettings | None = None
        self._schema: AdapterSchema | None = None
        self._lock = threading.Lock()
        self.doing = "waiting"

    def check(self, order: RunOrder) -> None:
        """Pass a run that the house rules allow now.

        Raises:
            RuleError: They forbid it.
        """
        check_rules(self._rules, asked(order), dt.datetime.now(dt.UTC))

    def answer(self, job: Job, open_body: Callable[[], memoryview]) -> Answer:
        """Do a job.

        Args:
            job: What is asked.
            open_body: Opens the sealed adapter; called only when the settings have passed the house rules.

        Raises:
            RuleError: The house rules forbid it.
            BaseModelError: The order names another base.
            AdapterError: The adapter does not fit.
            TrainingError: Training or measuring failed.
            BudgetError: The privacy budget does not allow it.
            PrivacyError: The privacy that is asked for cannot be had.
            ObjectionError: It is the last look at the adapter, and it repeats the site's drawings.
        """
        order = job.order
        self.check(order)
        with self._lock:
            if order.base_digest != self._base.digest:
                raise BaseModelError(
                    "the run is for another base model", got=self._base.digest[:16], expected=order.base_digest[:16]
                )
            schema = self._fitted(order)
            with phase("open"):
                adapter, candidates = opened_adapters(schema, open_body(), job.candidates)
            try:
                self.doing = f"{order.run} round {job.number}"
                return self._worked(job, schema, adapter, candidates)
            finally:
                self.doing = "waiting"

    def _fitted(self, order: RunOrder) -> AdapterSchema:
        lora = order.settings.lora
        if lora != self._lora or self._schema is None:
            self._schema = attach_lora(self._base.unet, lora)
            self._lora = lora
        if order.schema != self._schema:
            raise AdapterError("the order's adapter schema is not the one that its settings make on this base")
        return self._schema

    def _worked(self, job: Job, schema: AdapterSchema, adapter: Adapter, candidates: Sequence[Adapter]) -> Answer:
        terms = job.order.settings
        if job.work == pb.WORK_EVALUATE:
            return self._looked_at(job, adapter)
        if terms.privacy:
            return self._privately(job, terms.privacy, schema, adapter, candidates)
        said = self._ballot(job, adapter, candidates)
        metrics = self._measured(job, adapter)
        seed = _own_seed(terms.seed, job.number, self._site)
        in_time = Stopwatch(self._rules, time.monotonic)
        with phase("train"):
            done = train(self._base, adapter, self._training, terms.lora, terms.training, seed, in_time)
        metrics["training_loss"] = done.loss
        body = pack(done.delta, schema, terms.lora.trained, terms.encoding, seed)
        told = pb.Update(examples=done.examples, metrics=metrics, seconds=done.seconds)
        told.MergeFrom(said)
        return Answer(told, body)

    def _looked_at(self, job: Job, adapter: Adapter) -> Answer:
        """Take the last look at an adapter: object to it, or say what may be said of it."""
        seed = _own_seed(job.order.settings.seed, job.number, self._site)
        if self._rules.most_copied is not None:
            if self._guard is None or job.number != job.order.settings.rounds + 1:
                raise ObjectionError("this site looks at an adapter when its run has ended, and not now")
            if job.told is not None:
                self._guard.check_not_behind(job.told)
            self._guard.allow_look(job.order.run, int(time.time() * 1000))
            with phase("look"):
                check_copies(self._base, adapter, self._drawings, self._rules.most_copied, seed % 2**31)
        if job.order.settings.privacy:
            return Answer(pb.Update(examples=1), b"")  # how many there are was told with noise on it, or not at all
        return Answer(pb.Update(examples=len(self._training), metrics=self._measured(job, adapter)), b"")

    @phase("measure")
    def _measured(self, job: Job, adapter: Adapter) -> dict[str, float]:
        if not len(self._held_out):
            return {}
        return {"held_out_loss": held_out_loss(self._base, adapter, self._held_out, job.order.settings.training)}

    def _ballot(self, job: Job, adapter: Adapter, candidates: Sequence[Adapter]) -> pb.Update:
        """Say how far each of some groups of updates brought the held-out drawings; nothing if nothing may be said.

        Returns:
            Of an update, the ballot and what protects it.
        """
        settings, terms = job.order.settings.cross_validation, job.order.settings
        if not candidates or settings is None or not self._rules.ballots:
            return pb.Update()
        if not terms.privacy:
            rows = range(min(len(self._held_out), settings.drawings))
            seen = [Unit(frozenset(), (row,)) for row in rows]
            return pb.Update(ballot=cast(self._base, adapter, candidates, self._held_out, seen))
        if self._guard is None:
            raise PrivacyError("this site keeps no privacy budget", advice="Nothing was trained.")
        now_ms = int(time.time() * 1000)
        try:
            units, secrecy, told = self._guard.allow_ballot(
                job.order.run, job.number, terms.rounds, terms.privacy, settings, now_ms
            )  # fmt: skip
        except (BudgetError, PrivacyError) as why:
            log.warning("round %d of run %s: no ballot: %s", job.number, job.order.run, why)
            return pb.Update()
        ballot = cast(self._base, adapter, candidates, self._held_out, units, secrecy)
        return pb.Update(ballot=ballot, ballot_privacy=told)

    def _privately(
        self, job: Job, privacy: PrivacySettings, schema: AdapterSchema, adapter: Adapter,
        candidates: Sequence[Adapter],
    ) -> Answer:  # fmt: skip
        """Train under the budget. Nothing that depends on a drawing leaves but what was noised and accounted for."""
        if self._guard is None:
            raise PrivacyError("this site keeps no privacy budget", advice="Nothing was trained.")
        if job.told is not None:
            self._guard.check_not_behind(job.told)  # before anything is spent by a record that forgot something
        terms, order = job.order.settings, job.order
        may = self._guard.allow(order.run, job.number, terms.rounds, privacy, int(time.time() * 1000))
        said = self._ballot(job, adapter, candidates)  # which a site that may not train does not cast, nor pay for
        in_time = Stopwatch(self._rules, time.monotonic)
        with phase("train"):
            done = train_privately(
                self._base,
                adapter,
                self._training,
                terms.lora,
                terms.training.model_copy(update={"steps": may.steps.count, "learning_rate": privacy.learning_rate}),
                self._mechanism(may.steps, privacy),
                self._guard.source,
                after_step=lambda _: in_time(),
                units=may.units,
                expected=may.steps.rate * may.count,
            )
        seed = _own_seed(terms.seed, job.number, self._site)
        body = pack(done.delta, schema, terms.lora.trained, terms.encoding, seed)
        told = pb.Update(examples=may.count, privacy=may.told)
        told.MergeFrom(said)
        told.privacy.budget.CopyFrom(self._guard.head())
        return Answer(told, body)

    def _mechanism(self, steps: Steps, privacy: PrivacySettings) -> Mechanism:
        full = Mechanism(steps.multiplier, privacy.clip, steps.rate, privacy.multiplicity)
        if self._memory_mib is None:
            return full
        parameters = LoraFactors(self._base.unet).trained()
        few = fitting(self._base, parameters, privacy.multiplicity, self._memory_mib, full.at_once)
        return replace(full, at_once=few)


def asked(order: RunOrder) -> Asked:
    """Return what an order asks, as house rules see it; of its sites, those that a round needs count."""
    settings = order.settings
    return Asked(
        order.operator.name, settings.quorum, order.base_digest, settings.lora, settings.training, settings.privacy
    )


def opened_adapters(
    schema: AdapterSchema, body: memoryview, candidates: Sequence[int]
) -> tuple[Adapter, list[Adapter]]:
    """Return the adapter of a task's body, and the candidates behind it.

    Args:
        schema: Of them all.
        body: The task's.
        candidates: Bytes of each candidate.

    Raises:
        AdapterError: One does not fit, or there are too many.
    """
    end = body.nbytes - sum(candidates)
    if end < 0:
        raise AdapterError("the task's candidates", got=f"{body.nbytes} bytes", expected=f"{sum(candidates)} and more")
    both: NDArray[np.float32] = unpack(body[:end], schema, "both")
    adapter = split(schema, both)
    return adapter, unpack_candidates(adapter, body[end:], candidates)


def _own_seed(seed: int, number: int, site: str) -> int:
    digest = hashlib.sha256(f"{seed}/{number}/{site}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
