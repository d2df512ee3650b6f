"""How long Flower waits before it looks again, where it has no setting for it.

Flower 1.41 announces a message before its content has arrived, and who asks for content that is not there yet sleeps a
second, then two, then four. Looking for work more often than Flower does meets that sleep nearly every time.
"""

from __future__ import annotations

from flwr.supercore.inflatable import inflatable_utils

FIRST_BACKOFF_S = 0.05
"""Doubled with each try, up to Flower's own 10 s."""


def quicken_pulls() -> None:
    """Shorten the first sleep of this process before it asks again for content that is still on its way."""
    for function in (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree):
        function.__kwdefaults__["initial_backoff"] = FIRST_BACKOFF_S
