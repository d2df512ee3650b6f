"""How long Flower waits for content: its own functions, with what we set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flwr.supercore.inflatable import inflatable_utils

from common.flower_pace import FIRST_BACKOFF_S, pull_within, quicken_pulls

PULLS: list[Any] = [inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree]


@pytest.fixture(autouse=True)
def afterwards() -> Iterator[None]:
    """Leave Flower's own defaults to the other tests."""
    before = [dict(function.__kwdefaults__) for function in PULLS]
    yield
    for function, defaults in zip(PULLS, before, strict=True):
        function.__kwdefaults__.update(defaults)


def never_there(_: str) -> bytes:
    raise inflatable_utils.ObjectUnavailableError("announced, and not sent")


def test_content_that_was_announced_and_never_comes_is_given_up() -> None:
    quicken_pulls()
    pull_within(0.2)
    with pytest.raises(inflatable_utils.ObjectPullError, match="timeout or retry limit"):
        inflatable_utils.pull_objects(["an object"], never_there)


def test_both_ways_of_pulling_have_what_was_set() -> None:
    quicken_pulls()
    pull_within(3.5)
    for function in PULLS:
        assert (function.__kwdefaults__["initial_backoff"], function.__kwdefaults__["max_time"]) == (
            FIRST_BACKOFF_S,
            3.5,
        )
