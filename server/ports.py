"""The ports that a running server listens on, told in a file of its home."""

from __future__ import annotations

import json
import os
import socket

from common.errors import HomeError, ProcessError
from common.paths import ServerHome
from security.files import replace


def tell_ports(home: ServerHome, **ports: int) -> None:
    """Write the open ports, by name, whose they are, and since when (``since``, Unix time in seconds).

    Raises:
        HomeError: The file cannot be written.
    """
    replace(home.ports, [json.dumps({**ports, "pid": os.getpid()}).encode()], error=HomeError)


def read_ports(home: ServerHome) -> dict[str, int]:
    """Return the ports of the running server.

    Raises:
        ProcessError: No server runs in this home.
    """
    try:
        ports: dict[str, int] = json.loads(home.ports.read_text(encoding="utf-8"))
        os.kill(ports["pid"], 0)
    except (OSError, ValueError, KeyError):
        raise ProcessError(
            "no server runs in this home",
            got=str(home.root),
            advice=f"Start it with `bottega server start --home {home.root}`.",
        ) from None
    return ports


def free_port(host: str) -> int:
    """Return a port of ``host`` that is free now, for one that is opened later."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port
