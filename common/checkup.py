"""Checkups: what was looked at, what was found, and how to mend what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.errors import BottegaError


class Grade(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: What was looked at.
        grade: How it is.
        found: What was found, in words.
        mend: What to do about it; empty when all is well.
    """

    name: str
    grade: Grade
    found: str
    mend: str = ""


Check = Callable[[], Iterable[Finding]]


def fine(name: str, found: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(name, Grade.OK, found)


def doubtful(name: str, found: str, mend: str) -> Finding:
    """Return a finding that somebody should look at."""
    return Finding(name, Grade.WARN, found, mend)


def wrong(name: str, found: str, mend: str) -> Finding:
    """Return a finding that something does not work."""
    return Finding(name, Grade.FAIL, found, mend)


def examine(checks: Iterable[tuple[str, Check]]) -> list[Finding]:
    """Make each check, whatever came of those before it. One that cannot be made has failed.

    Args:
        checks: What each looks at, and the check.
    """
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings.extend(check())  # what was found before a check broke off is kept
        except BottegaError as why:
            parts = [
                why.what,
                *(f"{k} {v}" for k, v in (("got", why.got), ("expected", why.expected)) if v is not None),
            ]
            findings.append(wrong(name, "; ".join(parts), why.next_step))
        except Exception as cause:  # noqa: BLE001 (a doctor who faints at one wound never sees the next)
            mend = "Look at the process's log; if it says nothing, report this as a fault of bottega."
            findings.append(wrong(name, f"could not be checked: {type(cause).__name__}", mend))
    return findings


def report(findings: Sequence[Finding], *, json_: bool) -> int:
    """Print findings and return the exit code of the command: 1 when any check failed, else 0."""
    failed = any(finding.grade is Grade.FAIL for finding in findings)
    if json_:
        typer.echo(json.dumps({"ok": not failed, "findings": [asdict(finding) for finding in findings]}))
        return int(failed)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.grade, _COLOURS[finding.grade]), finding.name, _said(finding))
    Console(highlight=False).print(table)
    return int(failed)


_COLOURS = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "bold red"}


def _said(finding: Finding) -> Text:
    said = Text(finding.found)
    return said.append(f"\n-> {finding.mend}") if finding.mend else said
