"""A SuperNode's wait for its agent: it is on line only when somebody is there to answer."""

from __future__ import annotations

import socket
import time

WAIT_FOR = "--wait-for"
LOOK_S = 0.1


def told_to_wait_for(words: list[str]) -> str | None:
    """Take ``--wait-for SOCKET`` from the head of a command line, and return the socket if it was there."""
    if words[1:2] != [WAIT_FOR]:
        return None
    path = words[2]
    del words[1:3]
    return path


def wait_for(path: str) -> None:
    """Wait until somebody listens on a UNIX socket."""
    while not is_open(path):
        time.sleep(LOOK_S)


def is_open(path: str) -> bool:
    """Return whether somebody listens on a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
