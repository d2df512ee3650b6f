"""What a federation server is told: ``server.toml``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.settings import Settings

Port = Annotated[int, Field(ge=0, le=65_535)]


class ServerSettings(Settings):
    """One federation server. A port of 0 lets the system choose; ``ports.json`` in the home says what it chose."""

    federation: str
    name: str = "server"
    host: str = "0.0.0.0"  # noqa: S104 (sites connect from elsewhere; this port speaks TLS 1.3 and the fleet API alone)
    """Address that the fleet port listens on."""
    fleet_port: Port = 8440
    """Sites connect here: HTTPS, TLS 1.3."""
    control_port: Port = 8450
    """Loopback only, plain: the server's own processes."""
