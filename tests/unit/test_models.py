"""The base and LoRA on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common.adapter_schema import Adapter
from common.base import base_folder
from common.errors import BaseModelError
from common.models import (
    Base,
    LoraFactors,
    adapter_schema,
    attach_lora,
    load_adapter,
    load_base,
    lora_layers,
)
from common.procedural import PALETTES, caption_of, styles, subjects
from common.settings import LoraSettings


def test_the_embedded_base_is_small_enough_to_ship() -> None:
    assert sum(f.stat().st_size for f in base_folder().rglob("*.safetensors")) <= 12_000_000


def test_every_word_of_the_public_captions_is_one_token(base: Base) -> None:
    for subject in subjects.PUBLIC:
        for style in styles.PUBLIC:
            caption = caption_of(subject, style, next(iter(PALETTES)))
            assert len(base.tokenizer(caption).input_ids) - 2 == len(caption.split())


def test_any_text_becomes_tokens(base: Base) -> None:
    assert base.encode_text(["日本 ø 🎨", "", "x" * 5000]).shape == (3, 32, 64)


def test_an_adapter_does_not_change_the_digest_of_the_base(base: Base) -> None:
    bare = load_base().digest
    attach_lora(base.unet, LoraSettings())
    LoraFactors(base.unet).write("B", np.ones_like(LoraFactors(base.unet).read("B")))
    assert base.digest == bare


def test_a_changed_weight_changes_the_digest(base: Base) -> None:
    other = load_base()
    with torch.no_grad():
        other.unet.conv_in.bias[0] += 1e-3
    assert other.digest != base.digest


def test_a_local_folder_is_loaded_with_the_same_digest(base: Base, tmp_path: Path) -> None:
    shutil.copytree(base_folder(), tmp_path / "copy")
    assert load_base(str(tmp_path / "copy")).digest == base.digest


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(base_folder(), folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_base(str(folder))


def test_a_damaged_base_is_a_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(base_folder(), folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_base(str(folder))


def test_a_hub_id_without_a_revision_is_refused() -> None:
    with pytest.raises(BaseModelError, match="pinned revision"):
        load_base("stable-diffusion-v1-5/stable-diffusion-v1-5")


def test_a_source_that_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="there is no such base"):
        load_base("no such thing at all")
    with pytest.raises(BaseModelError, match=r"model_index\.json"):
        load_base(str(tmp_path))


def test_only_b_is_trained_under_ffa_and_both_factors_else(base: Base) -> None:
    schema = attach_lora(base.unet, LoraSettings(method="ffa"))
    assert sum(p.numel() for p in LoraFactors(base.unet).trained()) == schema.numel("B")
    schema = attach_lora(base.unet, LoraSettings(method="both"))
    assert sum(p.numel() for p in LoraFactors(base.unet).trained()) == schema.numel("both")


def test_attaching_again_leaves_one_adapter(base: Base) -> None:
    attach_lora(base.unet, LoraSettings(rank=8))
    schema = attach_lora(base.unet, LoraSettings(rank=2))
    assert {m.rank for m in schema.modules} == {2}
    assert adapter_schema(base.unet) == schema


def test_a_later_adapter_on_fewer_layers_leaves_nothing_of_the_earlier_one(base: Base) -> None:
    """A site works for one run after another, and their targets differ."""
    weights = base.digest
    wide = attach_lora(base.unet, LoraSettings(rank=4, targets=("to_q", "ff.net.2", "conv1")))
    narrow = attach_lora(base.unet, LoraSettings(rank=2, targets=("to_q",)))
    assert len(narrow.modules) < len(wide.modules)
    assert {module.rank for module in narrow.modules} == {2}
    assert [name for name, _ in lora_layers(base.unet)] == [module.name for module in narrow.modules]
    assert base.digest == weights


def test_targets_that_match_nothing_are_refused(base: Base) -> None:
    with pytest.raises(BaseModelError, match="no layer"):
        attach_lora(base.unet, LoraSettings(targets=("to_nowhere",)))


@pytest.mark.parametrize("targets", [LoraSettings().targets, ("conv1", "to_q", "ff.net.2")])
def test_factors_come_back_as_they_were_written(base: Base, targets: tuple[str, ...]) -> None:
    schema = attach_lora(base.unet, LoraSettings(rank=3, targets=targets))
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(schema.numel(part)).astype(np.float32) for part in ("A", "B"))
    load_adapter(base.unet, Adapter(schema, a, b))
    assert np.array_equal(LoraFactors(base.unet).read("A"), a)
    assert np.array_equal(LoraFactors(base.unet).read("B"), b)


def test_a_vector_of_another_length_is_refused(base: Base) -> None:
    attach_lora(base.unet, LoraSettings())
    with pytest.raises(BaseModelError, match="does not fit"):
        LoraFactors(base.unet).write("B", np.zeros(3, np.float32))


def test_an_adapter_with_b_zero_changes_no_output(base: Base) -> None:
    x, t, words = torch.randn(1, 4, 16, 16), torch.tensor([500]), base.encode_text(["a boat"])
    with torch.no_grad():
        before = base.unet(x, t, words).sample
        attach_lora(base.unet, LoraSettings())
        after = base.unet(x, t, words).sample
    assert torch.allclose(before, after, atol=1e-6)
