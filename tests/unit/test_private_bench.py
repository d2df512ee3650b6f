"""Private rounds with ballots, as the bench does them: what comes first, what is told, what the house may refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.budget import Budget, BudgetError
from client.budget_settings import BudgetSettings
from client.dataset import TrainingSet
from client.drawings import Drawing
from client.guard import Guard
from client.policy import HouseRules
from client.work import Answer, Bench, Job
from common.adapter_schema import join
from common.adapters import pack
from common.candidates import pack_candidates
from common.models import Base, attach_lora
from common.proto import bottega_pb2 as pb
from common.settings import LoraSettings, PrivacySettings, RunSettings
from security.accounting import Steps
from security.names import Role, SpiffeId
from security.noise import SeededNoise
from security.run_order import RunOrder
from security.vault import Vault
from server.start import fresh_state

Latents = Callable[[int], TrainingSet]
PRIVACY = PrivacySettings(epsilon=8.0, steps=1, rate=0.1, multiplicity=1)
SETTINGS = RunSettings(rounds=3, quorum=1, lora=LoraSettings(rank=2), privacy=PRIVACY)


class Room:
    """A bench of 60 drawings and 12 that are held out, and the tasks that are put on it."""

    def __init__(self, root: Path, base: Base, latents: Latents, rules: HouseRules) -> None:
        self.budget = Budget(root / "budget", Vault.open_or_create(root / "vault.key"), BudgetSettings(epsilon=20.0))
        drawings = [Drawing(f"{n:064x}", "a caption", None, 8, b"") for n in range(72)]
        guard = Guard(self.budget, drawings[:60], SeededNoise(1), drawings[60:], 1 / 6)
        self.bench = Bench("rossi", base, latents(60), latents(12), rules, guard)
        self._base = base

    def train(self, number: int, told: pb.BudgetHead | None = None) -> Answer:
        schema = attach_lora(self._base.unet, SETTINGS.lora)
        operator = SpiffeId("bench.test", Role.OPERATOR, "anna")
        order = RunOrder("r1", operator, SETTINGS, self._base.digest, schema, ("rossi",), 0)
        adapter = fresh_state(schema, SETTINGS).adapter
        chance = np.random.default_rng(0)
        groups = [0.1 * chance.standard_normal(adapter.b.size).astype(np.float32) for _ in range(3)]
        parts = pack_candidates(adapter, groups, 0)
        body = b"".join([bytes(pack(join(adapter), schema, "both", "fp32")), *parts])
        job = Job(order, pb.WORK_TRAIN, number, told, tuple(len(part) for part in parts))
        return self.bench.answer(job, lambda: memoryview(body))


def test_a_record_that_is_behind_is_refused_before_a_ballot_spends(
    tmp_path: Path, base: Base, latents: Latents
) -> None:
    room = Room(tmp_path, base, latents, HouseRules())
    with pytest.raises(BudgetError, match="not the one that was used before"):
        room.train(2, pb.BudgetHead(entries=9, digest=b"d" * 32))
    assert room.budget.head.entries == 0, "nothing was spent, and no drawing was looked at"


def test_what_protects_a_ballot_is_told_beside_it(tmp_path: Path, base: Base, latents: Latents) -> None:
    told = Room(tmp_path, base, latents, HouseRules()).train(2).manifest
    assert len(told.ballot) == 3
    assert SETTINGS.cross_validation is not None
    assert 0 < told.ballot_privacy.epsilon <= SETTINGS.cross_validation.epsilon
    assert (told.ballot_privacy.delta, 0 < told.ballot_privacy.rate <= 1) == (1e-4, True)
    assert told.ballot_privacy.multiplier > 0
    assert told.privacy.epsilon > 0, "what protects the training is told as ever"


def test_a_house_may_cast_no_ballots_and_still_train(tmp_path: Path, base: Base, latents: Latents) -> None:
    room = Room(tmp_path, base, latents, HouseRules(ballots=False))
    told = room.train(2).manifest
    assert not told.ballot
    assert not told.HasField("ballot_privacy")
    assert told.HasField("privacy")
    assert [spend.steps.count for spend in room.budget.spends] == [PRIVACY.steps]


@pytest.mark.parametrize(("mib", "together"), [(None, 4), (1, 1), (100_000, 4)])
def test_a_site_with_little_memory_works_on_fewer_drawings_together(
    tmp_path: Path, base: Base, latents: Latents, mib: int | None, together: int
) -> None:
    attach_lora(base.unet, SETTINGS.lora)
    guard = Room(tmp_path, base, latents, HouseRules()).bench._guard
    bench = Bench("rossi", base, latents(60), latents(12), HouseRules(), guard, memory_mib=mib)
    assert bench._mechanism(Steps(1.0, 0.1, 1), PRIVACY).at_once == together
