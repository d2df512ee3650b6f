"""The last look at an adapter, as the bench takes it: once in a run, after its end, telling no more than it must."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from client import final_look
from client.budget import Budget, BudgetError
from client.budget_settings import BudgetSettings
from client.dataset import TrainingSet
from client.drawings import Drawing
from client.final_look import ObjectionError
from client.guard import Guard
from client.policy import HouseRules
from client.work import Answer, Bench, Job, _own_seed
from common.adapter_schema import join
from common.adapters import pack
from common.models import Base, attach_lora
from common.proto import bottega_pb2 as pb
from common.sampling import sample
from common.settings import LoraSettings, RunSettings
from security.names import Role, SpiffeId
from security.noise import SeededNoise
from security.run_order import RunOrder
from security.vault import Vault
from server.start import fresh_state
from tests.unit.test_copies import drawing_of, strokes

Latents = Callable[[int], TrainingSet]
SETTINGS = RunSettings(rounds=3, quorum=1, lora=LoraSettings(rank=2))


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a few pictures takes a second."""
    monkeypatch.setattr(final_look, "PICTURES", 4)
    monkeypatch.setattr(final_look, "STEPS", 2)


class Room:
    """A bench, and the tasks that are put on it."""

    def __init__(self, root: Path, base: Base, data: TrainingSet, drawings: list[Drawing], rules: HouseRules) -> None:
        root.mkdir(exist_ok=True)
        budget = Budget(root / "budget", Vault.open_or_create(root / "vault.key"), BudgetSettings())
        self.bench = Bench("rossi", base, data, data, rules, Guard(budget, drawings, SeededNoise(0)), drawings)
        self._base = base

    def look(self, number: int = 4, settings: RunSettings = SETTINGS, run: str = "r1") -> Answer:
        schema = attach_lora(self._base.unet, settings.lora)
        operator = SpiffeId("looks.test", Role.OPERATOR, "anna")
        order = RunOrder(run, operator, settings, self._base.digest, schema, ("rossi",), 0)
        body = pack(join(fresh_state(schema, settings).adapter), schema, "both", "fp32")
        return self.bench.answer(Job(order, pb.WORK_EVALUATE, number), lambda: memoryview(body))


@pytest.fixture
def own() -> list[Drawing]:
    return [drawing_of(page, f"lines, number {i}") for i, page in enumerate(strokes(4, 1))]


LOOKS = HouseRules(most_copied=0.0)


def test_a_site_that_does_not_look_tells_nothing_of_its_drawings(
    tmp_path: Path, base: Base, latents: Latents, own: list[Drawing]
) -> None:
    answer = Room(tmp_path, base, latents(7), own, HouseRules()).look()
    assert answer.body == b""
    assert answer.manifest == pb.Update(examples=1)


def test_in_a_run_without_privacy_it_also_measures(
    tmp_path: Path, base: Base, latents: Latents, own: list[Drawing]
) -> None:
    rules = HouseRules(without_privacy=True)
    answer = Room(tmp_path, base, latents(7), own, rules).look(settings=SETTINGS.model_copy(update={"privacy": False}))
    assert answer.manifest.examples == 7
    assert set(answer.manifest.metrics) == {"held_out_loss"}


def test_it_objects_to_what_repeats_its_drawings_and_to_nothing_else(
    tmp_path: Path, base: Base, latents: Latents, own: list[Drawing]
) -> None:
    assert Room(tmp_path / "a", base, latents(7), own, LOOKS).look().manifest == pb.Update(examples=1)
    attach_lora(base.unet, SETTINGS.lora)
    seed = _seed_of_the_look()
    drawn = sample(base, [d.caption for d in own], seed=seed, steps=final_look.STEPS, guidance=final_look.GUIDANCE)
    repeated = [drawing_of(page, d.caption) for page, d in zip(drawn, own, strict=True)]
    with pytest.raises(ObjectionError, match="repeats drawings"):
        Room(tmp_path / "b", base, latents(7), repeated, LOOKS).look()


def test_it_looks_once_in_a_run_also_after_a_restart(
    tmp_path: Path, base: Base, latents: Latents, own: list[Drawing]
) -> None:
    """Else a server could ask with one adapter after another which drawings there are."""
    Room(tmp_path, base, latents(7), own, LOOKS).look()
    for _ in range(2):
        with pytest.raises(BudgetError, match="looked at an adapter of this run before"):
            Room(tmp_path, base, latents(7), own, LOOKS).look()
    Room(tmp_path, base, latents(7), own, LOOKS).look(run="r2")


@pytest.mark.parametrize("number", [1, 3])
def test_it_does_not_look_before_the_end_of_the_run(
    number: int, tmp_path: Path, base: Base, latents: Latents, own: list[Drawing]
) -> None:
    with pytest.raises(ObjectionError, match="and not now"):
        Room(tmp_path, base, latents(7), own, LOOKS).look(number)


def _seed_of_the_look() -> int:
    return _own_seed(SETTINGS.seed, 4, "rossi") % 2**31
