"""House rules: what a site lets a task ask of it. They are the site's own; the server cannot change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from common.errors import BottegaError
from common.settings import LoraSettings, Positive, Settings, TrainingSettings


class RuleError(BottegaError):
    """A task asks for something that the house rules do not allow."""

    advice = "The site's operator can widen `[rules]` in site.toml; the run can ask for less."


class HouseRules(Settings):
    """The most that a task may ask for."""

    most_steps: Positive = 1000
    """Optimiser steps a round."""
    most_batch: Positive = 1024
    """Drawings a step, accumulation counted in."""
    most_rank: Positive = 128
    most_learning_rate: Annotated[float, Field(gt=0.0)] = 0.1
    methods: Sequence[Literal["ffa", "both"]] = ("ffa", "both")


def check_rules(rules: HouseRules, lora: LoraSettings, training: TrainingSettings) -> None:
    """Pass a task's settings, or say which rule forbids them.

    Raises:
        RuleError: The first rule that is broken.
    """
    limits = (
        ("steps a round", training.steps, rules.most_steps),
        ("drawings a step", training.batch * training.accumulate, rules.most_batch),
        ("rank", lora.rank, rules.most_rank),
        ("learning rate", training.learning_rate, rules.most_learning_rate),
    )
    for what, asked, most in limits:
        if asked > most:
            raise RuleError(f"the house rules forbid so many {what}", got=asked, expected=f"at most {most}")
    if lora.method not in rules.methods:
        raise RuleError("the house rules forbid this method", got=lora.method, expected=" or ".join(rules.methods))
