"""What a model still learns under privacy: ``python -m benchmarks.privacy_utility --data DIR [--quick] [--json]``.

A federation in memory (:mod:`deploy.simulation`) on folders of drawings, one a site, such as alphabets of Omniglot.
Every run starts from the embedded base and trains the same adapter (FFA, rank 4, attention layers). What counts is the
held-out loss on everybody's drawings, and how much of the improvement without privacy is kept; beside it the domain FID
of a hundred pictures drawn by held-out captions.

* *without privacy*: as many rounds as it takes to stop getting better by much: twelve of eight steps.
* *epsilon 8, 3, 1*: four rounds with the settings' defaults, three seeds. Delta is 1/n^1.1 for the largest site.
* *core*: only a matrix of 16 by 16 between frozen factors is trained (`lora.method = "core"`), at epsilon 8, 3 and 1,
  one seed each.
* *one change each*, at epsilon 8, one seed: one draw a drawing; both factors; no refresh of A; and, where drawings
  have a drawer, each artist protected.
* *alone*: each site trains by itself at epsilon 8; together they must beat the best of them on everybody's drawings.

Noise comes from fixed seeds, so that the figures can be made again. With --quick: one seed, epsilon 8 and 3 alone, no
pictures. ``--picture FILE`` draws quality against epsilon. ``--cells FOLDER`` keeps what is measured, so that
a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch

from benchmarks.cells import Cells
from benchmarks.judged import Studio, drawn_fid, read_studios
from benchmarks.reporting import Bar, finish, table
from common.adapter_schema import Adapter
from common.models import Base, attach_lora, load_base
from common.settings import AggregationSettings, LoraSettings, PrivacySettings, RunSettings, TrainingSettings
from deploy.simulation import Simulation, losses
from server.start import fresh_state

ROUNDS = 4
PICTURES = 100
EPSILONS = (1, 3, 8)
LORA = LoraSettings(rank=4)
MEASURED = TrainingSettings(held_out_most=4096, weight_decay=0.0)


@dataclass(frozen=True)
class Row:
    """One way of training: mean held-out loss over all sites, and domain FID of what is drawn; one value a seed."""

    name: str
    losses: tuple[float, ...]
    fids: tuple[float, ...] = ()


def main() -> None:
    """Measure, print the table and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of folders of drawings, one a site")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="one seed, epsilon 8 and 3 alone, no pictures")
    parser.add_argument("--picture", type=Path, help="write quality against epsilon as an SVG")
    parser.add_argument("--cells", type=Path, help="a folder for what is measured")
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base()
    trial = Trial(base, read_studios(base, args.data), 0 if args.quick else PICTURES, Cells(args.cells))
    rows: dict[str, Row] = {}
    for row in _rows(trial, args.data, quick=args.quick):
        rows[row.name] = row
    kept = {name: [_kept(rows, loss) for loss in row.losses] for name, row in rows.items()}
    if not args.json:
        told = [
            (name, *_both(row.losses, ".4f"), *_both(kept[name], ".0%"), *_both(row.fids, ".1f"))
            for name, row in rows.items()
        ]
        columns = ("", "held-out loss", "\u00b1", "kept", "\u00b1", "FID", "\u00b1")
        table("on everybody's held-out drawings", columns, told)
    if args.picture:
        _draw(args.picture, {e: kept[f"epsilon {e}"] for e in EPSILONS if f"epsilon {e}" in kept})
    finish(_bars(rows, kept), {name.replace(" ", "_"): mean(r.losses) for name, r in rows.items()}, quiet=args.json)


@dataclass(frozen=True)
class Trial:
    """Trains in some way and measures.

    Args:
        base: The base.
        studios: Whose drawings are measured on, whoever trains.
        pictures: Drawn to be judged; 0 for none.
        cells: What was measured before.
    """

    base: Base
    studios: Sequence[Studio]
    pictures: int
    cells: Cells

    def start(self) -> Row:
        """Measure what every run starts from."""
        settings = RunSettings(lora=LORA, training=MEASURED)
        return self._row("base", (0,), settings, self._fresh)

    def run(self, name: str, settings: RunSettings, seeds: Sequence[int] = (0,), who: Sequence[Studio] = ()) -> Row:
        """Train with each seed and measure; everybody trains when it is not said who."""
        sites = [studio.site for studio in who or self.studios]
        return self._row(name, seeds, settings, lambda seeded: Simulation(self.base, sites, seeded).run())

    def _fresh(self, settings: RunSettings) -> Adapter:
        return fresh_state(attach_lora(self.base.unet, LORA), settings).adapter

    def _row(
        self, name: str, seeds: Sequence[int], settings: RunSettings, made: Callable[[RunSettings], Adapter]
    ) -> Row:
        def measure(seed: int) -> Mapping[str, float]:
            adapter = made(settings.model_copy(update={"seed": seed}))
            loss = losses(self.base, adapter, [studio.site for studio in self.studios], settings)["mean"]
            if not self.pictures:
                return {"loss": loss}
            return {"loss": loss, "fid": drawn_fid(self.base, adapter, self.studios, self.pictures, seed)}

        found = [self.cells.cell(f"{name} {seed}", partial(measure, seed)) for seed in seeds]
        measured = [facts for facts in found if facts]
        return Row(name, tuple(facts["loss"] for facts in measured), tuple(f["fid"] for f in measured if "fid" in f))


def _rows(trial: Trial, data: Path, *, quick: bool) -> Iterator[Row]:
    yield trial.start()
    seeds = range(1 if quick else 3)
    largest = max(len(studio.site.training) for studio in trial.studios)
    privacy = PrivacySettings(delta=largest**-1.1)
    private = RunSettings(rounds=ROUNDS, lora=LORA, training=MEASURED, privacy=privacy)
    plain = MEASURED.model_copy(update={"steps": 8})
    yield trial.run("without privacy", RunSettings(rounds=12, lora=LORA, training=plain, privacy=False), seeds)
    for epsilon in (8, 3) if quick else reversed(EPSILONS):
        asked = privacy.model_copy(update={"epsilon": float(epsilon)})
        yield trial.run(f"epsilon {epsilon}", private.model_copy(update={"privacy": asked}), seeds)
    if quick:
        return
    core = private.model_copy(update={"lora": LoraSettings(method="core", rank=16)})
    for epsilon in reversed(EPSILONS):
        asked = privacy.model_copy(update={"epsilon": float(epsilon)})
        yield trial.run(f"core, epsilon {epsilon}", core.model_copy(update={"privacy": asked}))
    once = privacy.model_copy(update={"multiplicity": 1})
    yield trial.run("one draw a drawing", private.model_copy(update={"privacy": once}))
    yield trial.run("both factors", private.model_copy(update={"lora": LORA.model_copy(update={"method": "both"})}))
    yield trial.run("no refresh", private.model_copy(update={"aggregation": AggregationSettings(refresh_every=0)}))
    artists = read_studios(trial.base, data, "artist")
    if all(studio.site.units is not None and len(studio.site.units) > 1 for studio in artists):
        by_artist = privacy.model_copy(update={"unit": "artist", "rate": 1.0})
        yield trial.run("each artist protected", private.model_copy(update={"privacy": by_artist}), who=artists)
    for studio in trial.studios:
        yield trial.run(f"alone: {studio.site.name}", private, who=[studio])


def _kept(rows: Mapping[str, Row], loss: float) -> float:
    """Return which share of the improvement without privacy a loss is."""
    start = mean(rows["base"].losses)
    return (start - loss) / (start - mean(rows["without privacy"].losses))


def _bars(rows: Mapping[str, Row], kept: Mapping[str, Sequence[float]]) -> list[Bar]:
    bars = [
        Bar("kept_at_8", mean(kept["epsilon 8"]), 0.85, at_least=True),
        Bar("kept_at_3", mean(kept["epsilon 3"]), 0.75, at_least=True),
    ]
    alone = [mean(row.losses) for name, row in rows.items() if name.startswith("alone")]
    if alone:
        bars.append(Bar("together_over_best_alone", mean(rows["epsilon 8"].losses) / min(alone), 1.0))
    return bars


def _both(values: Sequence[float], form: str) -> tuple[str, str]:
    """Return mean and spread over seeds, as a table shows them."""
    spread = format(stdev(values), form) if len(values) > 1 else ""
    return (format(mean(values), form) if values else "", spread)


def _draw(file: Path, kept: Mapping[int, Sequence[float]]) -> None:
    """Draw the share kept against epsilon: a line through the means, a dot a seed."""
    import matplotlib as mpl  # noqa: PLC0415 (half a second, for one option)
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams["svg.hashsalt"] = "bottega"  # the same figures give the same file
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.plot(list(kept), [100 * mean(values) for values in kept.values()], color="#1f4e79")
    for epsilon, values in kept.items():
        axes.scatter([epsilon] * len(values), [100 * value for value in values], color="#1f4e79", s=14)
    axes.axhline(100, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_xticks(list(kept), [str(epsilon) for epsilon in kept])
    axes.minorticks_off()
    axes.set(xlabel="epsilon of a drawing, the whole run", ylabel="improvement kept, %", ylim=(0, 108))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
