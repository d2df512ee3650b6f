"""The ports that a running server listens on, told in a file of its home."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator

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


@contextlib.contextmanager
def bound(host: str, port: int, other: str = "set another one in server.toml") -> Iterator[socket.socket]:
    """Take a port before anything else is touched.

    Args:
        host: Whose.
        port: Which; 0 lets the system choose.
        other: How to have another one, for the error.

    Raises:
        ProcessError: It is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host, port))
            # Without listening, Linux lets a second socket with SO_REUSEADDR bind to the same port.
            taken.listen()
        except OSError as cause:
            raise ProcessError(
                f"port {port} on {host} cannot be taken",
                got=cause.strerror,
                expected="a free port",
                advice=f"Stop what uses the port, or {other}.",
            ) from cause
        yield taken
