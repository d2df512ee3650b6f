"""Private training: the gradients are those of single drawings, and one drawing changes no more than it may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest
from torch import Tensor

from client.coordinates import Coordinates, coordinates_of
from client.dataset import TrainingSet
from client.per_drawing import per_drawing_gradients
from client.private_training import (
    Mechanism,
    _clipped,
    _gradients,
    poisson_sample,
    train_privately,
)
from client.training import example_losses, held_out_loss
from client.units import Unit
from common.adapter_schema import Adapter
from common.errors import PrivacyError, TrainingError
from common.models import Base, LoraFactors, attach_lora
from common.settings import LoraSettings, RunSettings, TrainingSettings
from security.noise import SecureNoise, SeededNoise
from server.start import fresh_state

Latents = Callable[[int], TrainingSet]
WIDE = ("to_q", "to_out.0", "ff.net.2", "conv1")


def start(base: Base, lora: LoraSettings) -> Adapter:
    schema = attach_lora(base.unet, lora)
    return fresh_state(schema, RunSettings(lora=lora)).adapter


def alone(data: TrainingSet) -> list[tuple[int, ...]]:
    return [(row,) for row in range(len(data))]


@pytest.mark.parametrize("method", ["ffa", "both"])
def test_the_gradient_of_each_drawing_is_the_one_that_it_has_alone(base: Base, latents: Latents, method: str) -> None:
    lora = LoraSettings(method=method, rank=4, targets=WIDE)  # type: ignore[arg-type]
    adapter, data, draws = start(base, lora), latents(3), 2
    factors = LoraFactors(base.unet)
    factors.load(Adapter(adapter.schema, adapter.a, adapter.b + 0.01))
    parameters = factors.trained()
    plain = TrainingSettings(caption_dropout=0.0)
    with per_drawing_gradients(base.unet):
        mechanism = Mechanism(1.0, 1.0, multiplicity=draws, at_once=3)
        together = _gradients(base, parameters, data, [(0,), (1,), (2,)], [7, 8, 9], plain, mechanism)
    most = int(base.schedule.config.num_train_timesteps)
    for one in range(3):
        # The same chance, drawn as `_gradients` draws it.
        chance = torch.Generator().manual_seed(7 + one)
        torch.randint(1, (draws,), generator=chance)
        index = torch.tensor([one] * draws)
        drawn = data.latents(index, chance)
        torch.rand(draws, generator=chance)
        noise = torch.randn(drawn.shape, generator=chance)
        t = ((torch.arange(draws) + torch.rand(draws, generator=chance)) / draws * most).long()
        words = data.text(index, torch.zeros(draws, dtype=torch.bool))
        loss = example_losses(base, drawn, words, noise, t).mean()
        alone = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)])
        assert torch.allclose(together[one], alone, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["ffa", "core"])
@pytest.mark.parametrize("scale", [0.01, 10.0], ids=["ordinary", "adversarial"])
def test_the_others_change_no_bit_of_a_units_gradient(base: Base, latents: Latents, method: str, scale: float) -> None:
    lora = LoraSettings(method=method, rank=8)  # type: ignore[arg-type]
    adapter, data, plain = start(base, lora), latents(8), TrainingSettings()
    factors = LoraFactors(base.unet)
    made = np.random.default_rng(0).standard_normal(adapter.b.shape).astype(np.float32)
    factors.load(Adapter(adapter.schema, adapter.a, adapter.b + np.float32(scale) * made))
    parameters = coordinates_of(factors, lora, adapter.schema).factors
    mechanism = Mechanism(1.0, 1e-3, multiplicity=2, at_once=8)
    alike = TrainingSet(data.views[:1].repeat(8, 1, 1, 1, 1), data.states, data.caption[:1].repeat(8))
    huge = TrainingSet(torch.cat([data.views[:1], 1e4 * data.views[1:]]), data.states, data.caption)
    with per_drawing_gradients(base.unet):
        alone = _gradients(base, parameters, data, [(0,)], [1], plain, mechanism)[0]
        assert alone.isfinite().all()
        for others in (data, alike, huge):
            for count in (2, 5, 8):
                rows = [(row,) for row in range(count)]
                among = _gradients(base, parameters, others, rows, range(1, count + 1), plain, mechanism)
                assert len(among) == count
                assert torch.equal(among[0], alone)


def test_hooks_and_gradients_are_gone_afterwards(base: Base, latents: Latents) -> None:
    start(base, LoraSettings())
    with per_drawing_gradients(base.unet):
        pass
    assert not base.unet.training
    assert not any(module._forward_hooks or module._backward_hooks for module in base.unet.modules())
    assert not any(hasattr(parameter, "grad_sample") for parameter in base.unet.parameters())


def test_one_drawing_more_changes_the_clipped_sum_by_at_most_the_clip(base: Base, latents: Latents) -> None:
    lora = LoraSettings(rank=4)
    start(base, lora)
    trained, plain, data = Coordinates(LoraFactors(base.unet)), TrainingSettings(caption_dropout=0.0), latents(5)
    mechanism = Mechanism(multiplier=1.0, clip=1e-3, multiplicity=2, at_once=1)
    fewer = TrainingSet(data.views[:4], data.states, data.caption[:4])
    with per_drawing_gradients(base.unet):
        more = _clipped(base, trained, data, alone(data), plain, mechanism, SeededNoise(2))
        less = _clipped(base, trained, fewer, alone(fewer), plain, mechanism, _SameCoins(2, skip=1))
    changed = float(torch.linalg.vector_norm((more.total - less.total).double()))
    assert 0 < changed <= mechanism.clip


class _SameCoins(SeededNoise):
    """Gives four drawings the coins that they have among five."""

    def __init__(self, seed: int, skip: int) -> None:
        super().__init__(seed)
        self._skip = skip

    def uniforms(self, count: int) -> np.typing.NDArray[np.float64]:
        drawn = super().uniforms(count + self._skip)[:count]
        self._skip = 0
        return drawn


@given(
    at_once=st.integers(1, 9), rate=st.floats(0.05, 1.0), seed=st.integers(0, 99),
    units=st.sampled_from([tuple((row,) for row in range(7)), ((0, 1, 2), (3,), (4, 5, 6))]),
)  # fmt: skip
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_many_are_in_memory_at_a_time_the_sum_is_that_of_the_whole_sample(
    base: Base, latents: Latents, at_once: int, rate: float, seed: int, units: tuple[tuple[int, ...], ...]
) -> None:
    lora = LoraSettings(rank=4)
    adapter = start(base, lora)
    factors, data = LoraFactors(base.unet), latents(7)
    factors.load(Adapter(adapter.schema, adapter.a, adapter.b + 0.01))
    trained, one_by_one = Coordinates(factors), Mechanism(1.0, 1e-3, rate, multiplicity=2, at_once=1)
    with per_drawing_gradients(base.unet):
        first, second = (
            _clipped(base, trained, data, units, TrainingSettings(), mechanism, SeededNoise(seed))
            for mechanism in (one_by_one, replace(one_by_one, at_once=at_once))
        )
    assert first.bound == second.bound == 1e-3
    assert float(torch.linalg.vector_norm(first.total - second.total)) <= 1e-5 * 1e-3 * len(units)
    assert (first.total == 0).all() == (second.total == 0).all(), "an empty sample is empty in any batches"


def test_samples_are_poisson_and_may_be_empty() -> None:
    source, rate, count = SecureNoise(), 0.2, 10
    drawn = [poisson_sample(count, rate, source) for _ in range(2000)]
    sizes = np.array([len(one) for one in drawn])
    assert (sizes == 0).sum() > 100, "an empty sample is a sample"
    assert binomtest(int(sizes.sum()), 2000 * count, rate).pvalue > 1e-6
    assert abs(sizes.var() - count * rate * (1 - rate)) < 0.3, "samples of a fixed size have no variance"
    assert len(poisson_sample(count, 1.0, source)) == count


def test_an_empty_sample_is_a_step_of_noise_alone(base: Base, latents: Latents) -> None:
    lora = LoraSettings(rank=4)
    adapter = start(base, lora)
    rare = Mechanism(multiplier=1.0, clip=1e-3, rate=1e-9)
    done = train_privately(base, adapter, latents(3), lora, TrainingSettings(steps=1), rare, SeededNoise(4))
    assert np.isfinite(done.delta).all()
    assert (done.delta != 0).mean() > 0.99


def test_private_training_learns_and_tells_no_loss(base: Base, latents: Latents) -> None:
    data, lora, few = latents(8), LoraSettings(), TrainingSettings(steps=12, learning_rate=1e-2)
    adapter = start(base, lora)
    before = held_out_loss(base, adapter, data, few)
    mechanism = Mechanism(multiplier=0.05, clip=1e-3, multiplicity=2)
    done = train_privately(base, adapter, data, lora, few, mechanism, SecureNoise())
    after = held_out_loss(base, Adapter(adapter.schema, adapter.a, adapter.b + done.delta), data, few)
    assert after < before * 0.995
    assert np.isnan(done.loss)


def test_without_anything_learned_a_step_is_the_stated_noise(base: Base, latents: Latents) -> None:
    start(base, LoraSettings(rank=4))
    trained, data = Coordinates(LoraFactors(base.unet)), latents(2)
    mechanism = Mechanism(multiplier=50.0, clip=1e-3, multiplicity=1)
    with per_drawing_gradients(base.unet):
        from security.noise import add_noise

        clipped = _clipped(base, trained, data, alone(data), TrainingSettings(), mechanism, SecureNoise())
        noised = add_noise(clipped, mechanism.multiplier, SecureNoise()).total.double().numpy() / (50.0 * 1e-3)
    assert kstest(noised, "norm").pvalue > 1e-5


ARTISTS = [(0, 1, 2, 3, 4), (5,), (6, 7)]


def test_removing_a_whole_artist_changes_the_sum_by_at_most_the_bound(base: Base, latents: Latents) -> None:
    """The definition, and that it would not hold for an artist if drawings were clipped one by one."""
    adapter, data, plain = start(base, LoraSettings(rank=4)), latents(8), TrainingSettings(caption_dropout=0.0)
    factors = LoraFactors(base.unet)
    factors.load(Adapter(adapter.schema, adapter.a, adapter.b + 0.01))
    trained = Coordinates(factors)
    mechanism = Mechanism(multiplier=1.0, clip=1e-3, multiplicity=2, at_once=1)

    def total(rows: list[tuple[int, ...]], left_out: int) -> Tensor:
        source = _SameCoins(5, skip=left_out)
        return _clipped(base, trained, data, rows[: len(rows) - left_out], plain, mechanism, source).total

    with per_drawing_gradients(base.unet):
        last = [ARTISTS[1], ARTISTS[2], ARTISTS[0]]
        by_artist = float(torch.linalg.vector_norm(total(last, 0) - total(last, 1)))
        each: list[tuple[int, ...]] = [(5,), (6,), (7,), (0,), (1,), (2,), (3,), (4,)]
        by_drawing = float(torch.linalg.vector_norm(total(each, 0) - total(each, 5)))
    assert 0 < by_artist <= mechanism.clip
    assert by_drawing > mechanism.clip * 1.2


def test_an_artist_takes_no_longer_than_a_drawing_and_each_drawing_has_its_turn(base: Base, latents: Latents) -> None:
    asked: list[list[int]] = []

    class Watched(TrainingSet):
        def latents(self, index: Tensor, chance: torch.Generator) -> Tensor:
            asked.append(index.tolist())
            return super().latents(index, chance)

    plain = latents(8)
    data = Watched(plain.views, plain.states, plain.caption)
    lora, adapter = LoraSettings(rank=4), start(base, LoraSettings(rank=4))
    units = [Unit(frozenset(), rows) for rows in ARTISTS]
    mechanism = Mechanism(multiplier=1.0, clip=1e-3, multiplicity=4)
    few = TrainingSettings(steps=6)
    done = train_privately(base, adapter, data, lora, few, mechanism, SeededNoise(3), units=units, expected=3.0)
    assert done.examples == 3
    assert {len(index) for index in asked} == {4}, "of each unit as many draws, whatever it has"
    assert {row for index in asked for row in index} == set(range(8))


def test_the_public_number_divides_and_not_how_many_there_are(base: Base, latents: Latents) -> None:
    lora, adapter = LoraSettings(rank=4), start(base, LoraSettings(rank=4))
    parameters, seen = LoraFactors(base.unet).trained(), list[Tensor]()

    def watch(_: int) -> None:
        seen.append(torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None]))

    for expected in (4.0, 8.0):
        train_privately(
            base, adapter, latents(4), lora, TrainingSettings(steps=1), Mechanism(1.0, 1e-3), SeededNoise(3),
            after_step=watch, expected=expected,
        )  # fmt: skip
    assert torch.allclose(seen[0], 2 * seen[1])


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.0}, {"rate": 1.5}, {"rate": float("nan")}, {"multiplicity": 0}, {"at_once": 0}]
)
def test_a_mechanism_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PrivacyError):
        Mechanism(multiplier=1.0, clip=1.0, **wrong)  # type: ignore[arg-type]


def test_nothing_to_train_on_is_said(base: Base, latents: Latents) -> None:
    lora = LoraSettings()
    adapter = start(base, lora)
    with pytest.raises(TrainingError, match="no drawing to train on"):
        train_privately(base, adapter, latents(0), lora, TrainingSettings(), Mechanism(1.0, 1.0), SecureNoise())
