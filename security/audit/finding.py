"""What an audit finds: faults, which a sound record has none of, and remarks, which somebody should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
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


MOST_OF_A_KIND = 10
"""Findings of one kind that are told one by one."""


def counted(found: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings, of each kind the first ten; at the end, how many more there were of it."""
    seen: Counter[tuple[str, bool]] = Counter()
    for one in found:
        seen[one.what, one.fault] += 1
        if seen[one.what, one.fault] <= MOST_OF_A_KIND:
            yield one
    for (what, fault), count in seen.items():
        if count > MOST_OF_A_KIND:
            yield Finding(what, f"and {count - MOST_OF_A_KIND} more of this kind", None, fault)


def faults(found: Iterable[Finding]) -> list[Finding]:
    """Return the faults, by the entries that they are about."""
    return sorted((one for one in found if one.fault), key=_place)


def remarks(found: Iterable[Finding]) -> list[Finding]:
    """Return the remarks, by the entries that they are about."""
    return sorted((one for one in found if not one.fault), key=_place)


def _place(one: Finding) -> float:
    return -1 if one.entry is None else one.entry
