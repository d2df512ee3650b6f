"""A site's SuperNode: the process that keeps the connection with the server and starts a courier for each message."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from pathlib import Path

from client.agent_wait import WAIT_FOR
from client.confinement import plan
from client.supernode_settings import SuperNodeSettings
from common.errors import AgentError
from common.logs import ChildLines
from common.paths import SiteHome, SuperNodeHome
from common.processes import ChildProcess, flower_environment
from security.files import replace


def supernode(home: SiteHome | SuperNodeHome, settings: SuperNodeSettings, *, waits: bool = False) -> ChildProcess:
    """Return the SuperNode of a site, not started yet; it will be confined as the site's settings say.

    Args:
        home: The site's, or its own.
        settings: The site's, or what of them it was told.
        waits: Whether it calls the server only when the agent's socket is open: before, it could answer no task.

    Raises:
        AgentError: Its programs cannot be written.
    """
    port = _free_port()
    command = [
        sys.executable, "-P", "-m", "client.supernode_process", *([WAIT_FOR, str(home.socket)] if waits else []),
        "--superlink", settings.server,
        "--root-certificates", str(home.authority_certificate),
        "--auth-supernode-private-key", str(home.supernode_key),
        "--node-config", f'agent-socket="{home.socket}"',
        "--port", str(port),
    ]  # fmt: skip
    environment = flower_environment(home.flower)
    environment["PATH"] = os.pathsep.join([str(_installed(home.flower / "programs")), environment["PATH"]])
    environment["TMPDIR"] = str(_emptied(home.flower / "tmp"))
    home.confinement.unlink(missing_ok=True)  # what an earlier one said
    allowed = plan(home, settings, port, environment)
    launched = [sys.executable, "-P", "-m", "client.confined_process", allowed.to_json(), *command]
    return ChildProcess("the SuperNode", launched, ChildLines("supernode"), environment)


def _installed(folder: Path) -> Path:
    """Write the program that a SuperNode is to find as ``flower-superexec`` into ``folder``, and return the folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m client.superexec_process "$@"\n'
    replace(folder / "flower-superexec", [script.encode()], error=AgentError, mode=0o700)
    return folder


def _emptied(folder: Path) -> Path:
    """Return a folder with nothing in it: what a SuperNode that was killed left there is of no use to the next."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _free_port() -> int:
    """Return a port for the SuperNode's own Runtime API: with its default only one could run on a machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
