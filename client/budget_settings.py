"""What a studio allows to be spent on its drawings: ``[privacy]`` in ``site.toml``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.settings import Settings


class BudgetSettings(Settings):
    """What a site allows to be spent on its drawings, ever. Written here and nowhere else."""

    epsilon: float = 10.0
    """For the lifetime of a drawing, over all runs."""
    delta: float = 1e-4
    """Below one over the number of units."""
    epsilon_a_run: float | None = None
    """For one run; no other limit than the whole when left out."""
    epsilon_a_round: float | None = None
    """For one round; no other limit than the run's when left out."""
    looks: Annotated[int, Field(ge=0)] = 12
    """Last looks at adapters, ever (`rules.most_copied`): each tells one bit of the drawings without noise."""
