"""What an adapter gives away of its drawings: ``python -m benchmarks.membership --data DIR [--quick] [--json]``.

Each row trains an adapter of the embedded base on drawings of the first folder in DIR, and attacks it
(:mod:`client.membership`): can they be told from drawings of the same folder that were left out? And does it draw them
again (:mod:`client.copies`)?

* *control*: 16 drawings, rank 32 in all large layers, 400 steps without privacy: made to remember. Were it not found
  out, the attacks would prove nothing.
* *by heart*: the same with 4 drawings, too few to attack, but it draws them. Were that not found out, looking for
  copies would prove nothing.
* *control, epsilon 8*: the same drawings and layers under epsilon 8.
* *run without privacy*, *run at epsilon 8*: all training drawings of the folder and the settings of a run, as a site of
  its own: twelve rounds of eight steps, and four rounds of two noised ones.

With --quick: the control for 200 steps, and the same under epsilon 8.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.reporting import Bar, finish, table
from client.copies import Copies, find_copies
from client.dataset import encode
from client.drawings import Drawing, DrawingSettings, load_drawings
from client.membership import ATTACKS, Interval, Leak, attack, measure_leak
from client.private_training import Mechanism, train_privately
from client.training import train
from common.adapter_schema import Adapter
from common.adapters import split
from common.models import Base, attach_lora, load_adapter, load_base
from common.sampling import sample
from common.settings import LoraSettings, PrivacySettings, RunSettings, TrainingSettings
from deploy.simulation import SimulatedSite, Simulation
from security.noise import SeededNoise
from security.privacy_plan import planned_steps
from server.start import fresh_state

FEW = 16
MOST_ATTACKED = 64
PICTURES = 48
LARGE = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "conv1", "conv2")
CONTROL = LoraSettings(rank=32, method="both", targets=LARGE)
PRIVACY = PrivacySettings(epsilon=8.0, delta=1e-3)


@dataclass(frozen=True)
class Row:
    """One adapter, attacked."""

    name: str
    leaks: dict[str, Leak]
    copies: Copies


@dataclass(frozen=True)
class Folder:
    """Drawings to train on and drawings that are left out."""

    train: Sequence[Drawing]
    held_out: Sequence[Drawing]


def main() -> None:
    """Train, attack, print the table and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of folders of drawings")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="a shorter control, with and without privacy")
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base()
    first = next(folder for folder in sorted(args.data.iterdir()) if folder.is_dir())
    found = load_drawings(first, DrawingSettings(size=base.pixels))
    rows = {row.name: row for row in _rows(base, Folder(found.train, found.held_out), quick=args.quick)}
    if not args.json:
        columns = (
            "",
            *(f"{name}: {what}" for name in ATTACKS for what in ("AUC", "TPR at 1 % FPR")),
            "copies",
            "nearest",
        )
        table("members told from others", columns, [_cells(row) for row in rows.values()])
    heart = rows["by heart"].copies.share if "by heart" in rows else None
    figures = {
        f"{name.replace(' ', '_').replace(',', '')}_{by}_auc": leak.auc.value
        for name, row in rows.items()
        for by, leak in row.leaks.items()
    }
    bars = [Bar("control_auc", rows["control"].leaks["loss"].auc.value, 0.8, at_least=True)]
    if heart is not None:
        bars.append(Bar("by_heart_copies", heart, 0.9, at_least=True))
    finish(bars, figures, quiet=args.json)


def _rows(base: Base, folder: Folder, *, quick: bool) -> Iterator[Row]:
    few = Folder(folder.train[:FEW], [*folder.held_out, *folder.train[FEW:]][:MOST_ATTACKED])
    yield _attacked(base, "control", few, *_remembering(base, few.train, 200 if quick else 400))
    yield _attacked(base, "control, epsilon 8", few, *_noised(base, few.train))
    if quick:
        return
    heart = Folder(folder.train[:4], [])
    yield _attacked(base, "by heart", heart, *_remembering(base, heart.train, 400))
    plain = RunSettings(rounds=12, privacy=False, training=TrainingSettings(steps=8))
    yield _attacked(base, "run without privacy", folder, *_run(base, folder, plain))
    yield _attacked(base, "run at epsilon 8", folder, *_run(base, folder, RunSettings(rounds=4, privacy=PRIVACY)))


def _start(base: Base, lora: LoraSettings) -> Adapter:
    return fresh_state(attach_lora(base.unet, lora), RunSettings(lora=lora)).adapter


def _remembering(base: Base, drawings: Sequence[Drawing], steps: int) -> tuple[Adapter, Adapter]:
    """Return an adapter before and after training that is to remember."""
    start = _start(base, CONTROL)
    long = TrainingSettings(steps=steps, batch=16, learning_rate=2e-3, weight_decay=0.0, caption_dropout=0.0)
    return start, _moved(start, train(base, start, encode(base, drawings), CONTROL, long, seed=0).delta)


def _noised(base: Base, drawings: Sequence[Drawing]) -> tuple[Adapter, Adapter]:
    start, steps = _start(base, CONTROL), planned_steps(PRIVACY, 4, PRIVACY.epsilon, PRIVACY.delta)
    eight = TrainingSettings(steps=4 * steps.count, learning_rate=PRIVACY.learning_rate, weight_decay=0.0)
    mechanism = Mechanism(steps.multiplier, PRIVACY.clip, steps.rate, PRIVACY.multiplicity)
    done = train_privately(base, start, encode(base, drawings), CONTROL, eight, mechanism, SeededNoise(0))
    return start, _moved(start, done.delta)


def _run(base: Base, folder: Folder, settings: RunSettings) -> tuple[Adapter, Adapter]:
    site = SimulatedSite("alone", encode(base, folder.train), encode(base, folder.held_out))
    end = Simulation(base, [site], settings).run()
    return Adapter(end.schema, end.a, np.zeros_like(end.b)), end


def _moved(start: Adapter, delta: np.ndarray) -> Adapter:
    change = split(start.schema, delta)
    return Adapter(start.schema, start.a + change.a, start.b + change.b)


def _attacked(base: Base, name: str, folder: Folder, before: Adapter, after: Adapter) -> Row:
    sides = [encode(base, side[:MOST_ATTACKED]) for side in (folder.train, folder.held_out) if side]
    leaks = {
        by: measure_leak(*(attack(base, before, after, side, how) for side in sides))
        for by, how in ATTACKS.items()
        if len(folder.held_out)
    }
    load_adapter(base.unet, after)
    captions = [folder.train[i % len(folder.train)].caption for i in range(PICTURES)]
    drawn = sample(base, captions, seed=0, steps=25, guidance=3.0)
    return Row(name, leaks, find_copies(drawn, np.stack([drawing.pixels for drawing in folder.train])))


def _cells(row: Row) -> tuple[str, ...]:
    told = [_interval(part) for leak in row.leaks.values() for part in (leak.auc, leak.tpr)] or [""] * 2 * len(ATTACKS)
    return (row.name, *told, f"{row.copies.share:.0%}", f"{row.copies.nearest:.2f}")


def _interval(part: Interval) -> str:
    return f"{part.value:.2f} ({part.low:.2f} to {part.high:.2f})"


if __name__ == "__main__":
    main()
