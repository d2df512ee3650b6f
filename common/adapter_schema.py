"""The adapter contract: one ordered schema of LoRA factors, derived once from the model, used wherever they travel.

Training, admission and aggregation exchange **one flat float32 vector in schema order**; ``common/adapters.py`` says
how it is written. The scale of an adapter (alpha divided by rank) is always 1, so what a layer gains is ``B @ A``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from common.errors import AdapterError
from common.quantise import Flat

Part: TypeAlias = Literal["A", "B", "both", "core"]
"""Which factors; under ``both`` each module's A comes right before its B. ``core``: what stands between B's frozen
columns and A (:mod:`common.core`)."""

MOST_MODULES = 10_000
MOST_NUMBERS = 2**30
"""A schema for more numbers (4 GiB in float32) is refused: it may come from a stranger."""

_MOST_NAME = 300


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a schema.

    Attributes:
        name: ``<module>.lora_A.weight`` or ``<module>.lora_B.weight``, as PEFT names it; of a core
            ``<module>.lora_core.weight``.
        shape: Of the tensor.
    """

    name: str
    shape: tuple[int, ...]

    @cached_property
    def numel(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class LoraModule:
    """One layer that carries LoRA (arXiv 2106.09685).

    Attributes:
        name: The layer's path in the U-Net, such as ``mid_block.attentions.0.proj_in``.
        out_features: Rows of B; output channels of a convolution.
        in_features: Columns of A; input channels of a convolution.
        rank: Rows of A, columns of B.
        kernel: Height and width of a convolution's kernel, None for a linear layer. A convolution's factors are
            A (rank, in, height, width) and B (out, rank, 1, 1).

    Raises:
        AdapterError: A number is not positive, or the name is empty, too long or not printable ASCII.
    """

    name: str
    out_features: int
    in_features: int
    rank: int
    kernel: tuple[int, int] | None = None

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= _MOST_NAME or not self.name.isascii() or not self.name.isprintable():
            raise AdapterError("a module's name will not do", got=f"{len(self.name)} characters", expected="ASCII")
        sizes = (self.out_features, self.in_features, self.rank, *(self.kernel or ()))
        if min(sizes) < 1 or max(sizes) > MOST_NUMBERS:
            raise AdapterError(f"the sizes of {self.name} will not do", got=sizes, expected=f"1 to {MOST_NUMBERS}")

    @property
    def columns(self) -> int:
        """Columns of A seen as a matrix: the inputs, times the kernel's area for a convolution."""
        return self.in_features * (self.kernel[0] * self.kernel[1] if self.kernel else 1)

    @cached_property
    def a(self) -> TensorSpec:
        """The A factor."""
        return TensorSpec(f"{self.name}.lora_A.weight", (self.rank, self.in_features, *(self.kernel or ())))

    @cached_property
    def b(self) -> TensorSpec:
        """The B factor."""
        return TensorSpec(
            f"{self.name}.lora_B.weight", (self.out_features, self.rank, *((1, 1) if self.kernel else ()))
        )

    @cached_property
    def core(self) -> TensorSpec:
        """The core: rank by rank."""
        return TensorSpec(f"{self.name}.lora_core.weight", (self.rank, self.rank))


@dataclass(frozen=True)
class AdapterSchema:
    """The layers of an adapter, in the model's own order.

    Guarantees: equal schemas have equal :meth:`digest` and :meth:`to_json`, and different ones different; what
    :meth:`from_json` takes, :meth:`to_json` gives back byte for byte.

    Raises:
        AdapterError: There is no module, or too many, or one twice, or too many numbers.
    """

    modules: tuple[LoraModule, ...]

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    def __post_init__(self) -> None:
        if not 0 < len(self.modules) <= MOST_MODULES:
            raise AdapterError("a schema's modules", got=len(self.modules), expected=f"1 to {MOST_MODULES}")
        if len({m.name for m in self.modules}) != len(self.modules):
            raise AdapterError("a schema names one module twice")
        if self.numel("both") > MOST_NUMBERS:
            raise AdapterError("a schema is too large", got=self.numel("both"), expected=f"at most {MOST_NUMBERS}")

    def specs(self, part: Part) -> tuple[TensorSpec, ...]:
        """Return the tensors of ``part`` in order."""
        return self._specs[part]

    def numel(self, part: Part) -> int:
        """Return how many numbers ``part`` holds."""
        return sum(spec.numel for spec in self.specs(part))

    def with_rank(self, rank: int) -> AdapterSchema:
        """Return the schema of the same modules with another rank.

        Raises:
            AdapterError: The rank is not positive.
        """
        return AdapterSchema(tuple(replace(module, rank=rank) for module in self.modules))

    def digest(self) -> str:
        """Return the SHA-256 (hex) of :meth:`to_json`."""
        return self._digest

    def to_json(self) -> str:
        """Return the schema as canonical JSON: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> AdapterSchema:
        """Return the schema that :meth:`to_json` wrote.

        Raises:
            AdapterError: It is no schema, or not in the canonical spelling.
        """
        try:
            schema = _READER.validate_json(text)
        except ValidationError as cause:
            first = cause.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(str(step) for step in first["loc"])[:80] or "the whole"
            raise AdapterError("this is no adapter schema", got=f"{place}: {first['msg']}"[:200]) from None
        if schema.to_json() != text:
            raise AdapterError("the adapter schema is not in its canonical spelling")
        return schema

    def views(self, flat: Flat, part: Part) -> dict[str, Flat]:
        """Return the tensors inside a flat vector, by name, without a copy.

        Raises:
            AdapterError: The vector is of another length or dtype.
        """
        check_flat(flat, self, part)
        views, at = {}, 0
        for spec in self.specs(part):
            views[spec.name] = flat[at : at + spec.numel].reshape(spec.shape)
            at += spec.numel
        return views

    def flatten(self, tensors: Mapping[str, NDArray[np.float32]], part: Part) -> Flat:
        """Return the tensors as one flat vector, a copy.

        Raises:
            AdapterError: One is missing, extra, or of another shape or dtype.
        """
        specs = self.specs(part)
        check_names([*tensors], [spec.name for spec in specs])
        flat = np.empty(self.numel(part), np.float32)
        at = 0
        for spec in specs:
            tensor = tensors[spec.name]
            if tensor.shape != spec.shape or tensor.dtype != np.float32:
                raise AdapterError(
                    f"{spec.name} does not fit", got=f"{tensor.dtype} {tensor.shape}", expected=f"float32 {spec.shape}"
                )
            flat[at : at + spec.numel] = tensor.reshape(-1)
            at += spec.numel
        return flat

    @cached_property
    def _specs(self) -> dict[Part, tuple[TensorSpec, ...]]:
        return {
            "A": tuple(m.a for m in self.modules),
            "B": tuple(m.b for m in self.modules),
            "both": tuple(spec for m in self.modules for spec in (m.a, m.b)),
            "core": tuple(m.core for m in self.modules),
        }

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.to_json().encode("ascii")).hexdigest()


_READER = TypeAdapter(AdapterSchema)


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter: both factors of every module.

    Attributes:
        schema: What the vectors hold.
        a: All A factors, flat float32 in schema order.
        b: All B factors, likewise.

    Raises:
        AdapterError: A vector does not fit the schema.
    """

    schema: AdapterSchema
    a: Flat = field(repr=False)
    b: Flat = field(repr=False)

    def __post_init__(self) -> None:
        check_flat(self.a, self.schema, "A")
        check_flat(self.b, self.schema, "B")


def join(adapter: Adapter) -> Flat:
    """Return both factors as one flat vector (part ``both``), a copy."""
    schema = adapter.schema
    both = np.empty(schema.numel("both"), np.float32)
    views = schema.views(both, "both")
    for flat, part in ((adapter.a, "A"), (adapter.b, "B")):
        for name, tensor in schema.views(flat, part).items():  # type: ignore[arg-type]
            views[name][...] = tensor
    return both


def split(schema: AdapterSchema, both: Flat) -> Adapter:
    """Return the adapter that :func:`join` made flat, a copy.

    Raises:
        AdapterError: The vector does not fit the schema.
    """
    views = schema.views(both, "both")
    a = np.concatenate([views[m.a.name].reshape(-1) for m in schema.modules])
    b = np.concatenate([views[m.b.name].reshape(-1) for m in schema.modules])
    return Adapter(schema, a, b)


def check_flat(flat: Flat, schema: AdapterSchema, part: Part) -> None:
    """Refuse what is not a contiguous float32 vector of the length that ``part`` has.

    Raises:
        AdapterError: It is not.
    """
    expected = schema.numel(part)
    if flat.dtype != np.float32 or flat.shape != (expected,) or not flat.flags.c_contiguous:
        raise AdapterError(
            f"a vector does not fit part {part} of the schema",
            got=f"{flat.dtype} {flat.shape}",
            expected=f"contiguous float32 ({expected},)",
        )


def check_names(got: list[str], expected: list[str]) -> None:
    """Refuse names of tensors that are not those expected, in any order.

    Raises:
        AdapterError: Some are missing or extra.
    """
    missing, extra = sorted({*expected} - {*got}), sorted({*got} - {*expected})
    if missing or extra:
        raise AdapterError(
            f"{len(missing)} tensors are missing and {len(extra)} are not in the schema",
            got=ascii(extra[0])[:_MOST_NAME] if extra else f"no {missing[0]}",
            expected=f"{len(expected)} tensors of the schema",
        )
