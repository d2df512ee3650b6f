"""What a run is planned with where its operator left it open."""

from __future__ import annotations

import pytest

from common.settings import AggregationSettings, LoraSettings, RunSettings, SitePrivacySettings
from server.planning import DEFENDED_FROM, defended


def test_with_sites_enough_a_trimmed_mean_stands_behind_the_detector() -> None:
    planned = defended(RunSettings(), 12)
    rule = planned.aggregation.robust
    assert rule
    assert (rule.rule, rule.hostile, rule.mixing, planned.quorum) == ("trimmed_mean", 3, False, 7)
    assert RunSettings.model_validate(planned.model_dump()) == planned, "what is signed is what can be asked for"


@pytest.mark.parametrize(
    "settings",
    [
        RunSettings(aggregation=AggregationSettings(robust=False)),
        RunSettings(detector=False),
        RunSettings(lora=LoraSettings(method="both")),
        RunSettings(detector=False, site_privacy=SitePrivacySettings()),
        RunSettings(quorum=3),
    ],
    ids=["the mean is asked for", "no detector", "both factors", "site privacy", "a small quorum is asked for"],
)
def test_who_asked_for_something_else_gets_it(settings: RunSettings) -> None:
    assert defended(settings, 12) is settings


def test_with_few_sites_it_is_the_mean() -> None:
    settings = RunSettings()
    assert defended(settings, DEFENDED_FROM - 1) is settings
    assert defended(settings, DEFENDED_FROM).aggregation.robust
