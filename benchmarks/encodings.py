"""What short numbers on the wire cost in quality: ``python -m benchmarks.encodings [--quick] [--json]``.

The same federation of procedural studios, with the same seeds, once for each encoding of updates. It runs in memory
(:mod:`deploy.simulation`): updates are encoded, sealed and admitted as in a real run, adapters reach the sites as they
are. Held-out loss is the mean over the sites on noise that never changes. The distance to fp32 is to be read against
what training gained: the fall from the start.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks.reporting import Bar, finish, table
from client.dataset import encode
from client.drawings import DrawingSettings, load_drawings
from common.adapters import pack
from common.models import Base, load_base
from common.settings import Encoding, RunSettings, TrainingSettings
from deploy.simulation import SimulatedSite, Simulation, losses
from deploy.studios import make_studios


@dataclass(frozen=True)
class Row:
    """One encoding: bytes of an update's tensors before sealing, and the held-out losses around the rounds."""

    encoding: Encoding
    update_bytes: int
    before: float
    after: float


def main() -> None:
    """Run the federation with every encoding, print the table and the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="2 rounds")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 2 if args.quick else args.rounds
    settings = RunSettings(rounds=rounds, seed=args.seed, privacy=False, training=TrainingSettings(steps=6, batch=8))
    base = load_base()
    sites = studio_sites(base, args.sites, args.seed)
    rows = {encoding: _measured(base, sites, settings, encoding) for encoding in get_args(Encoding)}
    if not args.json:
        _print(rows, settings, len(sites))
    exact = rows["fp32"]
    bars = [Bar("int8_loss_over_fp32", rows["int8"].after / exact.after, 1.01)]
    figures = {f"{name}_loss": row.after for name, row in rows.items()}
    figures |= {f"{name}_update_bytes": float(row.update_bytes) for name, row in rows.items()}
    finish(bars, figures | {"loss_before": exact.before}, quiet=args.json)


def studio_sites(base: Base, count: int, seed: int) -> list[SimulatedSite]:
    """Return the first procedural studios as sites, their drawings made, read and encoded as a site does it."""
    with tempfile.TemporaryDirectory() as name:
        sites = []
        for studio in make_studios(Path(name), count, seed, each=90):
            found = load_drawings(studio.folder, DrawingSettings(size=base.pixels))
            sites.append(SimulatedSite(studio.name, encode(base, found.train), encode(base, found.held_out)))
    return sites


def _measured(base: Base, sites: list[SimulatedSite], settings: RunSettings, encoding: Encoding) -> Row:
    settings = settings.model_copy(update={"encoding": encoding})
    simulation = Simulation(base, sites, settings)
    before = losses(base, simulation.state.adapter, sites, settings)["mean"]
    after = losses(base, simulation.run(), sites, settings)["mean"]
    part = settings.lora.trained
    zeros = np.zeros(simulation.schema.numel(part), np.float32)
    return Row(encoding, len(pack(zeros, simulation.schema, part, encoding)), before, after)


def _print(rows: dict[Encoding, Row], settings: RunSettings, sites: int) -> None:
    exact = rows["fp32"]
    steps, batch = settings.training.steps, settings.training.batch
    gained = exact.before - exact.after
    table(
        f"{sites} sites, {settings.rounds} rounds of {steps} steps of {batch}; held-out loss {exact.before:.5f} before",
        ("updates in", "bytes an update", "of fp32", "held-out loss", "over fp32", "share of the gain lost"),
        [
            (
                row.encoding,
                f"{row.update_bytes:,}",
                f"{row.update_bytes / exact.update_bytes:.2f}",
                f"{row.after:.5f}",
                f"{row.after / exact.after:.5f}",
                f"{(row.after - exact.after) / gained:+.2%}",
            )
            for row in rows.values()
        ],
    )


if __name__ == "__main__":
    main()
