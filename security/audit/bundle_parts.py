"""The parts of a bundle: how they are named, how long they may be, and how a manifest tells of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.errors import LedgerError

MOST_PARTS = 60_000
"""Parts of one bundle: fewer than the 65,535 from which on a zip file needs other tables."""

MOST_BYTES = 2**32 - 2**24
"""All parts of a bundle together, unpacked: just under 4 GiB, the end of plain zip files."""

MOST_MANIFEST_BYTES = 2**24
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}){0,4}")
MANIFEST = "manifest.json"
_ADVICE = "Nothing of it was kept. Have it exported again (`bottega audit export FILE`), and compare SHA-256 sums."

MOST_OF_A_KIND: Mapping[str, int] = {
    "entries": 2**25, "checkpoints": 1_000_000, "keys": 2**24, "adapters": 2**31, "updates": 2**31, "README.txt": 2**16,
}  # fmt: skip
"""The longest part of each kind, bytes; what is of no kind is refused."""


class Part(BaseModel):
    """One part, as the manifest has it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=700)]
    size: Annotated[int, Field(ge=0, le=MOST_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What is in a bundle, by its own word."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["bottega-audit"]
    version: Literal[1]
    federation: Annotated[str, Field(max_length=255)]
    software: Annotated[str, Field(max_length=200)]
    entries: Annotated[int, Field(ge=0, lt=2**62)]
    parts: Annotated[list[Part], Field(max_length=MOST_PARTS)]


def entries_name(start: int) -> str:
    """Return the name of the part that begins with an entry."""
    return f"entries/{start:012d}.jsonl"


def checkpoint_name(size: int) -> str:
    """Return the name of the part that holds the checkpoint of a size."""
    return f"checkpoints/{size:012d}.note"


def adapter_name(run: str, number: int) -> str:
    """Return the name of the part that holds the adapter of a round."""
    return f"adapters/{run}/{number:04d}.safetensors"


def check_name(name: str) -> None:
    """Pass a name that a part of a bundle can have.

    Raises:
        LedgerError: It is none.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise refused("the bundle names a part as no part is named", got=f"{len(name)} characters")
    if name.split("/", maxsplit=1)[0] not in MOST_OF_A_KIND:
        raise refused("the bundle holds a part of no kind that bundles have", got=name[:200])


def most_of(name: str) -> int:
    """Return how long the part of a name may be, bytes."""
    return MOST_OF_A_KIND[name.split("/", maxsplit=1)[0]]


def refused(what: str, *, got: object = None, expected: object = None) -> LedgerError:
    """Return an error that says what of a bundle will not do."""
    return LedgerError(what, got=got, expected=expected, advice=_ADVICE)
