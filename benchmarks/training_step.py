"""Seconds a training step against a plain loop: ``python -m benchmarks.training_step [--quick] [--json]``.

The plain loop does in every step what the public text-to-image LoRA script of diffusers does: pictures to tensors,
captions to tokens, autoencoder, text encoder, noise at random timesteps, U-Net, squared error, clipped gradients,
AdamW and its schedule. Both train the same LoRA on the same embedded base with the same batch, on one thread, in turns.

* *cached*: :func:`client.training.train` as sites run it, on latents and captions that were encoded once.
* *uncached*: the same function with every batch encoded anew by :func:`client.dataset.encode`, for which there is no
  setting: sites always cache.

Ours is timed whole (loading the factors, its optimiser, reading the factors back), the plain loop by its steps alone.
The bars are on wall-clock time; the processor's time beside it tells how much of a difference another program made.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import Tensor

from benchmarks.reporting import Bar, finish, table
from client.augment import to_tensor
from client.dataset import TrainingSet, encode
from client.drawings import Drawing, DrawingSettings, load_drawings
from client.training import train
from common.adapter_schema import Adapter
from common.models import Base, LoraFactors, attach_lora, load_adapter, load_base
from common.settings import LoraSettings, RunSettings, TrainingSettings
from deploy.studios import make_studios
from server.start import fresh_state

WAYS = ("plain", "cached", "uncached")


def main() -> None:
    """Measure, print the table and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="3 turns of 3 steps instead of 7 turns of 6")
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps, turns = (3, 3) if args.quick else (6, 7)
    base = load_base()
    drawings = _drawings(base)
    took = {
        method: _turns(base, drawings, method, TrainingSettings(steps=steps, batch=args.batch), turns)
        for method in ("ffa", "both")
    }
    if not args.json:
        _print(took, args.batch, turns, steps)
    bars = [
        Bar("cached", max(_ratio(t, "cached") for t in took.values()), 0.8),
        Bar("uncached", max(_ratio(t, "uncached") for t in took.values()), 1.0),
    ]
    figures = {f"{m}_{way}_s": median(s.wall for s in t[way]) for m, t in took.items() for way in WAYS}
    figures |= {f"{m}_{way}_processor_ratio": _processor_ratio(t, way) for m, t in took.items() for way in WAYS[1:]}
    finish(bars, figures, quiet=args.json)


@dataclass(frozen=True)
class Seconds:
    """Seconds a step in one turn: by the clock on the wall, and of the processor."""

    wall: float
    processor: float


Took = dict[str, list[Seconds]]
"""By way, one value a turn."""


def _drawings(base: Base) -> list[Drawing]:
    with tempfile.TemporaryDirectory() as name:
        folder = make_studios(Path(name), 1, seed=0, each=90)[0].folder
        return list(load_drawings(folder, DrawingSettings(size=base.pixels)).train)


def _turns(
    base: Base, drawings: list[Drawing], method: Literal["ffa", "both"], settings: TrainingSettings, turns: int
) -> Took:
    lora = LoraSettings(method=method)
    start = fresh_state(attach_lora(base.unet, lora), RunSettings(lora=lora)).adapter
    cached = encode(base, drawings)
    fresh = EncodedEachStep(cached.views, cached.states, cached.caption, base, drawings)
    ways: dict[str, Callable[[TrainingSettings], Seconds]] = {
        "plain": lambda s: plain_loop(base, start, drawings, s),
        "cached": lambda s: _timed(s.steps, lambda: train(base, start, cached, lora, s, seed=0)),
        "uncached": lambda s: _timed(s.steps, lambda: train(base, start, fresh, lora, s, seed=0)),
    }
    for way in ways.values():
        way(settings.model_copy(update={"steps": 1}))  # allocations and lazy imports happen here
    took: Took = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            took[name].append(way(settings))
    return took


def _timed(steps: int, work: Callable[[], object]) -> Seconds:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Seconds((time.perf_counter() - wall) / steps, (time.process_time() - processor) / steps)


@dataclass(frozen=True)
class EncodedEachStep(TrainingSet):
    """A training set that keeps nothing: every batch goes through autoencoder and text encoder again."""

    base: Base
    drawings: Sequence[Drawing]
    batch: list[TrainingSet] = field(default_factory=list)

    def latents(self, index: Tensor, chance: torch.Generator) -> Tensor:  # noqa: ARG002
        """Encode the drawings in ``index`` and their captions, and return the latents."""
        self.batch[:] = [encode(self.base, [self.drawings[i] for i in index.tolist()])]
        return self.batch[0].first_view(torch.arange(len(index)))

    def text(self, index: Tensor, dropped: Tensor) -> Tensor:
        """Return the text states of the drawings that were just encoded."""
        return self.batch[0].text(torch.arange(len(index)), dropped)


def plain_loop(base: Base, start: Adapter, drawings: Sequence[Drawing], settings: TrainingSettings) -> Seconds:
    """Train as the public script does and return what a step took."""
    load_adapter(base.unet, start)
    accelerator = Accelerator(cpu=True)
    parameters = LoraFactors(base.unet).trained()
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    rate = get_scheduler("constant", optimizer=optimiser)
    unet = accelerator.prepare(base.unet)
    unet.train()
    torch.manual_seed(0)

    def steps() -> None:
        for _ in range(settings.steps):
            chosen = [drawings[i] for i in torch.randint(len(drawings), (settings.batch,)).tolist()]
            loss = _plain_loss(base, unet, chosen)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            rate.step()
            optimiser.zero_grad()
            loss.detach().item()

    took = _timed(settings.steps, steps)
    unet.eval()
    return took


def _plain_loss(base: Base, unet: torch.nn.Module, chosen: Sequence[Drawing]) -> Tensor:
    pixels = to_tensor([d.pixels for d in chosen])
    words = base.tokenizer(
        [d.caption for d in chosen], padding="max_length", truncation=True,
        max_length=base.tokenizer.model_max_length, return_tensors="pt",
    ).input_ids  # fmt: skip
    latents = base.vae.encode(pixels).latent_dist.sample() * base.vae.config.scaling_factor
    noise = torch.randn_like(latents)
    t = torch.randint(0, base.schedule.config.num_train_timesteps, (len(chosen),)).long()
    noisy = base.schedule.add_noise(latents, noise, t)
    states = base.text_encoder(words, return_dict=False)[0]
    epsilon = base.schedule.config.prediction_type == "epsilon"
    target = noise if epsilon else base.schedule.get_velocity(latents, noise, t)
    guess = unet(noisy, t, states, return_dict=False)[0]
    return F.mse_loss(guess.float(), target.float(), reduction="mean")


def _ratio(took: Took, way: str) -> float:
    """Return the ratio to the plain loop of the medians over the turns, by the clock on the wall."""
    return median(t.wall for t in took[way]) / median(t.wall for t in took["plain"])


def _processor_ratio(took: Took, way: str) -> float:
    return median(t.processor for t in took[way]) / median(t.processor for t in took["plain"])


def _print(took: dict[str, Took], batch: int, turns: int, steps: int) -> None:
    words = {
        "plain": "plain loop",
        "cached": "ours, cached",
        "uncached": "ours, uncached",
    }
    trained = {"ffa": "B", "both": "A and B"}
    table(
        f"a step of {batch} drawings on the embedded base, one thread, {turns} turns of {steps} steps",
        ("way", "trained", "s a step", "over plain", "processor, over plain"),
        [
            (
                words[way],
                trained[method],
                f"{median(s.wall for s in t[way]):.3f}",
                f"{_ratio(t, way):.2f}",
                f"{_processor_ratio(t, way):.2f}",
            )
            for method, t in took.items()
            for way in WAYS
        ],
    )


if __name__ == "__main__":
    main()
