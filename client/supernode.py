"""A site's SuperNode: the process that keeps the connection with the server and starts a courier for each message."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

from client.confinement import plan
from client.settings import SiteSettings
from client.superexec_process import install
from common.logs import ChildLines
from common.paths import SiteHome
from common.processes import ChildProcess, flower_environment


def supernode(home: SiteHome, settings: SiteSettings) -> ChildProcess:
    """Return the SuperNode of a site, not started yet; it will be confined as the site's settings say.

    Args:
        home: The site's.
        settings: The site's.
    """
    port = _free_port()
    command = [
        sys.executable, "-P", "-m", "client.supernode_process",
        "--superlink", settings.server,
        "--root-certificates", str(home.authority_certificate),
        "--auth-supernode-private-key", str(home.supernode_key),
        "--node-config", f'agent-socket="{home.socket}"',
        "--port", str(port),
    ]  # fmt: skip
    environment = flower_environment(home.flower)
    environment["PATH"] = os.pathsep.join([str(install(home.flower / "programs")), environment["PATH"]])
    environment["TMPDIR"] = str(_emptied(home.flower / "tmp"))
    home.confinement.unlink(missing_ok=True)  # what an earlier one said
    allowed = plan(home, settings, port, environment)
    launched = [sys.executable, "-P", "-m", "client.confined_process", allowed.to_json(), *command]
    return ChildProcess("the SuperNode", launched, ChildLines("supernode"), environment)


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
