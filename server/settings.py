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
    operator: str = "operator"
    """Name of the operator whose keys live in the server's home; runs that are started there are signed by them."""
    host: str = "0.0.0.0"  # noqa: S104 (sites connect from elsewhere; this port speaks TLS 1.3 and the fleet API alone)
    """Address that the public ports listen on."""
    reached_by: str = "127.0.0.1"
    """Name or address that sites reach this server by; invitations and grants tell it."""
    fleet_port: Port = 8440
    """Sites connect here: HTTPS, TLS 1.3."""
    registry_port: Port = 8441
    """Members ask here: gRPC, TLS 1.3, with their certificates."""
    door_port: Port = 8442
    """Newcomers ask here: gRPC, TLS 1.3. Open only while somebody is expected."""
    certificate_hours: Annotated[int, Field(ge=1, le=8760)] = 72
    """How long a member's certificate holds; it is renewed at two thirds of that."""
    replay_days: Annotated[float, Field(ge=0.0, le=3650.0)] = 7.0
    """For how long the sealed answers of a closed round are kept, so that an auditor can have it replayed; 0: not."""
    control_port: Port = 8450
    """Loopback only, plain: the server's own processes."""
    metrics_host: str = "127.0.0.1"
    """Address that metrics are told on. It is plain HTTP that asks nobody who they are: not for strangers."""
    metrics_port: Port = 8451
    """Prometheus scrapes here."""
