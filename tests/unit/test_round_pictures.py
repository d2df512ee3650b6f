"""Which rounds of a run are drawn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import RunError
from deploy.round_pictures import closed_rounds

NUMBERS = st.lists(st.integers(1, 9), max_size=6)


@given(NUMBERS, NUMBERS)
def test_what_was_asked_for_is_drawn_once_in_order_and_everything_when_nothing_was(
    closed: list[int], wanted: list[int]
) -> None:
    closed = sorted(set(closed))
    if not closed or set(wanted) - set(closed):
        with pytest.raises(RunError):
            closed_rounds(closed, wanted)
    else:
        assert closed_rounds(closed, wanted) == (sorted(set(wanted)) or closed)


def test_the_error_says_which_round_is_missing_and_which_there_are() -> None:
    with pytest.raises(RunError) as caught:
        closed_rounds([1, 2, 4], [4, 3])
    assert (caught.value.got, caught.value.expected) == ([3], [1, 2, 4])
