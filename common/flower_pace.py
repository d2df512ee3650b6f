"""How long Flower waits before it looks again, where it has no setting for it.

Flower 1.41 announces a message before its content has arrived, and who asks for content that is not there yet sleeps a
second, then two, then four. Looking for work more often than Flower does meets that sleep nearly every time.
"""

from __future__ import annotations

from flwr.supercore.inflatable import inflatable_utils

FIRST_BACKOFF_S = 0.05
"""Doubled with each try, up to Flower's own 10 s."""


_PULLS = (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree)


def quicken_pulls() -> None:
    """Shorten the first sleep of this process before it asks again for content that is still on its way."""
    for function in _PULLS:
        function.__kwdefaults__["initial_backoff"] = FIRST_BACKOFF_S


def pull_within(seconds: float) -> None:
    """Let this process give up content that was announced and does not come, from the next pull on.

    Flower waits two hours for it, and longer than any round: a site that announces an answer and never sends it must
    not hold up the others past the round's end.

    Args:
        seconds: After which to give up; the sleep before the last try (10 s at the most) is slept out.
    """
    for function in _PULLS:
        function.__kwdefaults__["max_time"] = seconds
