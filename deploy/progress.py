"""What a person sees while a demo runs: a live table on a terminal, plain lines elsewhere, nothing under --json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text


class Progress:
    """Shows stages and rounds; use it as a context manager.

    Args:
        console: Where to.
        quiet: Show nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._live = (
            Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal and not quiet else None
        )
        self._sites: Sequence[str] = ()
        self._of = 0
        self._stage = ""
        self._rounds: list[dict[str, Any]] = []
        self._said = 0

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def open(self, sites: Sequence[str], of: int) -> None:
        """Say which sites take part and how many rounds there will be."""
        self._sites, self._of = sites, of
        self._say(f"{len(sites)} sites: {', '.join(sites)}; {of} rounds")

    def stage(self, name: str) -> None:
        """Say what is being done."""
        self._stage = name
        self._say(name)
        self._refresh()

    def show(self, rounds: list[dict[str, Any]]) -> None:
        """Show the rounds so far."""
        self._rounds = rounds
        done = [r for r in rounds if r["outcome"] != "open"]
        for r in done[self._said :]:
            self._say(
                f"round {r['round']}/{self._of}: {r['admitted']} admitted, {len(r['refused'])} refused"
                f"{_spent(r['epsilon'])}, {r['seconds']:.1f} s"
            )
            for refused in r["refused"]:
                self._say(f"  {refused['site']} was left out: {refused['reason']}")
        self._said = len(done)
        self._refresh()

    def _say(self, line: str) -> None:
        if not self._quiet and not self._live:
            self._console.print(line)

    def _refresh(self) -> None:
        if self._live:
            self._live.update(self._picture())

    def _picture(self) -> Group:
        private = sorted({site for r in self._rounds for site in r["epsilon"]})
        table = Table(box=None, pad_edge=False)
        for name in ("round", "admitted", "refused", *(f"\u03b5 {site}" for site in private), "seconds"):
            table.add_column(name, justify="right")
        for r in self._rounds:
            spent = (f"{r['epsilon'][site]:.2f}" if site in r["epsilon"] else "" for site in private)
            refused = ", ".join(f"{x['site']} ({x['check']})" for x in r["refused"]) or "0"
            table.add_row(
                f"{r['round']}/{self._of}",
                f"{r['admitted']}/{len(self._sites)}",
                refused,
                *spent,
                f"{r['seconds']:.1f}",
            )
        last = self._rounds[-1]["refused"] if self._rounds else []
        why = Text("\n".join(f"{x['site']}: {x['reason']}" for x in last), style="red")
        head = Text(f"{len(self._sites)} sites: {', '.join(self._sites)}", style="dim")
        return Group(head, table, *([why] if last else []), Text(f"… {self._stage}", style="italic"))


def _spent(epsilon: Mapping[str, float]) -> str:
    """Say what a private round has cost so far, where it cost most."""
    return f", epsilon {max(epsilon.values()):.2f}" if epsilon else ""
