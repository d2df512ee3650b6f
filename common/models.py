"""The base model: loading it, its digest, and LoRA on its U-Net.

A base is a Stable Diffusion pipeline: the embedded one, a local diffusers folder, or a hub id with a pinned
revision. Only the U-Net is ever adapted; autoencoder, text encoder and tokenizer stay frozen.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from common.adapter_schema import Adapter, AdapterSchema, LoraModule, Part
from common.base import base_folder
from common.errors import BaseModelError
from common.settings import EMBEDDED_BASE, LoraSettings

ADAPTER_NAME = "default"
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@(?P<revision>[0-9a-f]{40}))?$")


@dataclass(frozen=True)
class Base:
    """A loaded base model, float32, frozen.

    Attributes:
        source: What it was loaded from, as the settings name it.
        unet: The denoiser; adapters are attached to it in place.
        schedule: The training noise schedule of the pipeline's own configuration.
    """

    source: str
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    schedule: DDPMScheduler
    pipeline: StableDiffusionPipeline

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over every frozen weight, the tokenizer's vocabulary and the noise schedule.

        Two sites with equal digests train the same thing. Adapter weights do not count.
        """
        sha = hashlib.sha256()
        for part, module in (("unet", self.unet), ("vae", self.vae), ("text_encoder", self.text_encoder)):
            for name, tensor in _frozen_weights(module):
                sha.update(f"{part}.{name}:{tuple(tensor.shape)};".encode())
                sha.update(tensor.float().contiguous().cpu().numpy().data)
        sha.update(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode())
        kept = (
            "num_train_timesteps",
            "beta_schedule",
            "beta_start",
            "beta_end",
            "prediction_type",
            "rescale_betas_zero_snr",
        )
        sha.update(json.dumps({k: self.schedule.config.get(k) for k in kept}, sort_keys=True).encode())
        return sha.hexdigest()

    @property
    def pixels(self) -> int:
        """Width and height of the pictures it was trained on."""
        return int(self.unet.config.sample_size) * int(self.pipeline.vae_scale_factor)

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        device: torch.device = next(self.unet.parameters()).device
        return device

    def to(self, device: torch.device | str) -> Base:
        """Move everything to ``device`` in place and return self."""
        self.pipeline.to(device)
        return self

    @torch.no_grad()
    def encode_text(self, captions: Iterable[str]) -> Tensor:
        """Return the text encoder's states, float32 [n, tokens, width]."""
        ids = self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        states: Tensor = self.text_encoder(ids.to(self.device))[0]
        return states

    @torch.no_grad()
    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """Return scaled latents of float32 [n, 3, h, w] pictures in [-1, 1], the means of their posteriors."""
        latents: Tensor = self.vae.encode(pictures.to(self.device)).latent_dist.mode()
        return latents * float(self.vae.config.scaling_factor)


def load_base(source: str = EMBEDDED_BASE) -> Base:
    """Load a base model, safetensors only, never code from the hub.

    Args:
        source: ``embedded``, a folder in diffusers' layout, or ``owner/name@<40-digit commit>`` on the hub.

    Raises:
        BaseModelError: There is no such base, it holds no safetensors, or a hub id pins no revision.
    """
    where, revision = _located(source)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            where,
            revision=revision,
            use_safetensors=True,
            dtype=torch.float32,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as cause:
        raise BaseModelError(f"the base '{source}' cannot be loaded", got=_first_line(cause)) from cause
    return from_pipeline(pipeline, source)


def from_pipeline(pipeline: StableDiffusionPipeline, source: str) -> Base:
    """Return the base that a loaded pipeline holds, frozen and in evaluation mode."""
    pipeline.set_progress_bar_config(disable=True)
    for module in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        module.requires_grad_(False)
        module.eval()
    return Base(
        source=source,
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        unet=pipeline.unet,
        schedule=DDPMScheduler.from_config(pipeline.scheduler.config),
        pipeline=pipeline,
    )


def _located(source: str) -> tuple[str, str | None]:
    if source == EMBEDDED_BASE:
        return str(base_folder()), None
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise BaseModelError(
                "the base folder is not in diffusers' layout", got=str(folder), expected="model_index.json in it"
            )
        return str(folder), None
    match = _HUB_ID.match(source)
    if not match:
        raise BaseModelError(
            "there is no such base", got=source, expected="'embedded', a diffusers folder, or owner/name@commit"
        )
    if not match["revision"]:
        raise BaseModelError(
            "a base from the hub needs a pinned revision, or two sites could load two models",
            got=source,
            expected=f"{source}@<commit>",
        )
    return source.partition("@")[0], match["revision"]


def attach_lora(unet: UNet2DConditionModel, settings: LoraSettings) -> AdapterSchema:
    """Attach fresh LoRA layers to ``unet`` in place (removing earlier ones) and return their schema.

    Under ``ffa`` only the B factors ask for gradients; under ``both`` A does too.

    Raises:
        BaseModelError: No module of the U-Net matches the targets.
    """
    if getattr(unet, "peft_config", None):
        unet.unload_lora()  # `delete_adapters` would leave the wrappers on layers that the next adapter may not have
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.rank,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        init_lora_weights="gaussian",
    )
    try:
        unet.add_adapter(config, adapter_name=ADAPTER_NAME)
    except ValueError as cause:
        raise BaseModelError("no layer of the U-Net can carry this adapter", got=", ".join(settings.targets)) from cause
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("lora_B" in name or (settings.method == "both" and "lora_A" in name))
    return adapter_schema(unet)


def adapter_schema(unet: nn.Module) -> AdapterSchema:
    """Derive the ordered schema of the adapter that ``unet`` carries."""
    return AdapterSchema(tuple(_described(name, layer) for name, layer in lora_layers(unet)))


def lora_layers(unet: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Yield ``(name, layer)`` of every layer that carries LoRA, in the model's own order."""
    for name, module in unet.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _described(name: str, layer: LoraLayer) -> LoraModule:
    a: Tensor = layer.lora_A[ADAPTER_NAME].weight
    b: Tensor = layer.lora_B[ADAPTER_NAME].weight
    kernel = (int(a.shape[2]), int(a.shape[3])) if a.ndim == 4 else None
    return LoraModule(name, out_features=b.shape[0], in_features=a.shape[1], rank=a.shape[0], kernel=kernel)


class LoraFactors:
    """The factors that a U-Net carries, found once: walking all its modules takes as long as a part of a step.

    Args:
        unet: With LoRA attached; a later :func:`attach_lora` makes other factors.
    """

    def __init__(self, unet: nn.Module) -> None:
        self._pairs = [
            (layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight) for _, layer in lora_layers(unet)
        ]

    def trained(self) -> list[nn.Parameter]:
        """Return the factors that training changes, in schema order."""
        return [tensor for tensor in self._of("both") if tensor.requires_grad]

    def read(self, part: Part) -> NDArray[np.float32]:
        """Return the factors as one flat float32 vector in schema order, a copy."""
        return np.concatenate([t.detach().reshape(-1).float().cpu().numpy() for t in self._of(part)])

    @torch.no_grad()
    def write(self, part: Part, flat: NDArray[np.float32]) -> None:
        """Set the factors from a flat float32 vector in schema order.

        Raises:
            BaseModelError: The vector is of another length.
        """
        tensors = list(self._of(part))
        total = sum(t.numel() for t in tensors)
        if flat.size != total:
            raise BaseModelError("the adapter does not fit the U-Net", got=f"{flat.size} numbers", expected=f"{total}")
        at = 0
        for tensor in tensors:
            piece = torch.from_numpy(np.array(flat[at : at + tensor.numel()], dtype=np.float32))
            tensor.copy_(piece.view(tensor.shape))
            at += tensor.numel()

    def load(self, adapter: Adapter) -> None:
        """Set both factors from ``adapter``."""
        self.write("A", adapter.a)
        self.write("B", adapter.b)

    def _of(self, part: Part) -> Iterator[nn.Parameter]:
        for a, b in self._pairs:
            if part in ("A", "both"):
                yield a
            if part in ("B", "both"):
                yield b


def load_adapter(unet: nn.Module, adapter: Adapter) -> None:
    """Set both factors of ``unet`` from ``adapter``."""
    LoraFactors(unet).load(adapter)


def _frozen_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in sorted(module.state_dict().items()):
        if "lora_" not in name:
            yield name.replace(".base_layer", ""), tensor


def _first_line(cause: BaseException) -> str:
    text = str(cause).strip()
    return text.splitlines()[0][:200] if text else type(cause).__name__
