"""How much one caller may ask: buckets that refill, a log that a flood does not flood, places that few calls hold."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from common.listening import Listening
from server.limits import MOST_CALLERS, RateLimit


class Clock:
    """A clock that stands still until it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_has_its_burst_at_first_and_refills_at_its_rate() -> None:
    clock = Clock()
    limit = RateLimit(per_second=2, burst=3, clock=clock)
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]
    assert limit.allows("b"), "each caller has a bucket of their own"
    clock.now = 0.5
    assert [limit.allows("a") for _ in range(2)] == [True, False]
    clock.now = 1000.0
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]


def test_a_flood_is_told_once_and_again_when_it_was_calm_in_between(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    limit = RateLimit(per_second=1, burst=5, clock=clock)
    for clock.now in (0.0, 1.0, 2.0, 3.0):
        for _ in range(100):
            limit.allows("a")
    assert caplog.messages == ["refused: a flood of calls by a"]
    clock.now = 100.0
    for _ in range(100):
        limit.allows("a")
    assert caplog.messages == ["refused: a flood of calls by a"] * 2


def test_callers_are_forgotten_before_memory_runs_out() -> None:
    limit = RateLimit(per_second=1e-9, burst=1)
    assert limit.allows("first")
    assert not limit.allows("first")
    for number in range(MOST_CALLERS):
        limit.allows(str(number))
    assert limit.allows("first")
    assert len(limit._buckets) == MOST_CALLERS


def test_one_caller_holds_no_more_than_their_places_and_gives_them_back() -> None:
    listening = Listening(most_each=2, patience_s=60)
    with ExitStack() as calls:
        held = [calls.enter_context(listening.to("a", lambda: None)) for _ in range(3)]
        assert held == [True, True, False]
        assert calls.enter_context(listening.to("b", lambda: None))
    with listening.to("a", lambda: None) as free:
        assert free
    assert not listening._each
    assert not listening._silent


def test_calls_that_are_silent_too_long_are_hung_up_on_and_the_others_are_not(caplog: pytest.LogCaptureFixture) -> None:
    clock, ended = Clock(), list[str]()
    listening = Listening(most_each=2, patience_s=60, clock=clock)
    with listening.to("early", lambda: ended.append("early")):
        clock.now = 50.0
        with listening.to("late", lambda: ended.append("late")):
            clock.now = 61.0
            listening.hang_up_on_the_silent()
            listening.hang_up_on_the_silent()
    assert ended == ["early"]
    assert caplog.messages == ["hung up on early: it opened a call and did not say what it asks"]


def test_nobody_else_has_to_call_for_a_silent_call_to_end() -> None:
    listening = Listening(most_each=1, patience_s=0.05)
    for _ in range(2):  # the one who watches goes home in between, and comes again
        ended = threading.Event()
        with listening.to("a", ended.set):
            assert ended.wait(20)


def test_where_all_callers_bear_one_name_the_one_silent_longest_makes_room() -> None:
    listening, ended = Listening(most_each=2, patience_s=60, make_room=True), list[int]()
    with ExitStack() as calls:
        held = [calls.enter_context(listening.to("all", lambda n=n: ended.append(n))) for n in range(5)]  # type: ignore[misc]
        assert (held, ended) == ([True] * 5, [0, 1, 2])
        assert listening._each == {"all": 2}
    assert not listening._each
    assert not listening._silent
