"""Train the embedded base from nothing but a seed: ``python -m common.base.train --work DIR``.

Four stages, each resumable: public procedural drawings, autoencoder, drawing classifier, U-Net with text
encoder. The weights land in ``common/base/model`` and ``common/base/classifier``. On one thread of a
2.1 GHz server core the default takes about two hours; a GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from common.base import architecture as arch
from common.base import base_folder, classifier_folder
from common.base.classifier import DrawingClassifier, save_classifier
from common.procedural import PALETTES, caption_of, public_drawings, styles, subjects


@dataclass(frozen=True)
class Recipe:
    """Every number of the training; the model card repeats them."""

    seed: int = 2026
    drawings: int = 24_000
    vae_steps: int = 2_200
    vae_more_steps: int = 2_800  # a second cosine cycle (warm restart, arXiv 1608.03983): colours come late
    vae_batch: int = 16
    vae_lr: float = 2e-3
    unet_steps: int = 6_500
    unet_batch: int = 32
    unet_lr: float = 1.5e-3
    caption_dropout: float = 0.1
    ema: float = 0.999
    classifier_steps: int = 1_500
    classifier_batch: int = 64
    classifier_lr: float = 2e-3


def main() -> None:
    """Run every stage that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="where drawings and checkpoints are kept while training"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = vars(parser.parse_args())
    work: Path = args.pop("work")
    torch.set_num_threads(args.pop("threads"))
    recipe = Recipe(**args)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work.mkdir(parents=True, exist_ok=True)
    pictures, captions, labels = make_drawings(recipe, work)
    vae = train_vae(recipe, work, pictures, device)
    train_classifier(recipe, work, pictures, labels, device)
    train_unet(recipe, work, encode_all(vae, pictures, work), captions, vae, device)


def make_drawings(recipe: Recipe, work: Path) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return pictures uint8 [n, 64, 64, 3], captions, and labels int64 [n, 2] (subject, style)."""
    file = work / "drawings.npz"
    if not file.exists():
        say("drawings", f"making {recipe.drawings}")
        made = list(public_drawings(recipe.drawings, recipe.seed))
        subject_ids, style_ids = list(subjects.PUBLIC), list(styles.PUBLIC)
        np.savez(
            file,
            pictures=np.stack([d.picture for d in made]),
            captions=np.array([d.caption for d in made]),
            labels=np.array([(subject_ids.index(d.subject), style_ids.index(d.style)) for d in made]),
        )
    data = np.load(file)
    return data["pictures"], [str(c) for c in data["captions"]], data["labels"]


def train_vae(recipe: Recipe, work: Path, pictures: np.ndarray, device: torch.device) -> AutoencoderKL:
    """Train the autoencoder, fold the latents' statistics into its 1x1 convolutions, and return it."""
    torch.manual_seed(recipe.seed)
    vae = AutoencoderKL(**arch.VAE).to(device)
    done = work / "vae-folded.pt"
    if done.exists():
        vae.load_state_dict(torch.load(done, weights_only=True, map_location=device))
        return vae.eval()
    loop = Loop("vae", work, (recipe.vae_steps, recipe.vae_more_steps), recipe.vae_lr, vae, recipe.seed)
    for step, rng in loop:
        index = rng.integers(0, len(pictures), recipe.vae_batch)
        x = recolour(to_tensor(pictures[index], device), rng)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        edges = sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
        loss = F.l1_loss(y, x) + F.mse_loss(y, x) + edges + 1e-6 * posterior.kl().mean()
        loop.update(step, loss)
    fold_statistics(vae.eval(), to_tensor(pictures[:2048], device))
    torch.save(vae.state_dict(), done)
    return vae


@torch.no_grad()
def fold_statistics(vae: AutoencoderKL, x: Tensor) -> None:
    """Give the latents mean 0 and deviation 1 per channel, by changing ``quant_conv`` and ``post_quant_conv`` alone.

    The pipeline scales latents by one factor and cannot shift them, so the shift has to live in the weights.
    """
    z = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(128)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    c = arch.LATENT_CHANNELS
    vae.quant_conv.weight[:c] /= std[:, None, None, None]
    vae.quant_conv.bias[:c] = (vae.quant_conv.bias[:c] - mean) / std
    vae.quant_conv.bias[c:] -= 2 * std.log()  # the other half is the log variance
    vae.post_quant_conv.bias += (vae.post_quant_conv.weight[:, :, 0, 0] * mean).sum(1)
    vae.post_quant_conv.weight *= std[None, :, None, None]


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: np.ndarray, work: Path) -> Tensor:
    """Return the latents of all drawings, float32 [n, 4, 16, 16]."""
    file = work / "latents.pt"
    if not file.exists():
        device = next(vae.parameters()).device
        parts = [
            vae.encode(to_tensor(pictures[i : i + 128], device)).latent_dist.mode().cpu()
            for i in range(0, len(pictures), 128)
        ]
        torch.save(torch.cat(parts), file)
    latents: Tensor = torch.load(file, weights_only=True)
    return latents


def train_unet(
    recipe: Recipe, work: Path, latents: Tensor, captions: list[str], vae: AutoencoderKL, device: torch.device
) -> None:
    """Train U-Net and text encoder together and write the pipeline (fp16)."""
    torch.manual_seed(recipe.seed + 1)
    tokenizer = make_tokenizer()
    ids = torch.tensor(tokenizer([*captions, ""], padding="max_length", truncation=True)["input_ids"]).to(device)
    text = CLIPTextModel(
        CLIPTextConfig(
            **arch.TEXT,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(**arch.UNET)
    both = nn.ModuleDict({"unet": unet, "text": text}).to(device)
    average = {k: v.detach().clone() for k, v in both.state_dict().items()}
    schedule = DDPMScheduler.from_config(DDIMScheduler(**arch.SCHEDULER).config)
    latents = latents.to(device)
    loop = Loop("unet", work, (recipe.unet_steps,), recipe.unet_lr, both, recipe.seed + 1, average)
    for step, rng in loop:
        index = torch.from_numpy(rng.integers(0, len(latents), recipe.unet_batch)).to(device)
        words = ids[index].clone()
        words[torch.from_numpy(rng.random(len(index)) < recipe.caption_dropout)] = ids[-1]
        noise = torch.from_numpy(rng.standard_normal((len(index), *latents.shape[1:]), dtype=np.float32)).to(device)
        t = torch.from_numpy(rng.integers(0, 1000, len(index))).to(device)
        x = latents[index]
        guess = unet(schedule.add_noise(x, noise, t), t, text(words)[0]).sample
        loop.update(step, F.mse_loss(guess, schedule.get_velocity(x, noise, t)))
        decay = min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for k, v in both.state_dict().items():
                average[k].lerp_(v, 1 - decay) if v.is_floating_point() else average[k].copy_(v)
    both.load_state_dict(average)
    write_pipeline(vae, text, tokenizer, unet)
    (work / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2), encoding="utf-8")


def make_tokenizer() -> CLIPTokenizer:
    """Return the tokenizer: bytes, and one token for each word of the public captions."""
    every = [caption_of(s, y) for s in subjects.PUBLIC for y in styles.PUBLIC] + [f"in {p}" for p in PALETTES]
    vocab, merges = arch.vocabulary(every)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=arch.MAX_TOKENS)


def write_pipeline(
    vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> None:
    """Save the whole pipeline in half precision, in diffusers' folder layout."""
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**arch.SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.float16).save_pretrained(base_folder(), safe_serialization=True)
    say("unet", f"wrote {base_folder()}")


def train_classifier(
    recipe: Recipe, work: Path, pictures: np.ndarray, labels: np.ndarray, device: torch.device
) -> None:
    """Train the drawing classifier on public drawings, some of them recoloured, and write it."""
    torch.manual_seed(recipe.seed + 2)
    model = DrawingClassifier(len(subjects.PUBLIC), len(styles.PUBLIC)).to(device)
    held = len(pictures) // 20
    target = torch.from_numpy(labels).to(device)
    loop = Loop("classifier", work, (recipe.classifier_steps,), recipe.classifier_lr, model, recipe.seed + 2)
    for step, rng in loop:
        index = rng.integers(held, len(pictures), recipe.classifier_batch)
        subject, style = model(recolour(to_tensor(pictures[index], device), rng))
        at = target[torch.from_numpy(index).to(device)]
        loop.update(step, F.cross_entropy(subject, at[:, 0]) + F.cross_entropy(style, at[:, 1]))
    model.eval()
    with torch.no_grad():
        answers = [model(to_tensor(pictures[i : min(i + 128, held)], device)) for i in range(0, held, 128)]
    right = [float((torch.cat([a[k] for a in answers]).argmax(1) == target[:held, k]).float().mean()) for k in (0, 1)]
    say("classifier", f"held-out accuracy: subject {right[0]:.3f}, style {right[1]:.3f}")
    save_classifier(model, classifier_folder(), {"held_out_accuracy": {"subject": right[0], "style": right[1]}})


class Loop:
    """Steps of AdamW in cosine cycles, seeded per step and saved now and then, so that it can go on."""

    def __init__(
        self,
        name: str,
        work: Path,
        cycles: tuple[int, ...],
        lr: float,
        model: nn.Module,
        seed: int,
        average: dict[str, Tensor] | None = None,
    ) -> None:
        self.name, self.steps, self.seed, self.model = name, sum(cycles), seed, model
        self.average = average if average is not None else {}
        self.file = work / f"{name}.pt"
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: share_of_rate(step, cycles))
        self.losses: list[float] = []

    def __iter__(self) -> Iterator[tuple[int, np.random.Generator]]:
        first = self._restore()
        self.model.train()
        self.began, self.first = time.monotonic(), first
        for step in range(first, self.steps):
            yield step, np.random.default_rng((self.seed, step))
            if (step + 1) % 200 == 0 or step + 1 == self.steps:
                self._save(step + 1)

    def update(self, step: int, loss: Tensor) -> None:
        """Take one optimiser step and print progress every 50."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            pace = (time.monotonic() - self.began) / (step + 1 - self.first)
            left = pace * (self.steps - step - 1) / 60
            say(
                self.name,
                f"{step + 1}/{self.steps} loss {np.mean(self.losses[-50:]):.4f} {pace:.2f} s/step, {left:.0f} min left",
            )

    def _state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(), "average": self.average}  # fmt: skip

    def _save(self, step: int) -> None:
        fresh = self.file.with_suffix(".new")
        torch.save({"step": step, **self._state()}, fresh)
        fresh.replace(self.file)

    def _restore(self) -> int:
        if not self.file.exists():
            return 0
        saved = torch.load(self.file, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.schedule.load_state_dict(saved["schedule"])
        for k, v in saved["average"].items():
            self.average[k].copy_(v)
        return int(saved["step"])


def share_of_rate(step: int, cycles: tuple[int, ...]) -> float:
    """Return the share of the learning rate at ``step``: cycles warm up for 100 steps and fall to 2 % by a cosine."""
    for length in cycles:
        if step < length:
            return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / length)))
        step -= length
    return 0.02


def to_tensor(pictures: np.ndarray, device: torch.device) -> Tensor:
    """Return uint8 [n, h, w, 3] as float32 [n, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def recolour(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Give half of a batch other papers and inks: the autoencoder must not know only the public palettes."""
    n = len(x)
    paper, ink = (torch.from_numpy(rng.uniform(-1, 1, (n, 3, 1, 1)).astype(np.float32)).to(x) for _ in range(2))
    light = (x.mean(1, keepdim=True) + 1) / 2
    changed = ink + (paper - ink) * light
    return torch.where(torch.from_numpy(rng.random((n, 1, 1, 1)) < 0.5).to(x.device), changed, x)


def say(stage: str, what: str) -> None:
    """Print one line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {stage}: {what}", flush=True)


if __name__ == "__main__":
    main()
