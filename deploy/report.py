"""The report of a demo: one self-contained HTML file, pictures and all."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#be123c", "#0f766e", "#a16207", "#4338ca")


@dataclass(frozen=True)
class SiteGallery:
    """What one site's pictures show, uint8 [n, h, w, 3] each: its own drawings, and samples before and after."""

    site: str
    drawings: int
    real: NDArray[np.uint8]
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    prompts: Sequence[str]


def write_report(file: Path, facts: Mapping[str, Any], galleries: Sequence[SiteGallery]) -> None:
    """Write the report.

    Args:
        file: Where.
        facts: The demo's result object (what ``--json`` prints) and ``curves``: site to held-out losses by round.
        galleries: One a site.
    """
    environment = Environment(
        loader=PackageLoader("deploy", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        **facts,
        chart=chart(facts["curves"]),
        galleries=[{"site": g.site, "drawings": g.drawings, "rows": _rows(g)} for g in galleries],
    )
    file.write_text(page, encoding="utf-8")


def strip(pictures: NDArray[np.uint8], scale: int = 2) -> Image.Image:
    """Return pictures side by side, enlarged without smoothing."""
    row = Image.fromarray(np.hstack(list(pictures)))
    return row.resize((row.width * scale, row.height * scale), Image.Resampling.NEAREST)


def _rows(gallery: SiteGallery) -> list[dict[str, str]]:
    rows = (
        ("its own drawings", gallery.real),
        ("the base, before", gallery.before),
        ("the federation's adapter, after", gallery.after),
    )
    return [
        {"title": title, "data": _data_uri(strip(pictures)), "prompts": "; ".join(gallery.prompts)}
        for title, pictures in rows
    ]


def _data_uri(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def chart(curves: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    """Return the geometry of a line chart of held-out loss by round, in a 640 by 280 drawing."""
    values = [v for curve in curves.values() for v in curve.values()]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = (high - low) * 0.08 or 0.01
    low, high = low - pad, high + pad
    last = max((k for curve in curves.values() for k in curve), default=1) or 1

    def at(step: int, value: float) -> str:
        return f"{48 + 570 * step / last:.1f},{248 - 230 * (value - low) / (high - low):.1f}"

    lines = [
        {"site": site, "colour": COLOURS[i % len(COLOURS)], "points": " ".join(at(k, v) for k, v in curve.items())}
        for i, (site, curve) in enumerate(curves.items())
    ]
    ticks = [{"y": f"{248 - 230 * k / 4:.1f}", "label": f"{low + (high - low) * k / 4:.3f}"} for k in range(5)]
    rounds = [
        {"x": f"{48 + 570 * k / last:.1f}", "label": "start" if k == 0 else str(k)}
        for k in next(iter(curves.values()), ())
    ]
    return {"lines": lines, "ticks": ticks, "rounds": rounds}
