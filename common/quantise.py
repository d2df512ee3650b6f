"""Encodings of float32 vectors on the wire: fp32, fp16, bf16 and int8 with a scale for each block of 256.

int8 rounds at random, up or down so that the expectation is the value itself (stochastic rounding, as in QSGD,
arXiv 1610.02132): the mean of many sites' updates then carries no common bias. All of it is post-processing of what
a site may send anyway, so it changes nothing about privacy.

Everything here works in blocks that stay in the processor's cache, and writes little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from common.settings import Encoding

Flat: TypeAlias = NDArray[np.float32]
"""A one-dimensional float32 vector in schema order."""

BLOCK = 256
"""Numbers that share one scale under int8; the last block may be shorter."""

ITEM_BYTES: dict[Encoding, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Bytes of one number, without the scales of int8."""

_CHUNK = 128 * BLOCK
"""32,768 numbers: 128 KiB as float32."""

_FP16_STEPS = np.float32(0.75)
_LEAST_NORMAL_FP16 = np.float32(2**-14)

_LEAST_SCALE = float(np.finfo(np.float32).tiny)
"""A smaller scale would be subnormal and lose its precision: such a block (all below 1.5e-36) is written as zeros."""

_MOST_SCALE = float(np.finfo(np.float32).max) / 128
"""With a scale up to this, every int8 value decodes to a finite number."""


def scale_count(numel: int) -> int:
    """Return how many int8 scales a vector of ``numel`` numbers has."""
    return -(-numel // BLOCK)


def all_finite(flat: Flat) -> bool:
    """Return whether a vector holds neither NaN nor infinity, in one pass and without a copy."""
    flags = np.empty(min(_CHUNK, flat.size), np.bool_)
    return all(np.isfinite(flat[span], out=flags[: span.stop - span.start]).all() for span in _spans(flat.size))


def encode(flat: Flat, encoding: Encoding, seed: int) -> list[NDArray[Any]]:
    """Encode a finite vector.

    Args:
        flat: Finite.
        encoding: How.
        seed: Decides the rounding under int8; of no effect otherwise.

    Returns:
        The arrays to write one after the other: the scales (float32) and the values under int8, else the values.
        A value too large for the encoding is not told here; see :func:`overflows`.
    """
    if encoding == "fp32":
        return [flat.astype("<f4", copy=False)]
    if encoding == "fp16":
        return [_to_fp16(flat)]
    if encoding == "bf16":
        return [_to_bf16(flat)]
    return list(_to_int8(flat, np.random.Generator(np.random.Philox(seed))))


def overflows(encoded: list[NDArray[Any]], encoding: Encoding) -> bool:
    """Return whether :func:`encode` met a value that its encoding cannot hold."""
    if encoding == "fp32":
        return False
    if encoding == "int8":
        return bool((encoded[0] > _MOST_SCALE).any())
    infinite = 0x7C00 if encoding == "fp16" else 0x7F80
    bits = encoded[0].view(np.uint16)
    return any(bool(((bits[span] & 0x7FFF) >= infinite).any()) for span in _spans(bits.size))


def decode(data: memoryview, numel: int, encoding: Encoding, out: Flat) -> bool:
    """Decode into ``out`` and say whether every number is finite.

    Args:
        data: The encoded bytes, exactly as many as :func:`encode` makes.
        numel: How many numbers.
        encoding: How they are encoded.
        out: float32 [numel], written whole, whatever is returned.

    Returns:
        False if there is a NaN or an infinity (under int8: a scale that could make one, or a negative scale).
    """
    if encoding == "int8":
        return _from_int8(data, numel, out)
    values = np.frombuffer(data, {"fp32": "<f4", "fp16": "<f2", "bf16": "<u2"}[encoding])
    flags = np.empty(min(_CHUNK, numel), np.bool_)
    finite = True
    for span in _spans(numel):
        target = out[span]
        if encoding == "bf16":
            np.left_shift(values[span], 16, out=target.view(np.uint32), dtype=np.uint32)
        else:
            np.copyto(target, values[span])
        finite &= bool(np.isfinite(target, out=flags[: target.size]).all())  # while the block is still in the cache
    return finite


def _spans(numel: int) -> Iterator[slice]:
    for start in range(0, numel, _CHUNK):
        yield slice(start, min(start + _CHUNK, numel))


def _to_fp16(flat: Flat) -> NDArray[Any]:
    """Round to nearest, ties to even, as NumPy does; what it does too slowly is done for it.

    NumPy raises a processor flag for each number that fp16 cannot hold exactly below 2^-14, at 80 ns each. Near 0.75
    float32 has the very steps that fp16 has there, so adding and subtracting that rounds such numbers beforehand.
    """
    encoded = np.empty(flat.size, "<f2")
    with np.errstate(over="ignore"):
        for span in _spans(flat.size):
            piece = flat[span]
            tiny = np.copysign((piece + _FP16_STEPS) - _FP16_STEPS, piece)
            encoded[span] = np.where(np.abs(piece) < _LEAST_NORMAL_FP16, tiny, piece)
    return encoded


def _to_bf16(flat: Flat) -> NDArray[Any]:
    """Round to nearest, ties to even: the upper half of the float32 bits after adding just under half a unit."""
    encoded = np.empty(flat.size, "<u2")
    for span in _spans(flat.size):
        bits = flat[span].view(np.uint32)
        encoded[span] = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return encoded


def _to_int8(flat: Flat, chance: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    scales = np.empty(scale_count(flat.size), "<f4")
    values = np.empty(flat.size, np.int8)
    for span in _spans(flat.size):
        piece = flat[span]
        padded = np.zeros(scale_count(piece.size) * BLOCK, np.float32)
        padded[: piece.size] = piece
        blocks = padded.reshape(-1, BLOCK)
        scale = np.abs(blocks).max(axis=1) / np.float32(127)
        scale[scale < _LEAST_SCALE] = 0
        scaled = np.divide(blocks, scale[:, None], out=np.zeros_like(blocks), where=scale[:, None] > 0)
        below = np.floor(scaled)
        # the draw is compared with the fraction, not added to the value: a sum would be rounded, and lean
        rounded = below + (chance.random(blocks.shape, np.float32) < scaled - below)
        scales[span.start // BLOCK : span.start // BLOCK + len(scale)] = scale
        values[span] = np.clip(rounded, -127, 127).reshape(-1)[: piece.size]
    return scales, values


def _from_int8(data: memoryview, numel: int, out: Flat) -> bool:
    count = scale_count(numel)
    scales = np.frombuffer(data, "<f4", count)
    values = np.frombuffer(data, np.int8, numel, offset=count * 4)
    for span in _spans(numel):
        target = out[span]
        np.copyto(target, values[span])
        first, whole = span.start // BLOCK, target.size // BLOCK
        blocks = target[: whole * BLOCK].reshape(-1, BLOCK)
        with np.errstate(over="ignore", invalid="ignore"):  # a hostile scale; refused below
            blocks *= scales[first : first + whole, None]
            target[whole * BLOCK :] *= scales[first + whole] if target.size % BLOCK else np.float32(1)
    return bool(((scales >= 0) & (scales <= _MOST_SCALE)).all())
