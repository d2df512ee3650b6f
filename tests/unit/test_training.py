"""Local training: it learns, it is a function of its seed, and it touches nothing but what it should."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from client.dataset import TrainingSet
from client.training import _stratified_timesteps, held_out_loss, train
from common.adapter_schema import Adapter
from common.errors import TrainingError
from common.models import Base, attach_lora
from common.settings import LoraSettings, RunSettings, TrainingSettings
from server.start import fresh_state

Latents = Callable[[int], TrainingSet]
FEW = TrainingSettings(steps=3, batch=4)


def start(base: Base, lora: LoraSettings) -> Adapter:
    schema = attach_lora(base.unet, lora)
    return fresh_state(schema, RunSettings(lora=lora)).adapter


def test_training_lowers_the_loss_on_what_it_trains_on(base: Base, latents: Latents) -> None:
    data, lora = latents(8), LoraSettings()
    adapter = start(base, lora)
    before = held_out_loss(base, adapter, data, FEW)
    done = train(base, adapter, data, lora, TrainingSettings(steps=25, batch=8), seed=1)
    after = held_out_loss(base, Adapter(adapter.schema, adapter.a, adapter.b + done.delta), data, FEW)
    assert after < before * 0.99


@pytest.mark.parametrize("method", ["ffa", "both"])
def test_the_same_seed_gives_the_same_update_and_another_one_another(base: Base, latents: Latents, method: str) -> None:
    lora = LoraSettings(method=method)  # type: ignore[arg-type]
    adapter, data = start(base, lora), latents(6)
    first, second, other = (train(base, adapter, data, lora, FEW, seed=s).delta for s in (5, 5, 6))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_the_update_has_the_length_of_what_is_trained(base: Base, latents: Latents) -> None:
    lora = LoraSettings(method="both")
    adapter = start(base, lora)
    assert train(base, adapter, latents(4), lora, FEW, 0).delta.shape == (adapter.schema.numel("both"),)


def test_training_leaves_base_weights_and_the_given_adapter_alone(base: Base, latents: Latents) -> None:
    lora = LoraSettings()
    adapter = start(base, lora)
    digest, a, b = base.digest, adapter.a.copy(), adapter.b.copy()
    frozen = {k: v.clone() for k, v in base.unet.state_dict().items() if "lora_" not in k}
    train(base, adapter, latents(4), lora, FEW, 0)
    assert all(torch.equal(v, frozen[k]) for k, v in base.unet.state_dict().items() if "lora_" not in k)
    assert np.array_equal(adapter.a, a)
    assert np.array_equal(adapter.b, b)
    assert base.digest == digest


def test_accumulated_batches_count_as_one_step(base: Base, latents: Latents) -> None:
    lora = LoraSettings()
    adapter, data = start(base, lora), latents(6)
    once = train(base, adapter, data, lora, TrainingSettings(steps=1, batch=4, accumulate=1), 0)
    twice = train(base, adapter, data, lora, TrainingSettings(steps=1, batch=4, accumulate=2), 0)
    # AdamW's first step moves each number by about the learning rate, however large its gradient is.
    assert float(np.abs(twice.delta).max()) == pytest.approx(float(np.abs(once.delta).max()), rel=0.05)


def test_no_drawing_is_a_clear_error(base: Base, latents: Latents) -> None:
    lora = LoraSettings()
    adapter = start(base, lora)
    with pytest.raises(TrainingError, match="no drawing"):
        train(base, adapter, latents(0), lora, FEW, 0)
    with pytest.raises(TrainingError, match="no held-out"):
        held_out_loss(base, adapter, latents(0), FEW)


def test_fewer_drawings_than_a_batch_are_enough(base: Base, latents: Latents) -> None:
    lora = LoraSettings()
    assert train(base, start(base, lora), latents(2), lora, TrainingSettings(steps=2, batch=16), 0).examples == 2


def test_training_that_diverges_is_an_error_and_not_an_update(base: Base, latents: Latents) -> None:
    lora = LoraSettings()
    adapter = start(base, lora)
    broken = Adapter(adapter.schema, adapter.a, np.full_like(adapter.b, 3e38))
    with pytest.raises(TrainingError, match="diverged"):
        train(base, broken, latents(4), lora, FEW, 0)


def test_held_out_losses_of_the_same_adapter_are_equal(base: Base, latents: Latents) -> None:
    lora = LoraSettings()
    adapter, data = start(base, lora), latents(5)
    first = held_out_loss(base, adapter, data, FEW)
    train(base, adapter, data, lora, FEW, 3)
    assert held_out_loss(base, adapter, data, FEW) == first


def test_timesteps_cover_the_schedule_evenly_and_each_is_uniform() -> None:
    chance = torch.Generator().manual_seed(0)
    draws = torch.stack([_stratified_timesteps(10, 1000, chance) for _ in range(2000)])
    assert int(draws.min()) >= 0
    assert int(draws.max()) <= 999
    assert all(sorted((row // 100).tolist()) == list(range(10)) for row in draws[:50])
    assert float(draws[:, 0].float().mean()) == pytest.approx(499.5, abs=25)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_both_predictions_are_trained(base: Base, latents: Latents, kind: str) -> None:
    base.schedule.register_to_config(prediction_type=kind)
    lora = LoraSettings()
    assert np.isfinite(train(base, start(base, lora), latents(4), lora, FEW, 0).loss)


def test_a_base_that_predicts_the_sample_is_refused(base: Base, latents: Latents) -> None:
    base.schedule.register_to_config(prediction_type="sample")
    lora = LoraSettings()
    with pytest.raises(TrainingError, match="cannot be trained"):
        train(base, start(base, lora), latents(4), lora, FEW, 0)
