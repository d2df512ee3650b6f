"""What all benchmarks print: tables for people, and one last line of JSON for machines.

A bar is a promise in a number. One that is missed is printed as missed; it is not moved.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_WIDE = 220
"""Characters a line where nobody looks through a terminal: a table is not to be cut."""


@dataclass(frozen=True)
class Bar:
    """One measured value and the bar it should clear.

    Attributes:
        name: In snake_case; the key in the JSON line.
        value: As measured.
        bar: The limit.
        at_least: Whether the value must be at least the bar; else it must be at most the bar.
    """

    name: str
    value: float
    bar: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value clears the bar; one that is not finite does not."""
        clears = self.value >= self.bar if self.at_least else self.value <= self.bar
        return math.isfinite(self.value) and clears


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table.

    Args:
        title: Above it.
        columns: Headings; all but the first column are aligned to the right.
        rows: Cells, as many in each as there are columns.
    """
    grid = Table()
    for index, column in enumerate(columns):
        grid.add_column(column, justify="right" if index else "left")
    for row in rows:
        grid.add_row(*row)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    console.print(f"\n[bold]{escape(title)}[/bold]", soft_wrap=True)
    console.print(grid)


def finish(bars: Sequence[Bar], figures: Mapping[str, float] | None = None, *, quiet: bool = True) -> None:
    """Print the bars and end with the JSON line ``{"bars": {NAME: {"value", "bar", "holds"}}, "figures": {...}}``.

    Args:
        bars: What was promised.
        figures: What else was measured; the key is left out when there is nothing.
        quiet: Print the JSON line only.
    """
    if not quiet:
        table(
            "bars",
            ("bar", "measured", "wanted", ""),
            [(b.name, f"{b.value:.3g}", f"{'>=' if b.at_least else '<='} {b.bar:g}", _word(b)) for b in bars],
        )
    line: dict[str, object] = {
        "bars": {b.name: {"value": _json(b.value), "bar": b.bar, "holds": b.holds} for b in bars}
    }
    if figures:
        line["figures"] = {name: _json(value) for name, value in figures.items()}
    print(json.dumps(line, allow_nan=False))


def _word(bar: Bar) -> str:
    return "holds" if bar.holds else "MISSED"


def _json(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return round(float(value), 6) if math.isfinite(value) else None
