"""A federation server at work: the SuperLink with its two listeners, the sites' couriers let in by key."""

from __future__ import annotations

import json
import os

from common.errors import HomeError, ProcessError
from common.paths import ServerHome
from common.settings import read_toml
from security.files import replace
from server.app import HOME_VARIABLE
from server.founding import TLS_KEY
from server.settings import ServerSettings
from server.superlink import Ports, SuperLinkSettings, run_superlink


def run_server(home: ServerHome) -> None:
    """Serve a federation until SIGTERM or SIGINT.

    Raises:
        HomeError: There is no federation in this folder.
        ProcessError: A port is taken, or a part died.
    """
    if not home.settings.is_file():
        raise HomeError(
            "there is no federation server in this folder", got=str(home.root), expected=f"{home.settings.name} in it"
        )
    settings = read_toml(ServerSettings, home.settings)
    os.environ[HOME_VARIABLE] = str(home.root)  # for the ServerApp, which Flower starts further down
    superlink = SuperLinkSettings(
        home=home.flower,
        fleet_host=settings.host,
        fleet_port=settings.fleet_port,
        control_port=settings.control_port,
        certificate=home.certificate,
        key=home.keys / TLS_KEY,
        supernodes={key.stem: key for key in sorted(home.supernodes.glob("*.pub"))},
    )

    def ready(ports: Ports) -> None:
        content = json.dumps({"fleet": ports.fleet, "control": ports.control, "pid": os.getpid()})
        replace(home.ports, [content.encode()], error=HomeError)

    try:
        run_superlink(superlink, ready)
    finally:
        home.ports.unlink(missing_ok=True)


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
