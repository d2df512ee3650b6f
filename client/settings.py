"""What a site settles for itself: ``site.toml``."""

from __future__ import annotations

from typing import Literal

from client.augment import AugmentSettings
from client.budget_settings import BudgetSettings
from client.drawings import DrawingSettings
from client.policy import HouseRules
from client.supernode_settings import SiteBasics
from common.settings import EMBEDDED_BASE, Positive


class SiteSettings(SiteBasics):
    """One site."""

    registry: str | None = None
    """Host and port of the server's registry, such as ``server.example:8441``."""
    base: str = EMBEDDED_BASE
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive | None = None
    """CPU threads of training; all cores when left out. Set 1 where several sites share a machine."""
    views: Positive = 1
    """Encoded views a drawing, the plain one counted in; further ones are augmented."""
    keep_latents: bool = False
    """Keep encoded drawings, encrypted, in the home, so that the next start need not encode again."""
    drawings: DrawingSettings = DrawingSettings()
    """`size` is for looking (`bottega data check`); a site brings drawings to the size of its base."""
    augment: AugmentSettings = AugmentSettings()
    privacy: BudgetSettings = BudgetSettings()
    """What may be spent on the drawings of this site, ever."""
    rules: HouseRules = HouseRules()
