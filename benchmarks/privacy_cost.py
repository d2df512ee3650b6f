"""What privacy costs a training step: ``python -m benchmarks.privacy_cost [--quick] [--json]``.

The same LoRA on the same embedded base and the same drawings, one thread, in turns. A step is one pass over the batch:

* *plain*: :func:`client.training.train`, one gradient for the batch.
* *private*: :func:`client.private_training.train_privately` at multiplicity 1, every drawing in every step: one
  gradient a drawing, clipped, summed, noise that cannot be foretold, AdamW.
* *opacus*: Opacus' own ``PrivacyEngine.make_private`` around the same U-Net, loss and optimiser, with its secure
  generator off, since that needs a package that is not kept any more.

Time is by the clock on the wall, the median of the ratios of turns that follow each other. Memory is the largest
resident set while a process of its own does two steps, base and drawings counted in.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.reporting import Bar, finish, table
from client.dataset import TrainingSet
from client.private_training import Mechanism, train_privately
from client.training import example_losses, train
from common.adapter_schema import Adapter
from common.models import Base, LoraFactors, attach_lora, load_adapter, load_base
from common.settings import LoraSettings, RunSettings, TrainingSettings
from security.noise import SecureNoise
from server.start import fresh_state

WAYS = ("plain", "private", "opacus")
CLIP, MULTIPLIER = 1e-3, 1.0


def main() -> None:
    """Measure, print the table and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="3 turns of 2 steps instead of 9 turns of 4")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--only", choices=("nothing", *WAYS), help="do one way alone and print its memory, MiB")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only:
        print(json.dumps(_alone(args.only, args.batch)))
        return
    steps, turns = (2, 3) if args.quick else (4, 9)
    took = _turns(args.batch, steps, turns)
    memory = {way: _memory(way, args.batch) for way in ("nothing", *WAYS)}
    over = {way: median(ours / plain for ours, plain in zip(took[way], took["plain"], strict=True)) for way in WAYS}
    room = {way: memory[way] / memory["plain"] for way in WAYS}
    if not args.json:
        rows = [(w, f"{median(took[w]):.3f}", f"{over[w]:.3f}", f"{memory[w]:.0f}", f"{room[w]:.3f}") for w in WAYS]
        table(f"a step over {args.batch} drawings", ("", "seconds", "of plain", "peak MiB", "of plain"), rows)
    bars = [Bar("time", over["private"], 1.10), Bar("peak_memory", room["private"], 1.05)]
    figures = {f"{way}_s": median(took[way]) for way in WAYS} | {f"{way}_mib": memory[way] for way in memory}
    finish(bars, figures | {"opacus_time": over["opacus"], "opacus_peak_memory": room["opacus"]}, quiet=args.json)


def _turns(batch: int, steps: int, turns: int) -> dict[str, list[float]]:
    ways = _ways(batch, steps)
    for way in ways.values():
        way()  # allocations and lazy imports happen here
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            took[name].append((time.perf_counter() - began) / steps)
    return took


def _ways(batch: int, steps: int) -> dict[str, Callable[[], object]]:
    base, lora = load_base(), LoraSettings()
    start, data = fresh_state(attach_lora(base.unet, lora), RunSettings(lora=lora)).adapter, _data(base, batch)
    settings = TrainingSettings(steps=steps, batch=batch)
    mechanism = Mechanism(MULTIPLIER, CLIP, rate=1.0, multiplicity=1, at_once=batch)
    return {
        "plain": lambda: train(base, start, data, lora, settings, seed=0),
        "private": lambda: train_privately(base, start, data, lora, settings, mechanism, SecureNoise()),
        "opacus": lambda: _with_opacus(base, start, data, settings),
    }


def _data(base: Base, count: int) -> TrainingSet:
    """Return latents of noise: what they show costs nothing."""
    shape = int(base.unet.config.in_channels), *2 * (int(base.unet.config.sample_size),)
    latents = torch.randn(count, 1, *shape, generator=torch.Generator().manual_seed(0))
    return TrainingSet(latents, base.encode_text(["an ink drawing", ""]), torch.zeros(count, dtype=torch.long))


def _with_opacus(base: Base, start: Adapter, data: TrainingSet, settings: TrainingSettings) -> None:
    load_adapter(base.unet, start)
    base.unet.train()
    parameters = LoraFactors(base.unet).trained()
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    loader = DataLoader(TensorDataset(torch.arange(len(data))), batch_size=len(data))
    model, private, batches = PrivacyEngine(secure_mode=False).make_private(
        module=base.unet, optimizer=optimiser, data_loader=loader, noise_multiplier=MULTIPLIER, max_grad_norm=CLIP,
        poisson_sampling=False, grad_sample_mode="hooks",
    )  # fmt: skip
    chance = torch.Generator().manual_seed(0)
    try:
        for _ in range(settings.steps):
            for (index,) in batches:
                latents = data.latents(index, chance)
                words = data.text(index, torch.zeros(len(index), dtype=torch.bool))
                t = torch.randint(1000, (len(index),), generator=chance)
                private.zero_grad(set_to_none=True)
                example_losses(base, latents, words, torch.randn(latents.shape, generator=chance), t).mean().backward()
                private.step()
    finally:
        model.remove_hooks()
        base.unet.eval()


def _memory(way: str, batch: int) -> float:
    command = [sys.executable, "-m", "benchmarks.privacy_cost", "--only", way, "--batch", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _alone(way: str, batch: int) -> float:
    """Do one way alone for two steps, and return the largest resident set of this process meanwhile, MiB."""
    ways = _ways(batch, 2)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading (proc(5))
    if way != "nothing":
        ways[way]()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


if __name__ == "__main__":
    main()
