"""What a ledger is held to: its checkpoints, and those that somebody else was shown, by size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from common.errors import BottegaError
from security.ledger import StoredCheckpoint
from security.merkle import MOST_ENTRIES

T = TypeVar("T")


class Source(Generic[T]):
    """Rows in order. That they cannot be read on ends them, and stays to be seen in ``trouble``."""

    def __init__(self, rows: Iterator[T]) -> None:
        self._rows, self.trouble = rows, ""

    def take(self) -> T | None:
        """Return the next row; None when there are no more."""
        try:
            return next(self._rows, None)
        except BottegaError as why:
            self.trouble = why_of(why)
            return None


@dataclass(frozen=True)
class Mark:
    """A checkpoint to hold the ledger to.

    Attributes:
        size: Under which it is kept, or which it says.
        note: As the server signed it.
        given: Whether it came from elsewhere.
    """

    size: int
    note: bytes
    given: bool = False


class Marks:
    """Checkpoints by size.

    Args:
        kept: Those of the ledger, by size.
        given: Those from elsewhere, by size.
    """

    def __init__(self, kept: Source[StoredCheckpoint], given: Sequence[Mark]) -> None:
        self.kept, self._given = kept, list(given)
        self._kept_next = self._take()
        self.due = self._due()

    def next(self) -> Mark | None:
        """Return the next checkpoint; it is of ``due`` entries."""
        kept, given = self._kept_next, self._given[0] if self._given else None
        if kept is not None and (given is None or kept.size <= given.size):
            self._kept_next = self._take()
        elif given is not None:
            del self._given[0]
        self.due = self._due()
        return kept if kept is not None and (given is None or kept.size <= given.size) else given

    def _take(self) -> Mark | None:
        kept = self.kept.take()
        return None if kept is None else Mark(kept.size, kept.note)

    def _due(self) -> int:
        sizes = [mark.size for mark in (self._kept_next, *self._given[:1]) if mark is not None]
        return min(sizes, default=MOST_ENTRIES)


def why_of(why: BottegaError) -> str:
    """Return what an error says happened, in a few words."""
    return why.what if why.got is None else f"{why.what} ({why.got})"
