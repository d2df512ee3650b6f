"""Membership inference: the figures are those of the definitions, and the attacks see what training leaves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from client.dataset import TrainingSet, encode
from client.membership import Attack, attack, losses, measure_leak, secmi
from client.training import train
from common.adapter_schema import Adapter
from common.errors import DrawingsError
from common.models import Base, attach_lora
from common.settings import LoraSettings, RunSettings, TrainingSettings
from server.start import fresh_state
from tests.unit.test_copies import drawing_of, strokes

Latents = Callable[[int], TrainingSet]
SIDE = st.lists(st.integers(0, 30), min_size=8, max_size=25)


@settings(max_examples=20, deadline=None)
@given(SIDE, SIDE)
def test_the_area_is_mann_and_whitneys_statistic_also_with_ties(members: list[int], others: list[int]) -> None:
    leak = measure_leak(np.array(members, float), np.array(others, float))
    wanted = float(mannwhitneyu(members, others).statistic) / (len(members) * len(others))
    assert leak.auc.value == pytest.approx(wanted)
    assert leak.auc.low - 1e-9 <= leak.auc.value <= leak.auc.high + 1e-9


def test_members_found_without_a_false_alarm_by_hand() -> None:
    others = np.arange(10.0)  # with ten others, one per cent allows none
    assert measure_leak(np.array([9.0, 9.5, 10, 11, 1, 2, 3, 4]), others).tpr.value == 3 / 8
    assert measure_leak(others + 100, others).tpr.value == 1
    assert measure_leak(others, others).tpr.value == 0


def test_one_false_alarm_in_a_hundred_is_allowed() -> None:
    others = np.array([*range(99), 1000.0])
    assert measure_leak(np.full(8, 500.0), others).tpr.value == 1


def test_the_interval_narrows_with_more_drawings_and_guessing_lies_in_it() -> None:
    chance = np.random.default_rng(3)
    few, many = (measure_leak(chance.standard_normal(n), chance.standard_normal(n)).auc for n in (20, 400))
    assert many.high - many.low < (few.high - few.low) / 2
    assert many.low <= 0.5 <= many.high


def test_too_few_drawings_are_refused() -> None:
    with pytest.raises(DrawingsError, match="too few drawings"):
        measure_leak(np.zeros(7), np.zeros(20))


def started(base: Base) -> tuple[Adapter, LoraSettings]:
    lora = LoraSettings(rank=32, method="both", targets=("to_q", "to_k", "to_v", "ff.net.2", "conv1", "conv2"))
    return fresh_state(attach_lora(base.unet, lora), RunSettings(lora=lora)).adapter, lora


@pytest.mark.parametrize("by", [losses, secmi])
def test_an_adapter_that_learned_nothing_gives_nothing_away(base: Base, latents: Latents, by: Attack) -> None:
    adapter, _ = started(base)
    assert np.abs(attack(base, adapter, adapter, latents(5), by)).max() == 0


@pytest.mark.parametrize("by", [losses, secmi])
def test_what_was_trained_on_scores_higher_than_what_was_not(base: Base, by: Attack) -> None:
    adapter, lora = started(base)
    pages = [drawing_of(page, "lines") for page in strokes(10, 1)]
    members, others = encode(base, pages[:2]), encode(base, pages[2:])
    long = TrainingSettings(steps=60, batch=4, learning_rate=3e-3, weight_decay=0.0, caption_dropout=0.0)
    delta = torch.from_numpy(train(base, adapter, members, lora, long, seed=0).delta)
    after = _moved(adapter, delta)
    scores = [attack(base, adapter, after, data, by) for data in (members, others)]
    assert (scores[0][:, None] > scores[1]).mean() >= 0.9


def _moved(start: Adapter, delta: torch.Tensor) -> Adapter:
    from common.adapters import split

    change = split(start.schema, delta.numpy())
    return Adapter(start.schema, start.a + change.a, start.b + change.b)
