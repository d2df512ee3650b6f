"""A small classifier of drawings: its penultimate features are the domain features that FID and KID are taken on."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.errors import BaseModelError

FEATURES = 64
"""Length of the feature vector."""


class DrawingClassifier(nn.Module):
    """Tells the subject and the style of a 64x64 drawing.

    Args:
        subjects: Number of subjects.
        styles: Number of styles.
    """

    def __init__(self, subjects: int, styles: int) -> None:
        super().__init__()
        widths = (3, 16, 32, 48, FEATURES)
        self.body = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU(),
                    nn.Conv2d(b, b, 3, padding=1), nn.GroupNorm(8, b), nn.SiLU(),
                )
                for a, b in itertools.pairwise(widths)
            )
        )  # fmt: skip
        self.subject = nn.Linear(FEATURES, subjects)
        self.style = nn.Linear(FEATURES, styles)

    def features(self, x: Tensor) -> Tensor:
        """Return features float32 [n, 64] of pictures float32 [n, 3, 64, 64] in [-1, 1]."""
        pooled: Tensor = self.body(x).mean((2, 3))
        return pooled

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of subject [n, subjects] and style [n, styles]."""
        f = self.features(x)
        return self.subject(f), self.style(f)


def save_classifier(model: DrawingClassifier, folder: Path, facts: dict[str, Any]) -> None:
    """Write weights (fp16 safetensors) and ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous().cpu() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    config = {"subjects": model.subject.out_features, "styles": model.style.out_features, **facts}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_classifier(folder: Path) -> DrawingClassifier:
    """Return the classifier kept in ``folder``, in evaluation mode and float32.

    Raises:
        BaseModelError: The folder holds no classifier, or one of another shape.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = DrawingClassifier(int(config["subjects"]), int(config["styles"]))
        model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    except (OSError, KeyError, ValueError, RuntimeError) as cause:
        raise BaseModelError("the drawing classifier cannot be loaded", got=type(cause).__name__) from cause
    for p in model.parameters():
        p.requires_grad_(False)
    return model.eval()
