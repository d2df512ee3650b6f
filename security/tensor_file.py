"""Tensors and facts about them in one file: safetensors, with JSON and a digest of both in its header.

Nothing is pickled, so reading such a file runs nothing. The digest tells damage from a difference; it is no signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


def write_tensors(tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> bytes:
    """Return tensors and what is to be known of them as one file.

    Args:
        tensors: By name.
        about: What JSON can hold.
    """
    text = json.dumps(about, sort_keys=True)
    digest = hashlib.sha256(text.encode() + save(dict(tensors))).hexdigest()
    # One entry: safetensors writes several in an order that differs from time to time.
    return bytes(save(dict(tensors), {"bottega": json.dumps({"about": about, "sha256": digest}, sort_keys=True)}))


def read_tensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return what :func:`write_tensors` wrote; None when a byte of it is not as it was written."""
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads(header["__metadata__"]["bottega"])["about"]
        same = write_tensors(tensors, about) == data
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return (tensors, about) if same else None
