"""Flower's SuperNode, looking for work twice a second.

Flower 1.41 sleeps three seconds between looks, a number written into its loop. A round waits for that sleep on its way
out and on its way back, which is a good part of a round without much training. This module is ``flower-supernode``
with that sleep capped; nothing else is changed.
"""

from __future__ import annotations

import time

from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode

LONGEST_SLEEP_S = 0.5


class _Clock:
    """The module ``time``, but for the longest sleep."""

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        """Sleep, but not long."""
        time.sleep(min(seconds, LONGEST_SLEEP_S))


def main() -> None:
    """Be ``flower-supernode``."""
    start_client_internal.time = _Clock()
    flower_supernode()


if __name__ == "__main__":
    main()
