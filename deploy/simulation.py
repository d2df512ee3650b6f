"""A federation in memory: the same sites' work, envelopes, admission and aggregation, without processes or a network.

For measuring what learning does apart from what carrying does, and for trying what hostile sites do. What real
processes do is `bottega demo`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from client.ballot import Secrecy, cast
from client.dataset import TrainingSet
from client.private_training import Mechanism, train_privately
from client.training import TrainingResult, held_out_loss, train
from client.units import Unit
from common.adapter_schema import Adapter, AdapterSchema
from common.adapters import pack
from common.models import Base, attach_lora
from common.proto import bottega_pb2 as pb
from common.quantise import Flat
from common.settings import RunSettings
from deploy.zoo import Attack, View
from security.admission import AdmittedUpdate, Refused, Terms, admit
from security.detector import Rows
from security.envelope import Kind, seal_body, seal_letter
from security.features.imprint import Part, spans
from security.identity import Identity
from security.judgement import Judgement, judge
from security.names import Role, SpiffeId
from security.noise import SeededNoise
from security.privacy_plan import planned_ballot, planned_steps
from security.rehearsal import Rehearsal
from security.replay import NonceBook
from server.aggregation import Round, aggregate
from server.cross_validation import Harm
from server.examination import Closed, Examination
from server.judging import REMEMBERED, Sitting
from server.learning import Learning
from server.site_privacy import mechanism_of
from server.start import fresh_state
from server.state import RunState

FEDERATION = "simulation.bottega"
RUN = "simulated"
_HOUR_MS = 3_600_000

Carried = Callable[[Mapping[str, Flat]], list[AdmittedUpdate]]
"""Returns what the server admits of what all sites send."""

Passing = Callable[[Mapping[str, Flat]], bool]
"""Tells of what all sites send whether the server would let the hostile in whole."""


@dataclass(frozen=True)
class SimulatedSite:
    """One site: its training and its held-out split, and what is protected as one; each drawing when left out."""

    name: str
    training: TrainingSet
    held_out: TrainingSet
    units: tuple[Unit, ...] | None = None


@dataclass(frozen=True)
class Hostile:
    """What some sites of a simulation do.

    Attributes:
        sites: Their names.
        attack: Makes what they send of what everybody would have sent.
        claims: How many drawings they say they have; the truth when left out.
        slander: Whether their ballots speak for groups that they are in and against all others.
    """

    sites: frozenset[str]
    attack: Attack
    claims: int | None = None
    slander: bool = False


class Simulation:
    """The server's side and the sites' side of a run, in one process.

    Args:
        base: The base; LoRA is attached to it.
        sites: Who takes part, every site in every round.
        settings: The run's.
        hostile: Who of them is hostile; nobody when left out.
        rehearsal: What the detector knows of honest updates.
    """

    def __init__(
        self, base: Base, sites: Sequence[SimulatedSite], settings: RunSettings, hostile: Hostile | None = None,
        rehearsal: Rehearsal | None = None,
    ) -> None:  # fmt: skip
        self._base, self._sites, self._settings = base, sorted(sites, key=lambda s: s.name), settings
        self.schema: AdapterSchema = attach_lora(base.unet, settings.lora)
        self._server = Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "server"))
        self._keys = {s.name: Identity.generate(SpiffeId(FEDERATION, Role.SITE, s.name)) for s in sites}
        self._nonces = NonceBook(_HOUR_MS)
        self._protected = mechanism_of(settings, len(sites), SeededNoise(settings.seed))
        self.state: RunState = fresh_state(self.schema, settings)
        self._hostile, self._crowd = hostile, Crowd(hostile, settings.seed) if hostile else None
        self._learning = _learning(settings, rehearsal)
        self._adapters = deque([self.state.adapter], REMEMBERED + 1)
        cross = settings.cross_validation
        self._examination = Examination(cross, np.random.default_rng([settings.seed, 18])) if cross else None
        self._candidates: list[Flat] = []
        self.found: dict[int, dict[str, str]] = {}
        """By round and site: ``refused`` by admission, ``admitted``, ``clipped`` or ``rejected`` as judged, ``harmful``
        as examined."""

    def run(self, seen: Callable[[int, Adapter], None] | None = None) -> Adapter:
        """Run every round and return the adapter; ``seen`` is called after each with its number and the adapter."""
        for number in range(1, self._settings.rounds + 1):
            self._close_examined(number, self.updates(number))
            if seen is not None:
                seen(number, self.state.adapter)
        return self.state.adapter

    def updates(self, number: int) -> list[AdmittedUpdate]:
        """Return what the server admits of what all sites send in a round."""
        seeds = [self._settings.seed * 1_000_003 + number * 1_009 + place for place in range(len(self._sites))]
        trained = [self._trained(site, seed) for site, seed in zip(self._sites, seeds, strict=True)]
        sent = {site.name: done.delta for site, (done, _) in zip(self._sites, trained, strict=True)}
        carried = partial(self._admitted, number, [said for _, said in trained], seeds)
        if self._crowd:
            part, passing = self._settings.lora.trained, self._passing(number, carried)
            sent = self._crowd.sent(number, sent, self.schema, part, self._adapters, passing)
        return carried(sent)

    def _admitted(
        self, number: int, said: Sequence[pb.Update], seeds: Sequence[int], sent: Mapping[str, Flat]
    ) -> list[AdmittedUpdate]:
        """Carry what all sites send to the server; what it refuses is left out."""
        admitted: list[AdmittedUpdate] = []
        self.found[number] = {}
        for site, told, seed in zip(self._sites, said, seeds, strict=True):
            try:
                admitted.append(self._carried(site.name, number, sent[site.name], self._told(site.name, told), seed))
            except Refused:
                self.found[number][site.name] = "refused"
        return admitted

    def sitting(self, number: int, updates: Iterable[AdmittedUpdate]) -> Sitting:
        """Return a round's updates as the detector looks at them."""
        seed = self._settings.seed * 7_919 + number
        sitting = Sitting.open(number, self._adapters, self._settings.lora.trained, seed)
        for update in updates:
            sitting.see(update)
        return sitting

    def close(self, number: int, updates: Sequence[AdmittedUpdate]) -> None:
        """Average a round's updates; with fewer than a quorum the adapter stays."""
        settings = self._settings
        if len(updates) >= min(settings.quorum, len(self._sites)):
            self.state = aggregate(self._as_round(number, len(updates)), self.state, updates)
        self._adapters.append(self.state.adapter)

    def _close_examined(self, number: int, updates: Sequence[AdmittedUpdate]) -> None:
        """Judge a round's updates, leave out who does harm, average the others, and begin to examine the round."""
        judgement = self._judgement(self._learning, number, updates) if self._learning else None
        judged = self._judged(number, updates, judgement) if judgement else list(updates)
        harm = self._harm(number, judged)
        if judgement and self._learning and (accepted := judgement.without(harm.sites).accepted) is not None:
            self._learning.add(number, accepted)
        start, averaged = self.state, [update for update in judged if update.site not in harm.sites]
        self.close(number, averaged)
        if self._examination and averaged and number < self._settings.rounds:
            by_site = {update.site: update for update in judged}
            closed = Closed(
                self._as_round(number, len(averaged)), start, self.state, frozenset(one.site for one in averaged),
                lambda sites: (by_site[site] for site in sorted(sites)),
            )  # fmt: skip
            self._candidates = self._examination.ask(closed, list(by_site))

    def _judged(self, number: int, updates: Sequence[AdmittedUpdate], judgement: Judgement) -> list[AdmittedUpdate]:
        """Return what judging leaves of a round's updates."""
        self.found[number] |= {site: finding.outcome for site, finding in judgement.findings.items()}
        shares = {site: np.float32(finding.scale) for site, finding in judgement.findings.items()}
        return [replace(one, delta=one.delta * shares[one.site]) for one in updates if shares[one.site]]

    def _harm(self, number: int, judged: Sequence[AdmittedUpdate]) -> Harm:
        """Hear the ballots, and take back what was averaged of sites that do harm."""
        if self._examination is None:
            return Harm()
        harm = self._examination.hear({update.site: update.ballot for update in judged})
        self.found[number] |= dict.fromkeys(harm.sites.intersection(self.found[number]), "harmful")
        if (state := self._examination.taken_back(harm.sites)) is not None:
            self.found[number - 1] |= dict.fromkeys(self._examination.averaged(harm.sites), "harmful")
            self.state, self._adapters[-1] = state, state.adapter
        return harm

    def _judgement(self, learning: Learning, number: int, updates: Sequence[AdmittedUpdate]) -> Judgement:
        if not self._settings.detector:
            raise ValueError("a run without a detector is not judged")
        sitting = self.sitting(number, updates)
        seen = sitting.of([update.site for update in updates])
        return judge(seen, sitting.frame, sitting.past, learning.measure(self._settings.detector))

    def _passing(self, number: int, carried: Carried) -> Passing | None:
        """Return what tells hostile sites whether all they send would be let in whole; None where nobody judges."""
        learning, hostile = self._learning, self._hostile
        if learning is None or hostile is None:
            return None

        def passing(sent: Mapping[str, Flat]) -> bool:
            found = self._judgement(learning, number, carried(sent)).findings
            return all(site in found and found[site].scale == 1.0 for site in hostile.sites)

        return passing

    def _as_round(self, number: int, updates: int) -> Round:
        settings = self._settings
        return Round(number, settings.lora.method, settings.aggregation, self._protected, updates)

    def _told(self, site: str, said: pb.Update) -> pb.Update:
        """Return what a site says of its update."""
        hostile = self._hostile
        if hostile is None or site not in hostile.sites:
            return said
        said.examples = hostile.claims or said.examples
        if hostile.slander and self._examination and said.ballot:
            said.ballot[1:] = [0.6 if hostile.sites.intersection(g) else -0.6 for g in self._examination.groups]
        return said

    def _trained(self, site: SimulatedSite, seed: int) -> tuple[TrainingResult, pb.Update]:
        """Train as the settings say, and return what the update says of it. Noise can be foretold: nothing leaves."""
        settings, adapter = self._settings, self.state.adapter
        ballot = self._ballot(site, seed)
        if not settings.privacy:
            done = train(self._base, adapter, site.training, settings.lora, settings.training, seed)
            return done, pb.Update(examples=done.examples, metrics={"training_loss": done.loss}, ballot=ballot)
        privacy = settings.privacy
        steps = planned_steps(privacy, settings.rounds, privacy.epsilon, privacy.delta)
        told = settings.training.model_copy(update={"steps": steps.count, "learning_rate": privacy.learning_rate})
        mechanism = Mechanism(steps.multiplier, privacy.clip, steps.rate, privacy.multiplicity)
        done = train_privately(
            self._base, adapter, site.training, settings.lora, told, mechanism, SeededNoise(seed), units=site.units
        )
        said = pb.Privacy(
            epsilon=privacy.epsilon, delta=privacy.delta, unit=privacy.unit, multiplier=steps.multiplier,
            clip=privacy.clip, rate=steps.rate, steps=steps.count, multiplicity=privacy.multiplicity,
            budget=pb.BudgetHead(digest=bytes(32)),
        )  # fmt: skip
        return done, pb.Update(examples=done.examples, privacy=said, ballot=ballot)

    def _ballot(self, site: SimulatedSite, seed: int) -> list[float]:
        """Return what a site says of the last round's groups."""
        settings, adapter = self._settings, self.state.adapter
        cross, most = settings.cross_validation, len(site.held_out)
        if cross is None or not self._candidates:
            return []
        candidates = [replace(adapter, b=b) for b in self._candidates]
        units = [Unit(frozenset(), (row,)) for row in range(most)]
        if not settings.privacy:
            return cast(self._base, adapter, candidates, site.held_out, units[: cross.drawings])
        privacy, rate = settings.privacy, min(1.0, cross.drawings / max(most, 1))
        step = planned_ballot(privacy, cross, settings.rounds, rate, privacy.epsilon, privacy.delta)
        return cast(self._base, adapter, candidates, site.held_out, units, Secrecy(step, SeededNoise(seed + 1)))

    def _carried(self, site: str, number: int, delta: Flat, update: pb.Update, seed: int) -> AdmittedUpdate:
        """Seal an update as the site would, and admit it as the server would."""
        settings, keys, now = self._settings, self._keys[site], int(time.time() * 1000)
        part = settings.lora.trained
        body = seal_body(pack(delta, self.schema, part, settings.encoding, seed))
        task = seed.to_bytes(16, "big")
        letter = seal_letter(
            kind=Kind.UPDATE, run=RUN, round_number=number, in_reply_to=task,
            manifest=update.SerializeToString(),
            body=body, sender=keys, recipient=self._server.peer, now_ms=now,
        )  # fmt: skip
        terms = Terms(
            server=self._server, site=keys.peer, run=RUN, round_number=number, task_nonce=task, schema=self.schema,
            part=part, encoding=settings.encoding, norm_bound=settings.aggregation.norm_bound,
            closes_at_ms=now + _HOUR_MS, privacy=settings.privacy, ballot=len(self._candidates),
        )  # fmt: skip
        return admit(letter, body.ciphertext, terms, now_ms=now, nonces=self._nonces)


class Crowd:
    """The hostile sites of a simulation, who know what everybody would send.

    Args:
        hostile: Who they are and what they do.
        seed: Of their chance.
    """

    def __init__(self, hostile: Hostile, seed: int) -> None:
        self._hostile, self._chance = hostile, np.random.default_rng([seed, 666])
        self._last: Flat | None = None

    def sent(
        self, number: int, honest: Mapping[str, Flat], schema: AdapterSchema, part: Part, adapters: Sequence[Adapter],
        passing: Passing | None = None,
    ) -> dict[str, Flat]:  # fmt: skip
        """Return what everybody sends: the hostile their attack, the others what they have learned."""
        bad = [site for site in honest if site in self._hostile.sites]

        def passes(tried: Flat) -> bool:
            return passing is None or passing({**honest, **dict(zip(bad, tried, strict=True))})

        view = View(
            number=number,
            own=np.stack([honest[site] for site in bad]),
            others=np.stack([delta for site, delta in honest.items() if site not in bad]),
            past=[after.b - before.b for before, after in pairwise(adapters)] if part == "B" else [],
            last=self._last,
            chance=self._chance,
            spans=spans(schema, part),
            passes=passes if passing else None,
        )
        self._last = self._hostile.attack(view)
        return {**honest, **dict(zip(bad, self._last, strict=True))}


def _learning(settings: RunSettings, rehearsal: Rehearsal | None) -> Learning | None:
    return Learning(settings.detector.kind, rehearsal, Rows.of({})) if settings.detector else None


def losses(base: Base, adapter: Adapter, sites: Sequence[SimulatedSite], settings: RunSettings) -> Mapping[str, float]:
    """Return the held-out loss of ``adapter`` at every site that holds something out, and their plain mean as ``mean``.

    The mean is NaN when no site holds anything out.
    """
    by_site = {s.name: held_out_loss(base, adapter, s.held_out, settings.training) for s in sites if len(s.held_out)}
    return {**by_site, "mean": float(np.mean(list(by_site.values()))) if by_site else math.nan}
