"""``bottega demo``."""

from __future__ import annotations

import json
import logging
import re
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import RunError
from common.interrupts import Interrupts
from common.settings import EMBEDDED_BASE, RunSettings, parse

DEFAULT_HOME = Path("bottega-demo")

POISON = "vandal=scaling"
"""Who is hostile in the default demo, and how."""


def demo(
    home: Annotated[Path, typer.Option(help="Folder of the demo; an earlier demo's is made anew.")] = DEFAULT_HOME,
    data: Annotated[
        Path | None, typer.Option(help="A folder of folders of drawings, one a site; procedural studios when left out.")
    ] = None,
    sites: Annotated[
        int | None, typer.Option(min=1, help="How many sites take part; 4, or every folder of --data.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 8,
    epsilon: Annotated[float, typer.Option(help="What the run may cost each drawing; 0 trains without privacy.")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="Decides drawings, batches and noise.")] = 0,
    base: Annotated[
        str, typer.Option(help="'embedded', a diffusers folder, or owner/name@commit on the hub.")
    ] = EMBEDDED_BASE,
    poison: Annotated[
        list[str] | None,
        typer.Option(help="SITE=ATTACK: a site, or one more, that sends poisoned updates; 'none' for none at all."),
    ] = None,
    undefended: Annotated[
        bool, typer.Option("--undefended", help="Let everything be averaged, to see what that does.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end and nothing else.")] = False,
    keep: Annotated[bool, typer.Option(help="Keep keys, homes and logs of the throw-away federation.")] = False,
) -> None:
    """Run a whole federation on this machine: a server, four studios, real processes, sealed updates, a report.

    Each studio trains on its own drawings, in a style that the base model has never seen. A fifth site sends poisoned
    updates, and is caught at it. Takes a few minutes.
    """
    run = parse(RunSettings, demo_run(rounds, seed, base, sites, epsilon), "the demo's run")
    run = _undefended(run) if undefended else run
    poisoned = poison_of(poison, alone=sites is not None or data is not None)
    logging.getLogger("bottega").setLevel(logging.WARNING)
    console = Console(stderr=True)
    try:
        with Interrupts() as interrupts:
            from deploy.demo import DemoSettings, run_demo
            from deploy.progress import Progress

            with Progress(console, quiet=json_) as progress:
                result = run_demo(DemoSettings(home, data, sites, seed, run, keep, poisoned), progress, interrupts)
    except KeyboardInterrupt:
        console.print("stopped; every process of the demo has ended")
        raise typer.Exit(130) from None
    if json_:
        typer.echo(json.dumps(result))
        return
    _summary(Console(), result)


def poison_of(asked: list[str] | None, *, alone: bool) -> dict[str, str]:
    """Return which sites are hostile, ``{site: attack}``.

    Args:
        asked: As on the command line.
        alone: Whether the studios are somebody's own choice: then nobody is added unasked.

    Raises:
        RunError: A word is not of the form SITE=ATTACK.
    """
    words = asked if asked is not None else [] if alone else [POISON]
    found: dict[str, str] = {}
    for word in words:
        site, equals, attack = word.partition("=")
        if word == "none":
            continue
        if not equals or not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", site):
            raise RunError("this names no hostile site", got=word[:80], expected=f"SITE=ATTACK, such as {POISON}")
        found[site] = attack
    return found


def demo_run(rounds: int, seed: int, base: str, sites: int | None, epsilon: float = 8.0) -> dict[str, object]:
    """Return the run settings of a demo, as a mapping."""
    run: dict[str, object] = {"rounds": rounds, "seed": seed, "base": base, "quorum": 1 if sites == 1 else 2}
    if epsilon:
        return run | {"lora": {"rank": 4}, "privacy": {"epsilon": epsilon, "learning_rate": 0.08}}
    return run | {
        "privacy": False,
        "lora": {"targets": DEMO_TARGETS, "rank": 32},
        "training": {"steps": 12, "learning_rate": 5e-3},
        "aggregation": {"momentum": 0.3},
    }


def _undefended(run: RunSettings) -> RunSettings:
    """Return settings by which everything is averaged that has the right shape."""
    anything = run.aggregation.model_copy(update={"norm_bound": 1e9})
    return run.model_copy(update={"detector": False, "aggregation": anything})


DEMO_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2")
"""Attention, feed-forward and convolution layers: twice the adapter of attention alone, and more of a new style."""


def _record(audit: object) -> str:
    """Return what verifying the record and replaying the rounds came to, in one line."""
    if not isinstance(audit, dict):
        return ""
    if audit["faults"] or audit["different"]:
        return f"record   [red]DOES NOT HOLD[/]: {'; '.join(audit['faults']) or 'a replay came to something else'}"
    return (
        f"record   {audit['entries']} entries verified, co-signed by {len(audit['witnesses'])} sites; "
        f"{audit['replayed']} rounds done again, the same bit for bit"
    )


def _summary(console: Console, result: dict[str, object]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("", "before", "after"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row("held-out loss", f"{result['held_out_loss_before']:.4f}", f"{result['held_out_loss_after']:.4f}")
    table.add_row(
        "distance to the studios' drawings (FID)", f"{result['fid_before']:.1f}", f"{result['fid_after']:.1f}"
    )
    console.print(table)
    console.print(_record(result["audit"]), soft_wrap=True, highlight=False)
    if isinstance(check := result["check"], dict):
        console.print(f"checked  {check['words']}", soft_wrap=True, highlight=False)
    console.print(f"report   {result['report']}", soft_wrap=True)
    console.print(f"adapter  {result['adapter']}", soft_wrap=True)
    prompts = result["prompts"]
    prompt = prompts[0] if isinstance(prompts, list) else ""
    audit = result["audit"]
    bundle = shlex.quote(str(audit["bundle"])) if isinstance(audit, dict) else ""
    console.print(
        "\nNext: see every round in the browser, and verify it there:\n"
        f"  bottega audit serve --open --bundle {bundle}\n"
        "and draw with what was learned:\n"
        f"  bottega draw --adapter {shlex.quote(str(result['adapter']))} --prompt {shlex.quote(str(prompt))}",
        soft_wrap=True,
        highlight=False,
    )
