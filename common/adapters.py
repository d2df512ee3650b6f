"""Adapters as bytes: safetensors with a header that is fixed, byte for byte, by schema, part and encoding.

The reader builds the header that it expects and compares. So nothing that a stranger writes steers the reading (no
offset, length or name of theirs is ever followed), and no second spelling of the same file exists. Only when the two
differ is the strange header parsed, to say what is wrong with it.

Any safetensors reader opens these files; under ``int8`` it finds the integers and, first, ``block_scales``.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NoReturn, get_args

import numpy as np

from common.adapter_schema import (
    Adapter,
    AdapterSchema,
    LoraModule,
    Part,
    TensorSpec,
    check_flat,
    check_names,
    join,
    split,
)
from common.errors import AdapterError
from common.quantise import (
    BLOCK,
    ITEM_BYTES,
    Flat,
    all_finite,
    decode,
    encode,
    overflows,
    scale_count,
)
from common.settings import Encoding

VERSION = "1"

_SCALES = "block_scales"
_DTYPES: dict[Encoding, str] = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "I8"}
_LENGTH_BYTES = 8
_MOST_STRANGE_HEADER = 2**22
"""Longer headers are not parsed even to explain what is wrong with them."""


class NotFiniteError(AdapterError):
    """An adapter holds a NaN or an infinity."""

    advice = "Lower the learning rate and train the round again; nothing of this adapter was used."


def pack(flat: Flat, schema: AdapterSchema, part: Part, encoding: Encoding, seed: int = 0) -> bytes:
    """Write a flat vector as a safetensors file.

    Args:
        flat: float32 [schema.numel(part)], finite.
        schema: What it holds.
        part: Which factors.
        encoding: How its numbers are written.
        seed: Decides the rounding under int8; another one for each site and round, or their errors add up.

    Returns:
        The file: header, then the numbers in schema order.

    Raises:
        AdapterError: The vector does not fit the schema, or a value is too large for the encoding.
        NotFiniteError: It holds a NaN or an infinity.
    """
    check_flat(flat, schema, part)
    if not all_finite(flat):
        _refuse_not_finite(flat, schema, part)
    encoded = encode(flat, encoding, seed)
    if overflows(encoded, encoding):
        raise AdapterError(
            f"a value is too large for {encoding}",
            expected="a wider encoding",
            advice="Set `encoding` to fp32, or train with a smaller learning rate.",
        )
    return b"".join([_header(schema, part, encoding), *(array.data.cast("B") for array in encoded)])


def unpack(
    data: bytes | memoryview,
    schema: AdapterSchema,
    part: Part,
    encoding: Encoding | None = None,
    out: Flat | None = None,
) -> Flat:
    """Read a flat vector out of bytes from anywhere.

    Guarantees: whatever the bytes are, the result is a finite vector of the schema, or the error is an AdapterError.

    Args:
        data: What :func:`pack` wrote.
        schema: What it must hold.
        part: Which factors it must hold.
        encoding: How its numbers must be written; None for any encoding that the header names.
        out: float32 [schema.numel(part)] to read into; on error its content is undefined.

    Returns:
        ``out``; without it a new vector or, under fp32, a read-only view of ``data`` if its memory is aligned.

    Raises:
        AdapterError: The first thing that is wrong: no such container, another version, schema, part or encoding,
            missing or extra tensors, other shapes, too few or too many bytes.
        NotFiniteError: A number is NaN or infinite.
    """
    view = memoryview(data).cast("B")
    header = _header_of(view)
    if encoding is None:
        encoding = _named_encoding(header)
    expected = _header(schema, part, encoding)
    if header != expected:
        _explain(bytes(header[_LENGTH_BYTES:]), expected)
    body, numel = view[len(expected) :], schema.numel(part)
    size = numel * ITEM_BYTES[encoding] + (scale_count(numel) * 4 if encoding == "int8" else 0)
    if body.nbytes != size:
        raise AdapterError("the adapter's tensors", got=f"{body.nbytes} bytes", expected=f"{size} bytes")
    if out is not None:
        check_flat(out, schema, part)
    elif encoding == "fp32" and (seen := np.frombuffer(body, np.float32)).flags.aligned:
        if not all_finite(seen):
            _refuse_not_finite(seen, schema, part)
        seen.flags.writeable = False
        return seen
    target = np.empty(numel, np.float32) if out is None else out
    if not decode(body, numel, encoding, target):
        _refuse_not_finite(target, schema, part)
    return target


@lru_cache(maxsize=64)
def _header(schema: AdapterSchema, part: Part, encoding: Encoding) -> bytes:
    """Return the whole header: its length (8 bytes, little-endian), then JSON, padded so that the data is aligned."""
    entries: dict[str, Any] = {"__metadata__": _metadata(schema, part, encoding)}
    at = 0
    if encoding == "int8":
        count = scale_count(schema.numel(part))
        at = count * 4
        entries[_SCALES] = {"dtype": "F32", "shape": [count], "data_offsets": [0, at]}
    for spec in schema.specs(part):
        end = at + spec.numel * ITEM_BYTES[encoding]
        entries[spec.name] = {"dtype": _DTYPES[encoding], "shape": list(spec.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _metadata(schema: AdapterSchema, part: Part, encoding: Encoding) -> dict[str, str]:
    metadata = {"bottega.adapter": VERSION, "encoding": encoding, "part": part, "schema": schema.digest()}
    return metadata | ({"block": str(BLOCK)} if encoding == "int8" else {})


def _header_of(view: memoryview) -> memoryview:
    if view.nbytes < _LENGTH_BYTES:
        raise AdapterError("these bytes are no adapter", got=f"{view.nbytes} bytes", expected="a safetensors header")
    end = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "little")
    if end > view.nbytes:
        raise AdapterError("the adapter's header is cut off", got=f"{view.nbytes} bytes", expected=f"at least {end}")
    return view[:end]


def _named_encoding(header: memoryview) -> Encoding:
    metadata = _strange(bytes(header[_LENGTH_BYTES:])).get("__metadata__")
    named = metadata.get("encoding") if isinstance(metadata, dict) else None
    for encoding in get_args(Encoding):
        if named == encoding:
            return encoding  # type: ignore[no-any-return]
    raise AdapterError("the adapter's encoding", got=_shown(named), expected=", ".join(get_args(Encoding)))


def _strange(text: bytes) -> dict[str, Any]:
    """Parse a header from anywhere, within limits."""
    if len(text) > _MOST_STRANGE_HEADER:
        raise AdapterError("the adapter's header is too long", got=len(text), expected=f"<= {_MOST_STRANGE_HEADER}")
    try:
        parsed = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise AdapterError("the adapter's header is not JSON") from None
    if not isinstance(parsed, dict):
        raise AdapterError("the adapter's header is not a JSON object")
    return parsed


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise AdapterError("the adapter's header has one key twice")
    return found


def _explain(header: bytes, expected: bytes) -> NoReturn:
    """Raise with the first difference between a strange header and the expected one."""
    got, wanted = _strange(header), _strange(expected[_LENGTH_BYTES:])
    metadata = got.pop("__metadata__", None)
    for key, value in wanted.pop("__metadata__").items():
        said = metadata.get(key) if isinstance(metadata, dict) else None
        if said != value:
            raise AdapterError(f"the adapter's {key} does not match", got=_shown(said), expected=value)
    check_names([*got], [*wanted])
    for name, entry in wanted.items():
        if got[name] != entry:
            raise AdapterError(f"{name} does not fit", got=_shown(got[name]), expected=entry)
    raise AdapterError("the adapter's header is not in its canonical spelling")


def _shown(strange: object) -> str:
    """Return something from a stranger, fit for a log."""
    return ascii(strange)[:120]


def _refuse_not_finite(flat: Flat, schema: AdapterSchema, part: Part) -> NoReturn:
    """Raise with the name of the first tensor that is not finite; no value is told."""
    bad = (name for name, tensor in schema.views(flat, part).items() if not np.isfinite(tensor).all())
    raise NotFiniteError("a tensor holds a NaN or an infinity", got=next(bad, _SCALES), expected="finite numbers")


__all__ = [
    "Adapter",
    "AdapterSchema",
    "Flat",
    "LoraModule",
    "NotFiniteError",
    "Part",
    "TensorSpec",
    "join",
    "pack",
    "split",
    "unpack",
]
