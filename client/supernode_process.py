"""Flower's SuperNode, looking for work twice a second.

Flower 1.41 sleeps three seconds between looks at the server, and half a second between looks at its own state for the
courier's answer; both numbers are written into its loop. A round waits for these sleeps on its way out and on its way
back. This module is ``flower-supernode`` with a sixth of them; nothing else is changed.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode

from client.agent_wait import told_to_wait_for, wait_for
from common.flower_pace import quicken_pulls

FASTER = 6


class _Clock:
    """The module ``time``, but for how long a sleep is."""

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        """Sleep a sixth of it."""
        time.sleep(seconds / FASTER)


def main() -> None:
    """Be ``flower-supernode``, when the agent listens if that was asked for."""
    if agent := told_to_wait_for(sys.argv):
        _connect_after(agent)
    quicken_pulls()
    start_client_internal.time = _Clock()
    flower_supernode()


def _connect_after(agent: str) -> None:
    """Have Flower do all but calling the server meanwhile; it has no other moment to wait at."""
    connection = start_client_internal._init_connection

    def waited(*words: Any, **more: Any) -> Any:  # noqa: ANN401 (Flower's own)
        wait_for(agent)
        return connection(*words, **more)

    start_client_internal._init_connection = waited


if __name__ == "__main__":
    main()
