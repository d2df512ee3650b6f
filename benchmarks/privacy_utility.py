"""What a model still learns under privacy: ``python -m benchmarks.privacy_utility --data DIR [--quick] [--json]``.

A federation in memory (:mod:`deploy.simulation`) on folders of drawings, one a site, such as alphabets of Omniglot.
Every run starts from the embedded base and trains the same adapter (FFA, rank 4, attention layers). What counts is the
held-out loss on everybody's drawings, and how much of the improvement without privacy is kept.

* *without privacy*: as many rounds as it takes to stop getting better by much: twelve of eight steps.
* *epsilon 8, 3, 1*: four rounds with the settings' defaults, three seeds. Delta is 1/n^1.1 for the largest site.
* *one change each*, at epsilon 8, one seed: one draw a drawing; both factors; no refresh of A; and, where drawings
  have a drawer, each artist protected.
* *alone*: each site trains by itself at epsilon 8; together they must beat the best of them on everybody's drawings.

Noise comes from fixed seeds, so that the figures can be made again. With --quick: one seed, epsilon 8 and 3 alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch

from benchmarks.reporting import Bar, finish, table
from client.dataset import encode
from client.drawings import DrawingSettings, load_drawings
from client.units import units_of
from common.models import Base, attach_lora, load_base
from common.settings import AggregationSettings, LoraSettings, PrivacySettings, RunSettings, TrainingSettings
from deploy.simulation import SimulatedSite, Simulation, losses
from server.start import fresh_state

ROUNDS = 4
LORA = LoraSettings(rank=4)
MEASURED = TrainingSettings(held_out_most=4096, weight_decay=0.0)


@dataclass(frozen=True)
class Row:
    """One way of training: the mean held-out loss over all sites, one value a seed."""

    name: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return mean(self.values)


def main() -> None:
    """Measure, print the table and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of folders of drawings, one a site")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="one seed, epsilon 8 and 3 alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base()
    sites = [_site(base, folder, "drawing") for folder in sorted(args.data.iterdir()) if folder.is_dir()]
    largest = max(len(site.training) for site in sites)
    privacy = PrivacySettings(delta=largest**-1.1)
    seeds = range(1) if args.quick else range(3)
    start = Row("base", (_start(base, sites),))
    rows = {row.name: row for row in _runs(base, sites, args.data, privacy, seeds, quick=args.quick)}
    gained = start.mean - rows["without privacy"].mean
    kept = {name: (start.mean - row.mean) / gained for name, row in rows.items()}
    if not args.json:
        told = [("base", f"{start.mean:.4f}", "", "")]
        told += [(r.name, f"{r.mean:.4f}", _spread(r.values), f"{kept[r.name]:.0%}") for r in rows.values()]
        table("held-out loss on everybody's drawings", ("", "mean", "spread", "improvement kept"), told)
    bars = [
        Bar("kept_at_8", kept["epsilon 8"], 0.85, at_least=True),
        Bar("kept_at_3", kept["epsilon 3"], 0.75, at_least=True),
    ]
    if not args.quick:
        alone = min(row.mean for name, row in rows.items() if name.startswith("alone"))
        bars.append(Bar("together_over_best_alone", rows["epsilon 8"].mean / alone, 1.0))
    finish(bars, {name.replace(" ", "_"): row.mean for name, row in {"base": start, **rows}.items()}, quiet=args.json)


def _site(base: Base, folder: Path, unit: str) -> SimulatedSite:
    found = load_drawings(folder, DrawingSettings(size=base.pixels))
    units = units_of(found.train, "artist") if unit == "artist" else None
    return SimulatedSite(folder.name.replace("_", "-"), encode(base, found.train), encode(base, found.held_out), units)


def _start(base: Base, sites: Sequence[SimulatedSite]) -> float:
    settings = RunSettings(lora=LORA, training=MEASURED)
    return losses(base, fresh_state(attach_lora(base.unet, LORA), settings).adapter, sites, settings)["mean"]


def _runs(
    base: Base,
    sites: Sequence[SimulatedSite],
    data: Path,
    privacy: PrivacySettings,
    seeds: Sequence[int],
    *,
    quick: bool,
) -> Iterator[Row]:
    def end(settings: RunSettings, seed: int, who: Sequence[SimulatedSite]) -> float:
        adapter = Simulation(base, who, settings.model_copy(update={"seed": seed})).run()
        return losses(base, adapter, sites, settings)["mean"]

    def row(name: str, settings: RunSettings, many: Sequence[int] = (0,), who: Sequence[SimulatedSite] = sites) -> Row:
        return Row(name, tuple(end(settings, seed, who) for seed in many))

    private = RunSettings(rounds=ROUNDS, lora=LORA, training=MEASURED, privacy=privacy)
    plain = MEASURED.model_copy(update={"steps": 8})
    yield row("without privacy", RunSettings(rounds=12, lora=LORA, training=plain, privacy=False), seeds)
    for epsilon in (8, 3) if quick else (8, 3, 1):
        asked = privacy.model_copy(update={"epsilon": float(epsilon)})
        yield row(f"epsilon {epsilon}", private.model_copy(update={"privacy": asked}), seeds)
    if quick:
        return
    once = privacy.model_copy(update={"multiplicity": 1})
    yield row("one draw a drawing", private.model_copy(update={"privacy": once}))
    yield row("both factors", private.model_copy(update={"lora": LORA.model_copy(update={"method": "both"})}))
    yield row("no refresh", private.model_copy(update={"aggregation": AggregationSettings(refresh_every=0)}))
    artists = [_site(base, folder, "artist") for folder in sorted(data.iterdir()) if folder.is_dir()]
    if all(site.units is not None and len(site.units) > 1 for site in artists):
        by_artist = privacy.model_copy(update={"unit": "artist", "rate": 1.0})
        yield row("each artist protected", private.model_copy(update={"privacy": by_artist}), who=artists)
    for site in sites:
        yield row(f"alone: {site.name}", private, who=[site])


def _spread(values: Sequence[float]) -> str:
    return f"{stdev(values):.4f}" if len(values) > 1 else ""


if __name__ == "__main__":
    main()
