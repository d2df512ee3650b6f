"""Adapters as files that other programs read.

``pytorch_lora_weights.safetensors`` beside ``adapter_config.json`` is what ``pipe.load_lora_weights(folder)`` of
diffusers and PEFT read. ComfyUI names layers differently, so the same weights lie beside it once more under the
names that it, Automatic1111 and Kohya's scripts share.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save, save_file

from common.adapter_schema import Adapter, AdapterSchema, LoraModule
from common.errors import AdapterError

WEIGHTS = "pytorch_lora_weights.safetensors"
CONFIG = "adapter_config.json"
COMFYUI = "comfyui_lora.safetensors"
_PREFIX = "unet."
_KEY = re.compile(r"^unet\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight$")


def write_adapter(folder: Path, adapter: Adapter, base: str) -> Path:
    """Write an adapter into an existing folder and return the path of its weights.

    Args:
        folder: Where.
        adapter: Both factors, float32; its alpha equals its rank, so that no reader scales it otherwise.
        base: What the base model's settings name it, for ``adapter_config.json``.

    Raises:
        OSError: The folder cannot be written.
    """
    target, config = folder / WEIGHTS, _config(adapter.schema)
    target.write_bytes(adapter_weights(adapter))
    save_file(_comfyui(adapter), folder / COMFYUI)
    (folder / CONFIG).write_text(
        json.dumps({**config, "peft_type": "LORA", "base_model_name_or_path": base}, indent=2) + "\n", "utf-8"
    )
    return target


def adapter_weights(adapter: Adapter) -> bytes:
    """Return what ``pytorch_lora_weights.safetensors`` holds for an adapter: the same bytes every time."""
    factors = {**adapter.schema.views(adapter.a, "A"), **adapter.schema.views(adapter.b, "B")}
    config = _config(adapter.schema)
    # diffusers looks for the configuration in the file's own metadata first.
    # One key only: safetensors writes several in an order that differs from call to call, and the file has a digest.
    metadata = {
        "lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in config.items()}, sort_keys=True),
    }
    content: bytes = save({f"{_PREFIX}{k}": _own(v) for k, v in factors.items()}, metadata=metadata)
    return content


def read_adapter(where: Path) -> Adapter:
    """Return the adapter in a folder or a weights file.

    Raises:
        AdapterError: There is none, or it is not made of LoRA factors of a U-Net.
    """
    file = where / WEIGHTS if where.is_dir() else where
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise AdapterError(
            "there is no adapter", got=str(where), expected=f"a folder with {WEIGHTS}, or that file"
        ) from None
    except (OSError, SafetensorError, ValueError) as cause:
        raise AdapterError(
            "the adapter file cannot be read", got=type(cause).__name__, expected="safetensors"
        ) from cause
    factors: dict[str, dict[str, NDArray[np.float32]]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if not match:
            raise AdapterError("the adapter file holds a tensor that is no LoRA factor of a U-Net", got=key[:80])
        factors.setdefault(match["module"], {})[match["factor"]] = tensor.astype(np.float32)
    schema = AdapterSchema(tuple(_module(name, factors[name]) for name in _ordered(file, factors)))
    named = {f"{m}.lora_{f}.weight": t for m, pair in factors.items() for f, t in pair.items()}
    a = schema.flatten({k: v for k, v in named.items() if ".lora_A." in k}, "A")
    b = schema.flatten({k: v for k, v in named.items() if ".lora_B." in k}, "B")
    return Adapter(schema, a, b)


def _module(name: str, pair: dict[str, NDArray[np.float32]]) -> LoraModule:
    if pair.keys() != {"A", "B"}:
        raise AdapterError("a layer of the adapter lacks a factor", got=", ".join(pair), expected="A and B")
    a, b = pair["A"], pair["B"]
    if a.ndim not in (2, 4) or b.ndim != a.ndim or a.shape[0] != b.shape[1]:
        raise AdapterError("a layer's factors do not belong together", got=f"{a.shape} and {b.shape}")
    kernel = (a.shape[2], a.shape[3]) if a.ndim == 4 else None
    return LoraModule(name, out_features=b.shape[0], in_features=a.shape[1], rank=a.shape[0], kernel=kernel)


def _ordered(file: Path, factors: dict[str, Any]) -> list[str]:
    """Return the modules in the order the schema had: kept beside the weights, since safetensors sorts its tensors."""
    try:
        config = json.loads((file.parent / CONFIG).read_text("utf-8"))
        order = [str(name) for name in config["target_modules"]]
    except (OSError, ValueError, KeyError, TypeError):
        return sorted(factors)
    return order if sorted(order) == sorted(factors) else sorted(factors)


def _config(schema: AdapterSchema) -> dict[str, Any]:
    rank = max(m.rank for m in schema.modules)
    return {
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": [m.name for m in schema.modules],
        "rank_pattern": {m.name: m.rank for m in schema.modules if m.rank != rank},
        "alpha_pattern": {m.name: m.rank for m in schema.modules if m.rank != rank},
        "bias": "none",
    }


def _comfyui(adapter: Adapter) -> dict[str, NDArray[np.float32]]:
    down, up = adapter.schema.views(adapter.a, "A"), adapter.schema.views(adapter.b, "B")
    out: dict[str, NDArray[np.float32]] = {}
    for module in adapter.schema.modules:
        name = "lora_unet_" + module.name.replace(".", "_")
        out[f"{name}.lora_down.weight"] = _own(down[f"{module.name}.lora_A.weight"])
        out[f"{name}.lora_up.weight"] = _own(up[f"{module.name}.lora_B.weight"])
        out[f"{name}.alpha"] = np.array(module.rank, np.float32)
    return out


def _own(view: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a contiguous copy: safetensors writes whole buffers."""
    return np.ascontiguousarray(view).copy()
