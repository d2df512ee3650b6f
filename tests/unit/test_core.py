"""Cores: what is trained between frozen factors is what the definition says, from the gradient to the adapter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from client.coordinates import CoreCoordinates
from client.dataset import TrainingSet
from client.per_drawing import per_drawing_gradients
from client.private_training import Mechanism, _clipped, train_privately
from client.training import example_losses, held_out_loss, train
from common.adapter_schema import Adapter, AdapterSchema, LoraModule
from common.adapters import pack, unpack
from common.core import lift
from common.errors import AdapterError
from common.models import Base, LoraFactors, attach_lora
from common.orthonormal import orthonormal_a, orthonormal_b
from common.settings import AggregationSettings, LoraSettings, PrivacySettings, RunSettings, TrainingSettings
from deploy.simulation import SimulatedSite, Simulation, losses
from security.noise import SeededNoise
from server.aggregation import Round, aggregate
from server.start import fresh_state
from server.state import RunState
from tests.unit.test_aggregation import update

Latents = Callable[[int], TrainingSet]
SCHEMA = AdapterSchema((LoraModule("x", 6, 5, 2), LoraModule("conv", 4, 2, 2, (3, 3))))
WIDE = LoraSettings(method="core", rank=4, targets=("to_q", "ff.net.2", "conv1"))
PLAIN = TrainingSettings(caption_dropout=0.0, weight_decay=0.0)


def a_core(seed: int, schema: AdapterSchema = SCHEMA) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(schema.numel("core")).astype(np.float32)


def products(schema: AdapterSchema, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    of_a, of_b = schema.views(a, "A"), schema.views(b, "B")
    return [of_b[m.b.name].reshape(-1, m.rank) @ of_a[m.a.name].reshape(m.rank, -1) for m in schema.modules]


def test_a_core_is_rank_by_rank_and_has_the_norm_of_the_product() -> None:
    assert SCHEMA.numel("core") == 2 * 2 + 2 * 2
    core, a = a_core(0), orthonormal_a(SCHEMA, 3)
    whole = products(SCHEMA, a, lift(SCHEMA, core))
    assert sum(float((p.astype(float) ** 2).sum()) for p in whole) == pytest.approx(
        float((core.astype(float) ** 2).sum())
    )


def test_what_is_lifted_is_q_times_r() -> None:
    core = a_core(1)
    q, views = orthonormal_b(SCHEMA), SCHEMA.views(lift(SCHEMA, core), "B")
    assert np.allclose(views["x.lora_B.weight"], q[0] @ core[:4].reshape(2, 2))
    assert np.allclose(views["conv.lora_B.weight"][:, :, 0, 0], q[1] @ core[4:].reshape(2, 2))


def test_the_frozen_columns_are_orthonormal_and_everybodys() -> None:
    for q, again in zip(orthonormal_b(SCHEMA), orthonormal_b(SCHEMA), strict=True):
        assert np.allclose(q.T @ q, np.eye(2), atol=1e-6)
        assert q.tobytes() == again.tobytes()
    with pytest.raises(AdapterError, match="cannot have orthonormal columns in B; got rank 9; expected at most its 8"):
        orthonormal_b(AdapterSchema((LoraModule("y", 8, 20, 9),)))


def test_a_core_travels() -> None:
    core = a_core(2)
    assert np.array_equal(unpack(pack(core, SCHEMA, "core", "fp32"), SCHEMA, "core", "fp32"), core)
    with pytest.raises(AdapterError, match="part does not match"):
        unpack(pack(core, SCHEMA, "core", "fp32"), SCHEMA, "B", "fp32")


def test_the_mean_of_cores_is_the_mean_of_what_they_are_lifted_to() -> None:
    state = RunState(Adapter(SCHEMA, orthonormal_a(SCHEMA, 0), np.zeros(SCHEMA.numel("B"), np.float32)))
    cores = [a_core(seed) for seed in range(3)]
    updates = [update(f"site-{i}", 10, core) for i, core in enumerate(cores)]
    after = aggregate(Round(1, "core", AggregationSettings(refresh_every=0)), state, updates)
    assert np.allclose(after.adapter.b, np.mean([lift(SCHEMA, core) for core in cores], axis=0), atol=1e-6)


def started(base: Base, lora: LoraSettings = WIDE) -> tuple[Adapter, LoraFactors]:
    adapter = fresh_state(attach_lora(base.unet, lora), RunSettings(lora=lora)).adapter
    moved = Adapter(adapter.schema, adapter.a, lift(adapter.schema, a_core(5, adapter.schema) * np.float32(0.05)))
    factors = LoraFactors(base.unet)
    factors.load(moved)
    return moved, factors


def test_gradients_in_the_cores_are_those_of_autograd(base: Base, latents: Latents) -> None:
    adapter, factors = started(base)
    coordinates, data = CoreCoordinates(factors, adapter.schema), latents(1)
    noise, t, words = (
        torch.randn(1, 4, 16, 16),
        torch.tensor([400]),
        data.text(torch.tensor([0]), torch.tensor([False])),
    )

    def loss() -> torch.Tensor:
        return example_losses(base, data.views[:, 0], words, noise, t).sum()

    of_b = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), coordinates.factors)])[None]
    found = coordinates.of(of_b)[0]
    # The same by moving one core a little to both sides.
    chosen = int(found.abs().argmax())
    sides = []
    for step in (1e-2, -1e-2):
        flat = torch.zeros(coordinates.size)
        flat[chosen] = step
        at = 0
        for core in coordinates.trained:
            core.data = flat[at : at + core.numel()].reshape(core.shape)
            at += core.numel()
        coordinates.push()
        with torch.no_grad():
            sides.append(float(loss().double()))
    assert float(found[chosen]) == pytest.approx((sides[0] - sides[1]) / 2e-2, rel=0.05)


@pytest.mark.parametrize("private", [False, True])
def test_training_moves_b_by_what_the_change_is_lifted_to(private: bool, base: Base, latents: Latents) -> None:
    adapter, factors = started(base)
    few = PLAIN.model_copy(update={"steps": 3, "learning_rate": 1e-2})
    if private:
        mechanism = Mechanism(multiplier=1.0, clip=1e-3, multiplicity=1)
        done = train_privately(base, adapter, latents(4), WIDE, few, mechanism, SeededNoise(0))
    else:
        done = train(base, adapter, latents(4), WIDE, few, seed=0)
    assert done.delta.shape == (adapter.schema.numel("core"),)
    assert np.abs(done.delta).max() > 1e-3
    assert np.allclose(factors.read("B"), adapter.b + lift(adapter.schema, done.delta), atol=1e-5)
    assert np.array_equal(factors.read("A"), adapter.a)


def test_it_is_the_cores_gradient_that_is_clipped(base: Base, latents: Latents) -> None:
    adapter, factors = started(base)
    coordinates, data = CoreCoordinates(factors, adapter.schema), latents(1)
    mechanism = Mechanism(multiplier=1.0, clip=1e-4, multiplicity=1)
    with per_drawing_gradients(base.unet):
        total = _clipped(base, coordinates, data, [(0,)], PLAIN, mechanism, SeededNoise(0)).total
    assert total.shape == (adapter.schema.numel("core"),)
    assert float(torch.linalg.vector_norm(total)) == pytest.approx(1e-4, rel=1e-3)


def test_a_private_run_of_cores_learns_through_rounds_and_refreshes(base: Base, latents: Latents) -> None:
    lora = LoraSettings(method="core", rank=8)
    sites = [SimulatedSite(name, latents(6), latents(6)) for name in ("anna", "bruno")]
    privacy = PrivacySettings(epsilon=2000.0, delta=1e-2, steps=6, rate=1.0, multiplicity=1, learning_rate=0.05)
    settings = RunSettings(rounds=2, lora=lora, privacy=privacy, training=PLAIN)
    simulation = Simulation(base, sites, settings)
    before = losses(base, simulation.state.adapter, sites, settings)["mean"]
    end = simulation.run()
    assert losses(base, end, sites, settings)["mean"] < before * 0.995
    assert held_out_loss(base, end, sites[0].held_out, PLAIN) > 0
