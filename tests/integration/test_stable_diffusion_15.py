"""The true architecture of Stable Diffusion 1.5, with random weights: LoRA fits it, and a step fits a laptop."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

STEP = """
import json, resource
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from client.dataset import TrainingSet
from client.training import train
from common.base.architecture import VAE
from common.models import LoraFactors, attach_lora, from_pipeline, load_base
from common.settings import LoraSettings, RunSettings, TrainingSettings
from server.start import fresh_state

unet = UNet2DConditionModel(
    sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
)
text = CLIPTextModel(CLIPTextConfig(hidden_size=768, num_hidden_layers=1, num_attention_heads=12, vocab_size=700))
pipeline = StableDiffusionPipeline(
    vae=AutoencoderKL(**VAE), text_encoder=text, tokenizer=load_base().tokenizer, unet=unet,
    scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1),
    safety_checker=None, feature_extractor=None, requires_safety_checker=False,
)
base = from_pipeline(pipeline, "random")
weights = sum(p.numel() for p in unet.parameters())
counts = {}
for method in ("both", "ffa"):
    lora = LoraSettings(method=method)
    schema = attach_lora(unet, lora)
    counts[method] = sum(p.numel() for p in LoraFactors(unet).trained())
data = TrainingSet(torch.randn(1, 1, 4, 64, 64), torch.randn(2, 77, 768), torch.zeros(1, dtype=torch.int64))
adapter = fresh_state(schema, RunSettings(lora=lora)).adapter
done = train(base, adapter, data, lora, TrainingSettings(steps=1, batch=1), 0)
print(json.dumps({
    "weights": weights, "layers": len(schema.modules), "trained": counts, "loss": done.loss,
    "moved": float(abs(done.delta).max()), "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
}))
"""


@pytest.mark.slow
def test_one_training_step_on_stable_diffusion_15_fits_into_16_gib() -> None:
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["weights"] == 859_520_964
    assert facts["layers"] == 128
    assert facts["trained"]["both"] == 1_594_368
    assert facts["trained"]["both"] / facts["weights"] < 0.01
    assert facts["moved"] > 0
    assert facts["peak_gib"] < 16
