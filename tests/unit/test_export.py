"""Adapters as files: a stock pipeline draws the same picture from them as ours does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.numpy import load_file, save_file

from common.adapter_schema import Adapter
from common.base import base_folder
from common.errors import AdapterError
from common.export import COMFYUI, CONFIG, WEIGHTS, read_adapter, write_adapter
from common.models import Base, attach_lora, load_adapter
from common.sampling import sample, starting_noise
from common.settings import LoraSettings


def trained(base: Base, targets: tuple[str, ...] = LoraSettings().targets) -> Adapter:
    schema = attach_lora(base.unet, LoraSettings(rank=4, targets=targets))
    rng = np.random.default_rng(0)
    a, b = (0.3 * rng.standard_normal(schema.numel(part)).astype(np.float32) for part in ("A", "B"))
    return Adapter(schema, a, b)


@pytest.mark.parametrize("targets", [LoraSettings().targets, ("to_k", "conv1", "ff.net.0.proj")])
@pytest.mark.parametrize("name", [WEIGHTS, COMFYUI])
def test_a_stock_pipeline_draws_the_same_picture(
    base: Base, tmp_path: Path, targets: tuple[str, ...], name: str
) -> None:
    if name == COMFYUI and "conv1" in targets:
        pytest.skip("diffusers' own reader of the ComfyUI names does not take convolutions of a U-Net")
    adapter = trained(base, targets)
    write_adapter(tmp_path, adapter, "embedded")
    plain = sample(base, ["an ink drawing of a boat"], seed=3, steps=6, guidance=4.0)
    load_adapter(base.unet, adapter)
    ours = sample(base, ["an ink drawing of a boat"], seed=3, steps=6, guidance=4.0)

    stock = StableDiffusionPipeline.from_pretrained(str(base_folder()), dtype=torch.float32, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    stock.load_lora_weights(str(tmp_path), weight_name=name)
    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config)
    theirs = stock(
        "an ink drawing of a boat", latents=starting_noise(base, 3), num_inference_steps=6, guidance_scale=4.0,
        guidance_rescale=0.7, output_type="np",
    ).images  # fmt: skip
    assert np.abs(np.rint(theirs * 255) - ours.astype(float)).max() <= 1
    assert np.abs(plain.astype(float) - ours.astype(float)).max() > 20, "the adapter changes nothing"


def test_an_adapter_comes_back_as_it_was_written(base: Base, tmp_path: Path) -> None:
    adapter = trained(base, ("to_q", "conv1"))
    for where in (tmp_path, write_adapter(tmp_path, adapter, "embedded")):
        back = read_adapter(where)
        assert back.schema == adapter.schema
        assert np.array_equal(back.a, adapter.a)
        assert np.array_equal(back.b, adapter.b)


def test_the_configuration_is_what_peft_reads(base: Base, tmp_path: Path) -> None:
    write_adapter(tmp_path, trained(base), "embedded")
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 4)


def test_the_weights_alone_are_enough(base: Base, tmp_path: Path) -> None:
    adapter = trained(base)
    file = write_adapter(tmp_path, adapter, "embedded").rename(tmp_path / "alone.safetensors")
    (tmp_path / CONFIG).unlink()
    assert {m.name for m in read_adapter(file).schema.modules} == {m.name for m in adapter.schema.modules}


def test_files_that_are_no_adapters_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="there is no adapter"):
        read_adapter(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"hello")
    with pytest.raises(AdapterError, match="cannot be read"):
        read_adapter(tmp_path)
    save_file({"text_encoder.x.lora_A.weight": np.zeros((2, 2), np.float32)}, tmp_path / WEIGHTS)
    with pytest.raises(AdapterError, match="no LoRA factor"):
        read_adapter(tmp_path)
    save_file({"unet.x.lora_A.weight": np.zeros((2, 2), np.float32)}, tmp_path / WEIGHTS)
    with pytest.raises(AdapterError, match="lacks a factor"):
        read_adapter(tmp_path)


def test_the_comfyui_file_holds_every_layer_under_its_names(base: Base, tmp_path: Path) -> None:
    adapter = trained(base)
    write_adapter(tmp_path, adapter, "embedded")
    names = load_file(tmp_path / COMFYUI)
    assert len(names) == 3 * len(adapter.schema.modules)
    assert all(n.startswith("lora_unet_") for n in names)


def test_equal_adapters_give_equal_files(base: Base, tmp_path: Path) -> None:
    adapter = trained(base)
    files = set()
    for name in "abcdef":
        (tmp_path / name).mkdir()
        files.add(write_adapter(tmp_path / name, adapter, "embedded").read_bytes())
    assert len(files) == 1
