"""A federation's record, open for reading, wherever it lies: beside its server, as a copy, or in a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from common.errors import LedgerError
from security.chronicle import Chronicle, Line
from security.entries import read_entry

if TYPE_CHECKING:
    from security.audit.trust import Trust
    from security.ledger import Reader

Weights = Callable[[], bytes]
"""Returns an adapter's weights as a file.

Raises:
    BottegaError: It is missing or damaged.
"""


@dataclass(frozen=True)
class Record:
    """What an auditor reads.

    Attributes:
        reader: Of the ledger.
        trust: What it is held against.
        where: What was opened, in words.
        adapters: Of rounds, by run and number: those that lie beside the ledger.
        refresh: Looks whether there is more by now; what it finds wrong it raises.
    """

    reader: Reader
    trust: Trust
    where: str
    adapters: Mapping[tuple[str, int], Weights] = field(default_factory=lambda: MappingProxyType({}))
    refresh: Callable[[], object] = lambda: None

    def lines(self, start: int = 0, stop: int | None = None) -> Iterator[Line]:
        """Yield the entries from ``start`` up to ``stop``, or to the end.

        Raises:
            LedgerError: One cannot be read; it is said which.
        """
        for index, data in enumerate(self.reader.entries(start, stop), start):
            try:
                entry = read_entry(data)
            except LedgerError as why:
                raise LedgerError(f"entry {index} cannot be read: {why.what}", got=why.got) from None
            yield Line(index, entry)

    def chronicle(self) -> Chronicle:
        """Return all that the record tells."""
        return Chronicle.of(self.lines())
