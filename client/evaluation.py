"""How good drawings are, judged against real ones: FID, KID, PSNR and SSIM (torchmetrics).

This stands at the site because real drawings are only ever there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from common.base import classifier_folder
from common.base.classifier import FEATURES, load_classifier
from common.errors import BaseModelError, DrawingsError

FEWEST = 8
"""Pictures below which a distance of distributions says nothing at all."""


@dataclass(frozen=True)
class Judgement:
    """What was measured.

    Attributes:
        fid: Frechet distance (Heusel et al. 2017) between generated and real drawings in the feature space named.
        kid: Kernel distance (Binkowski et al. 2018), mean over subsets; unbiased, so trust it more on few drawings.
        psnr: Of the autoencoder's reconstruction of the real drawings, dB: the ceiling of what the base can draw.
        ssim: Structural similarity (Wang et al. 2004) of the same reconstruction.
        generated: Number of generated drawings.
        real: Number of real drawings.
        features: ``drawings`` (the embedded classifier's) or ``inception``.
    """

    fid: float
    kid: float
    psnr: float
    ssim: float
    generated: int
    real: int
    features: str

    def as_dict(self) -> dict[str, float | int | str]:
        """Return the fields as a mapping, for JSON."""
        return asdict(self)


class DrawingFeatures(nn.Module):
    """Turns uint8 pictures [n, 3, h, w] into the classifier's features, float32 [n, 64]."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.classifier = load_classifier(classifier_folder())

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the features."""
        x = pictures.float() / 127.5 - 1
        if x.shape[-1] != 64:
            x = F.interpolate(x, (64, 64), mode="bilinear", antialias=True)
        features: Tensor = self.classifier.features(x)
        return features


def domain_fid(generated: NDArray[np.uint8], real: NDArray[np.uint8], inception: Path | None = None) -> float:
    """Return the Frechet distance between two sets of pictures, uint8 [n, h, w, 3].

    Raises:
        DrawingsError: Fewer than eight pictures on one side.
        BaseModelError: The Inception weights cannot be loaded.
    """
    _enough(generated, real)
    metric = _fid_metric(inception)
    for pictures, is_real in ((real, True), (generated, False)):
        for part in _batches(pictures):
            metric.update(part, real=is_real)
    return float(metric.compute())


def judge(
    generated: NDArray[np.uint8],
    real: NDArray[np.uint8],
    reconstructed: NDArray[np.uint8],
    inception: Path | None = None,
) -> Judgement:
    """Measure generated drawings against real ones, all uint8 [n, h, w, 3].

    Args:
        generated: What the adapter drew.
        real: The drawings it is to look like.
        reconstructed: ``real`` through the base's autoencoder and back.
        inception: Inception weights as torch-fidelity keeps them; the embedded classifier's features when left out.

    Raises:
        DrawingsError: Fewer than eight pictures on one side.
        BaseModelError: The Inception weights cannot be loaded.
    """
    fid = domain_fid(generated, real, inception)
    subset = min(len(generated), len(real), 50)
    kid = KernelInceptionDistance(feature=_feature(inception), subsets=20, subset_size=subset)
    for pictures, is_real in ((real, True), (generated, False)):
        for part in _batches(pictures):
            kid.update(part, real=is_real)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # KID draws its subsets from the global generator
        kid_mean = float(kid.compute()[0])
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 for x in (reconstructed, real))
    return Judgement(
        fid=fid,
        kid=kid_mean,
        psnr=float(PeakSignalNoiseRatio(data_range=1.0)(a, b)),
        ssim=float(StructuralSimilarityIndexMeasure(data_range=1.0)(a, b)),
        generated=len(generated),
        real=len(real),
        features="inception" if inception else "drawings",
    )


def _enough(generated: NDArray[np.uint8], real: NDArray[np.uint8]) -> None:
    fewest = min(len(generated), len(real))
    if fewest < FEWEST:
        raise DrawingsError(
            "too few pictures to compare two distributions", got=fewest, expected=f"at least {FEWEST} on each side"
        )


def _batches(pictures: NDArray[np.uint8]) -> tuple[Tensor, ...]:
    whole = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    parts: tuple[Tensor, ...] = whole.split(128)
    return parts


def _feature(inception: Path | None) -> nn.Module | int:
    return DrawingFeatures() if inception is None else 2048


def _fid_metric(inception: Path | None) -> FrechetInceptionDistance:
    if inception is None:
        return FrechetInceptionDistance(feature=DrawingFeatures())
    if not inception.is_file():
        raise BaseModelError(
            "there are no Inception weights", got=str(inception), expected="a file", advice="Name another file."
        )
    try:
        return FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(inception))
    except (ModuleNotFoundError, RuntimeError, OSError, ValueError) as cause:
        raise BaseModelError(
            "the Inception network cannot be loaded",
            got=type(cause).__name__,
            expected="weights as torch-fidelity keeps them, and the package torch-fidelity",
            advice="Install bottega[inception], or leave the option out to use the drawing classifier.",
        ) from cause
