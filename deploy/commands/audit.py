"""``bottega audit``: promises that can be put to the test, put to the test."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.settings import EMBEDDED_BASE, PrivacySettings

if TYPE_CHECKING:
    from client.privacy_audit import Audit

audit_app = typer.Typer(help="Put promises to the test.", no_args_is_help=True)

DELTA = 1e-5
STEPS = 16


@audit_app.callback()  # so that `privacy` keeps its name while it is alone
def _about() -> None:
    """Put promises to the test."""


@audit_app.command()
def privacy(
    epsilon: Annotated[
        list[float] | None, typer.Option(help="What is claimed; may be given again. 1, 3 and 8.")
    ] = None,
    canaries: Annotated[int, typer.Option(min=50, help="More find more; each takes a few milliseconds.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Decides the canaries; the noise cannot be foretold.")] = 0,
    base: Annotated[str, typer.Option(help="'embedded', a diffusers folder, or owner/name@commit.")] = EMBEDDED_BASE,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Attack private training, and say what epsilon it has at least. Exits with 1 when a claim is refuted.

    Canaries, gradients of drawings that do not exist, are each put into the real training or left out by a coin; then
    each is guessed from what the training releases. Who guesses too well for the claimed epsilon has refuted it.
    """
    from deploy.auditing import audited

    console, audits = Console(stderr=True, highlight=False), []
    for claim in epsilon or [1.0, 3.0, 8.0]:
        if not json_:
            console.print(f"training with {canaries} canaries, for a claimed epsilon of {claim:g} …")
        audits.append(audited(base, PrivacySettings(epsilon=claim, delta=DELTA, steps=STEPS, rate=1.0), canaries, seed))
    refuted = any(audit.refuted for audit in audits)
    if json_:
        typer.echo(json.dumps({"refuted": refuted, "delta": DELTA, "audits": [_facts(audit) for audit in audits]}))
    else:
        _show(audits)
    raise typer.Exit(int(refuted))


def _facts(audit: Audit) -> dict[str, object]:
    return {"claimed": audit.claimed, "at_least": audit.bound, "refuted": audit.refuted}


def _show(audits: list[Audit]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("claimed \u03b5", "\u03b5 at least", ""):
        table.add_column(name, justify="right")
    for audit in audits:
        table.add_row(f"{audit.claimed:g}", f"{audit.bound:.2f}", "REFUTED" if audit.refuted else "stands")
    Console(highlight=False).print(table)
    typer.echo("\nA bound under the claim proves no privacy; one over it proves that there is none.", err=True)
