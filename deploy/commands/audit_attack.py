"""``bottega audit attack``: promises that can be put to the test, put to the test."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.settings import EMBEDDED_BASE, PrivacySettings

if TYPE_CHECKING:
    from client.membership import Interval
    from client.privacy_audit import Audit

attack_app = typer.Typer(help="Attack training and adapters, and say what they give away.", no_args_is_help=True)

DELTA = 1e-5
STEPS = 16


AdapterFile = Annotated[Path, typer.Argument(help="An adapter's folder or weights file.")]
Data = Annotated[Path, typer.Option(help="The folder of drawings, as the site that trained on them has it.")]
Base = Annotated[str, typer.Option(help="'embedded', a diffusers folder, or owner/name@commit.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@attack_app.command()
def privacy(
    epsilon: Annotated[
        list[float] | None, typer.Option(help="What is claimed; may be given again. 1, 3 and 8.")
    ] = None,
    canaries: Annotated[int, typer.Option(min=50, help="More find more; each takes a few milliseconds.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Decides the canaries; the noise cannot be foretold.")] = 0,
    base: Base = EMBEDDED_BASE,
    json_: Json = False,
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


@attack_app.command()
def membership(adapter: AdapterFile, data: Data, base: Base = EMBEDDED_BASE, json_: Json = False) -> None:
    """Attack an adapter: tell drawings that it was trained on from held-out ones.

    Two attacks, loss threshold and SecMI, each relative to the bare base. 0.5 is guessing. An attack that fails proves
    little: `python -m benchmarks.membership` shows that these two succeed where there is something to find.
    """
    from deploy.adapter_audits import membership as attacked

    leaks = attacked(adapter, data, base)
    if json_:
        typer.echo(json.dumps({name: asdict(leak) for name, leak in leaks.items()}))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("attack", "AUC", "95 %", "found at 1 % false alarms", "95 %"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    for name, leak in leaks.items():
        table.add_row(name, *(word for part in (leak.auc, leak.tpr) for word in _interval(part)))
    Console(highlight=False).print(table)


@attack_app.command()
def copies(
    adapter: AdapterFile,
    data: Data,
    most: Annotated[float, typer.Option(min=0, max=1, help="The share that may be copies; more exits with 1.")] = 0.0,
    count: Annotated[int, typer.Option(min=1, help="Pictures to draw.")] = 64,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps (DDIM).")] = 25,
    guidance: Annotated[float, typer.Option(min=1.0, max=30.0, help="Guidance scale; 1 switches it off.")] = 3.0,
    seed: Annotated[int, typer.Option(min=0, help="First seed.")] = 0,
    base: Base = EMBEDDED_BASE,
    json_: Json = False,
) -> None:
    """Draw by the captions of a site's drawings, and look for pictures that repeat one of them.

    What a site itself looks for before it agrees to a release, where its `rules.most_copied` asks for it.
    """
    from deploy.adapter_audits import copies as found_in

    found = found_in(adapter, data, base, count, steps, guidance, seed)
    if json_:
        typer.echo(json.dumps(asdict(found)))
    else:
        typer.echo(f"{found.share:.1%} of {count} pictures repeat a drawing (at most {most:.1%} wanted)")
        typer.echo(f"nearest: {found.nearest:.2f} of what lies between neighbouring drawings; copies are under 0.5")
    raise typer.Exit(int(found.share > most))


def _interval(part: Interval) -> tuple[str, str]:
    return f"{part.value:.2f}", f"{part.low:.2f} to {part.high:.2f}"


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
