"""House rules: what a task may ask is the site's own to say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.policy import HouseRules, RuleError, check_rules
from common.errors import SettingsError
from common.settings import LoraSettings, TrainingSettings, parse

RULES = HouseRules(most_steps=20, most_batch=32, most_rank=8, most_learning_rate=0.01, methods=("ffa",))


def test_what_is_just_within_the_rules_passes() -> None:
    check_rules(RULES, LoraSettings(rank=8), TrainingSettings(steps=20, batch=8, accumulate=4, learning_rate=0.01))


@pytest.mark.parametrize(
    ("lora", "training", "words"),
    [
        (LoraSettings(), TrainingSettings(steps=21), "so many steps a round; got 21; expected at most 20"),
        (LoraSettings(), TrainingSettings(batch=8, accumulate=5), "drawings a step; got 40; expected at most 32"),
        (LoraSettings(rank=9), TrainingSettings(), "rank; got 9; expected at most 8"),
        (LoraSettings(), TrainingSettings(learning_rate=0.011), "learning rate; got 0.011; expected at most 0.01"),
        (LoraSettings(method="both"), TrainingSettings(), "method; got both; expected ffa"),
    ],
    ids=["steps", "batch", "rank", "learning rate", "method"],
)
def test_a_task_beyond_a_rule_is_refused_with_what_it_asked_and_what_is_allowed(
    lora: LoraSettings, training: TrainingSettings, words: str
) -> None:
    with pytest.raises(RuleError) as caught:
        check_rules(RULES, lora, training)
    assert words in str(caught.value)


@given(steps=st.integers(1, 5000), most=st.integers(1, 5000))
def test_no_task_ever_gets_more_steps_than_the_house_allows(steps: int, most: int) -> None:
    try:
        check_rules(HouseRules(most_steps=most), LoraSettings(), TrainingSettings(steps=steps))
    except RuleError:
        assert steps > most
    else:
        assert steps <= most


def test_a_misspelt_rule_is_refused_and_the_nearest_one_is_named() -> None:
    with pytest.raises(SettingsError, match="'most_step' is not a setting; expected 'most_steps'"):
        parse(HouseRules, {"most_step": 5}, "site.toml")
