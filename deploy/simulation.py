"""A federation in memory: the same sites' work, envelopes, admission and aggregation, without processes or a network.

For measuring what learning does apart from what carrying does, and for trying what hostile sites do. What real
processes do is `bottega demo`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from client.dataset import TrainingSet
from client.private_training import Mechanism, train_privately
from client.training import TrainingResult, held_out_loss, train
from client.units import Unit
from common.adapter_schema import Adapter, AdapterSchema
from common.adapters import pack
from common.models import Base, attach_lora
from common.proto import bottega_pb2 as pb
from common.settings import RunSettings
from security.admission import AdmittedUpdate, Terms, admit
from security.envelope import Kind, seal_body, seal_letter
from security.identity import Identity
from security.names import Role, SpiffeId
from security.noise import SeededNoise
from security.privacy_plan import planned_steps
from security.replay import NonceBook
from server.aggregation import Round, aggregate
from server.site_privacy import mechanism_of
from server.start import fresh_state
from server.state import RunState

FEDERATION = "simulation.bottega"
RUN = "simulated"
_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class SimulatedSite:
    """One site: its training and its held-out split, and what is protected as one; each drawing when left out."""

    name: str
    training: TrainingSet
    held_out: TrainingSet
    units: tuple[Unit, ...] | None = None


class Simulation:
    """The server's side and the sites' side of a run, in one process.

    Args:
        base: The base; LoRA is attached to it.
        sites: Who takes part, every site in every round.
        settings: The run's.
    """

    def __init__(self, base: Base, sites: Sequence[SimulatedSite], settings: RunSettings) -> None:
        self._base, self._sites, self._settings = base, sorted(sites, key=lambda s: s.name), settings
        self.schema: AdapterSchema = attach_lora(base.unet, settings.lora)
        self._server = Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "server"))
        self._keys = {s.name: Identity.generate(SpiffeId(FEDERATION, Role.SITE, s.name)) for s in sites}
        self._nonces = NonceBook(_HOUR_MS)
        self._protected = mechanism_of(settings, len(sites), SeededNoise(settings.seed))
        self.state: RunState = fresh_state(self.schema, settings)

    def run(self, seen: Callable[[int, Adapter], None] | None = None) -> Adapter:
        """Run every round and return the adapter; ``seen`` is called after each with its number and the adapter."""
        for number in range(1, self._settings.rounds + 1):
            settings, count = self._settings, len(self._sites)
            round_ = Round(number, settings.lora.method, settings.aggregation, self._protected, count)
            self.state = aggregate(round_, self.state, self._updates(number))
            if seen is not None:
                seen(number, self.state.adapter)
        return self.state.adapter

    def _updates(self, number: int) -> Iterator[AdmittedUpdate]:
        for place, site in enumerate(self._sites):
            seed = self._settings.seed * 1_000_003 + number * 1_009 + place
            yield self._carried(site.name, number, *self._trained(site, seed), seed)

    def _trained(self, site: SimulatedSite, seed: int) -> tuple[TrainingResult, pb.Update]:
        """Train as the settings say, and return what the update says of it. Noise can be foretold: nothing leaves."""
        settings, adapter = self._settings, self.state.adapter
        if not settings.privacy:
            done = train(self._base, adapter, site.training, settings.lora, settings.training, seed)
            return done, pb.Update(examples=done.examples, metrics={"training_loss": done.loss})
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
        return done, pb.Update(examples=done.examples, privacy=said)

    def _carried(self, site: str, number: int, done: TrainingResult, update: pb.Update, seed: int) -> AdmittedUpdate:
        """Seal an update as the site would, and admit it as the server would."""
        settings, keys, now = self._settings, self._keys[site], int(time.time() * 1000)
        part = settings.lora.trained
        body = seal_body(pack(done.delta, self.schema, part, settings.encoding, seed))
        task = seed.to_bytes(16, "big")
        letter = seal_letter(
            kind=Kind.UPDATE, run=RUN, round_number=number, in_reply_to=task,
            manifest=update.SerializeToString(),
            body=body, sender=keys, recipient=self._server.peer, now_ms=now,
        )  # fmt: skip
        terms = Terms(
            server=self._server, site=keys.peer, run=RUN, round_number=number, task_nonce=task, schema=self.schema,
            part=part, encoding=settings.encoding, norm_bound=settings.aggregation.norm_bound,
            closes_at_ms=now + _HOUR_MS, privacy=settings.privacy,
        )  # fmt: skip
        return admit(letter, body.ciphertext, terms, now_ms=now, nonces=self._nonces)


def losses(base: Base, adapter: Adapter, sites: Sequence[SimulatedSite], settings: RunSettings) -> Mapping[str, float]:
    """Return the held-out loss of ``adapter`` at every site, and their plain mean under ``mean``."""
    by_site = {s.name: held_out_loss(base, adapter, s.held_out, settings.training) for s in sites}
    return {**by_site, "mean": float(np.mean(list(by_site.values())))}
