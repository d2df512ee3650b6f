"""Whether entries make sense one after the other: what a record that only grew may still tell wrongly.

A ledger shows that nothing was changed afterwards. That what was written was consistent when it was written, no tree
of hashes shows; this does, as far as the entries themselves can: nobody averaged who was not admitted, no round closed
that was not opened, no adapter from nowhere, nobody taking part who had left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from security.audit.finding import Finding
from security.audit.sense_members import MembersSense
from security.audit.sense_runs import RunsSense
from security.chronicle import Line
from security.entries import Founded, Restored, seconds_of

MOST_BACKWARDS_S = 60.0
"""How far the server's clock may be set back from one entry to the next without a remark."""


class Sense:
    """Takes entries in order and yields what is wrong with each, beside those before it."""

    def __init__(self) -> None:
        self._members = MembersSense()
        self._runs = RunsSense(self._members)
        self._latest = 0.0
        self._size = 0

    def read(self, line: Line) -> Iterator[Finding]:
        """Take in the next entry; yield what is found."""
        yield from self._beginning(line)
        yield from self._clock(line)
        if isinstance(line.entry, Restored):
            yield Finding(
                "restored", "the server came back from a backup: what it had written after that backup is lost",
                line.index, fault=False,
            )  # fmt: skip
        yield from self._members.read(line)
        yield from self._runs.read(line)
        self._size = line.index + 1

    def close(self) -> Iterator[Finding]:
        """Yield what is found at the end."""
        if not self._size:
            yield Finding("empty", "the ledger holds no entry: nothing is recorded, and nothing can be verified of it")
            return
        yield from self._runs.close()

    def _beginning(self, line: Line) -> Iterator[Finding]:
        if isinstance(line.entry, Founded) is not (line.index == 0):
            words = (
                "the federation is founded a second time"
                if line.index
                else "the first entry does not tell of the federation's beginning"
            )
            yield Finding("beginning", words, line.index)

    def _clock(self, line: Line) -> Iterator[Finding]:
        at = seconds_of(line.entry.at)
        if at < self._latest - MOST_BACKWARDS_S:
            back = self._latest - at
            yield Finding("clock", f"the server's clock went back by {back:.0f} s", line.index, fault=False)
        self._latest = at


def sense(lines: Iterable[Line]) -> Iterator[Finding]:
    """Yield what is wrong with entries, read in order from the first."""
    told = Sense()
    yield from chain.from_iterable(told.read(line) for line in lines)
    yield from told.close()
