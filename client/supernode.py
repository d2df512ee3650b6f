"""A site's SuperNode: the process that keeps the connection with the server and starts a courier for each message."""

from __future__ import annotations

import os
import socket
import sys

from client.superexec_process import install
from common.paths import SiteHome
from common.processes import ChildProcess, flower_environment


def supernode(home: SiteHome, server: str) -> ChildProcess:
    """Return the SuperNode of a site, not started yet.

    Args:
        home: The site's.
        server: Host and port of the server's fleet address.
    """
    command = [
        sys.executable, "-P", "-m", "client.supernode_process",
        "--superlink", server,
        "--root-certificates", str(home.authority_certificate),
        "--auth-supernode-private-key", str(home.supernode_key),
        "--node-config", f'agent-socket="{home.socket}"',
        "--port", str(_free_port()),
    ]  # fmt: skip
    environment = flower_environment(home.flower)
    environment["PATH"] = os.pathsep.join([str(install(home.flower / "programs")), environment["PATH"]])
    return ChildProcess("supernode", command, home.root / "supernode.log", environment)


def _free_port() -> int:
    """Return a port for the SuperNode's own Runtime API: with its default only one could run on a machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
