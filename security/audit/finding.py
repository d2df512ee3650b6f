"""What an audit finds: faults, which a sound record has none of, and remarks, which somebody should know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        what: A short name, the same for all findings of a kind, such as ``verdict-of-nobody``.
        words: What is so, in a sentence without a full stop.
        entry: The first entry that it is about; None where it is about none.
        fault: Whether a sound record cannot have it.
    """

    what: str
    words: str
    entry: int | None = None
    fault: bool = True

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def faults(found: Iterable[Finding]) -> list[Finding]:
    """Return the faults, by the entries that they are about."""
    return sorted((one for one in found if one.fault), key=_place)


def remarks(found: Iterable[Finding]) -> list[Finding]:
    """Return the remarks, by the entries that they are about."""
    return sorted((one for one in found if not one.fault), key=_place)


def _place(one: Finding) -> float:
    return -1 if one.entry is None else one.entry
