"""Physical batches: as many units together as a studio's memory holds, and never none."""

from __future__ import annotations

import pytest

from client.physical_batches import _kept_a_row, fitting
from common.models import Base, LoraFactors, attach_lora
from common.settings import LoraSettings


def test_more_memory_holds_more_units_up_to_what_is_wanted_and_never_none(base: Base) -> None:
    attach_lora(base.unet, LoraSettings())
    parameters = LoraFactors(base.unet).trained()
    found = [fitting(base, parameters, 4, mib, 16) for mib in (1, 100, 200, 400, 100_000)]
    assert found == sorted(found)
    assert found[0] == 1
    assert 1 < found[2] < 16
    assert found[-1] == 16
    assert fitting(base, parameters, 1, 100, 16) >= 3 * fitting(base, parameters, 4, 100, 16), "draws are rows"


def test_what_a_row_keeps_is_that_of_its_layers_and_not_of_the_base(base: Base) -> None:
    attach_lora(base.unet, LoraSettings())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in base.unet.parameters())
    kept = _kept_a_row(base)
    assert 2**20 < kept < weights
    assert _kept_a_row(base) == kept


@pytest.mark.parametrize("rank", [1, 64])
def test_a_larger_adapter_takes_more_of_it(base: Base, rank: int) -> None:
    attach_lora(base.unet, LoraSettings(rank=rank, targets=("to_q", "to_out.0", "ff.net.2", "conv1")))
    few = fitting(base, LoraFactors(base.unet).trained(), 1, 256, 64)
    attach_lora(base.unet, LoraSettings(rank=2 * rank, targets=("to_q", "to_out.0", "ff.net.2", "conv1")))
    assert fitting(base, LoraFactors(base.unet).trained(), 1, 256, 64) <= few
