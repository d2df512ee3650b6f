"""What a site settles for itself: ``site.toml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from client.augment import AugmentSettings
from client.budget_settings import BudgetSettings
from client.drawings import DrawingSettings
from client.policy import HouseRules
from client.supernode_settings import SiteBasics
from common.metrics_port import is_loopback
from common.settings import EMBEDDED_BASE, Positive


class SiteSettings(SiteBasics):
    """One site."""

    registry: str | None = None
    """Host and port of the server's registry, such as ``server.example:8441``."""
    base: str = EMBEDDED_BASE
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive | None = None
    """CPU threads of training; all cores when left out. Set 1 where several sites share a machine."""
    memory_mib: Positive | None = None
    """Of a private step, beside the base and the drawings: as many drawings are worked on together as fit, and one at
    least. Four when left out. What a step comes to is the same."""
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
    metrics_host: str = "127.0.0.1"
    """Address of this machine's own that metrics are told on: loopback, since how many drawings there are, and how long
    they were trained on, is nobody else's to know."""
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] | None = None
    """Prometheus scrapes here, usually at 8452; metrics are told nowhere when it is left out. 0 lets the system choose,
    and the log says what it chose."""

    @field_validator("metrics_host")
    @classmethod
    def _metrics_stay_in_the_house(cls, host: str) -> str:
        if not is_loopback(host):
            raise ValueError("metrics of a site are told on loopback alone, such as 127.0.0.1")
        return host
