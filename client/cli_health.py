"""``bottega site doctor``: whether anything is wrong with a site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.paths import SiteHome


def add_health(app: typer.Typer) -> None:
    """Add the command to ``bottega site``."""
    app.command()(doctor)


def doctor(
    home: Annotated[Path, typer.Option(help="The site's home folder.")] = Path("site"),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check everything that a site needs, and say how to mend what is wrong. Exits with 1 when anything is.

    Works whether the site is up or down, and changes nothing. What is
    printed names no drawing and no caption: it can be shown to others.
    """
    from client.health import site_checks
    from common.checkup import examine, report

    raise typer.Exit(report(examine(site_checks(SiteHome(home.absolute()))), json_=json_))
