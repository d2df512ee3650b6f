"""A federation server at work: the SuperLink with its two listeners, the registry, the door, and the metrics."""

from __future__ import annotations

import datetime as dt
import os
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from common.errors import ProcessError
from common.logs import take_over
from common.metrics_port import MetricsPort
from common.notify import ServiceManager
from common.paths import ServerHome
from security.grpc_tls import server_credentials
from security.keys import pkcs8_pem
from server.app import HOME_VARIABLE, SERVER_VARIABLE
from server.doorkeeper import Doorkeeper
from server.house import House, active_sites, open_house
from server.metrics import Metrics
from server.opening import desk_of
from server.own_certificate import renew_own_certificate
from server.ports import free_port, read_ports, tell_ports
from server.registry import serve_door, serve_registry
from server.run_desk import RunDesk
from server.settings import ServerSettings
from server.superlink import Hooks, Ports, SuperLinkSettings, run_superlink

OpenPorts = Mapping[str, int]
"""The ports that are open, by name."""


def run_server(home: ServerHome, on_ready: Callable[[ServerSettings, OpenPorts], None]) -> None:
    """Serve a federation until SIGTERM or SIGINT.

    Args:
        home: The federation's.
        on_ready: Called once when all ports are open.

    Raises:
        HomeError: There is no federation in this folder.
        IdentityError: A key is missing or damaged, or the roster cannot be believed.
        ProcessError: A port is taken, or a part died.
    """
    take_over()
    manager, house = ServiceManager(), open_house(home)
    settings = house.settings
    renew_own_certificate(home, dt.datetime.now(dt.UTC))
    # For the ServerApp, which Flower starts further down.
    os.environ.update({HOME_VARIABLE: str(home.root), SERVER_VARIABLE: str(os.getpid())})
    RunDesk(home).tell_cut_off()
    _allow_many_connections()
    superlink = SuperLinkSettings(
        home=home.flower,
        fleet_host=settings.host,
        fleet_port=settings.fleet_port,
        control_port=settings.control_port,
        certificate=home.certificate.read_bytes(),
        key=house.tls_key,
        supernodes={site.id.name: site.keys.supernode for site in active_sites(house.roster)},
    )
    with ExitStack() as parts:
        parts.callback(home.ports.unlink, missing_ok=True)
        watched: list[Callable[[], None]] = []
        metrics = Metrics(house, lambda: f"127.0.0.1:{read_ports(home)['control']}")

        def ready(ports: Ports) -> None:
            told = _open_others(house, ports, metrics, parts, watched)
            manager.ready(", ".join(f"{name} {port}" for name, port in told.items()))
            on_ready(settings, told)

        def watch() -> None:
            for look in watched:
                look()
            manager.alive()

        run_superlink(superlink, Hooks(ready, watch, manager.stopping, metrics.fleet))


def _allow_many_connections() -> None:
    """Raise the soft limit of open files, often 1024, as far as the system lets us: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_others(
    house: House, ports: Ports, metrics: Metrics, parts: ExitStack, watched: list[Callable[[], None]]
) -> OpenPorts:
    """Open the registry and the metrics and post the doorkeeper; all end with ``parts``. Return what is open."""
    home, settings = house.home, house.settings
    door_port = settings.door_port or free_port(settings.host)
    known = {"fleet": ports.fleet, "control": ports.control, "door": door_port}
    key, certificate = pkcs8_pem(house.tls_key), home.certificate.read_bytes()
    authority = home.authority_certificate.read_bytes()
    desk = desk_of(house, known)
    registry, known["registry"] = serve_registry(
        desk,
        f"{settings.host}:{settings.registry_port}",
        server_credentials(key, certificate, authority),
        seen=[metrics.grpc("registry")],
    )
    parts.callback(lambda: registry.stop(1).wait())
    # A newcomer knows the authority by its fingerprint alone, so at the door it is shown with the chain.
    credentials = server_credentials(key, certificate + authority, None)
    newcomers, door = desk_of(house, known), f"{settings.host}:{door_port}"
    opened = partial(serve_door, newcomers, door, credentials, seen=[metrics.grpc("door")])
    keeper = parts.enter_context(Doorkeeper(newcomers.expects_somebody, lambda: opened()[0]))
    scraped = parts.enter_context(
        MetricsPort(metrics.registry, settings.metrics_host, settings.metrics_port, home.settings.name)
    )
    known["metrics"] = scraped.port
    watched += [
        _alive("the doorkeeper", lambda: keeper.is_alive),
        _alive("the metrics' port", lambda: scraped.is_alive),
    ]
    tell_ports(home, **known, since=int(time.time()))
    return known


def _alive(name: str, lives: Callable[[], bool]) -> Callable[[], None]:
    """Return what passes while a part lives, and raises when it does not."""

    def look() -> None:
        if not lives():
            raise ProcessError(f"{name} ended", advice="The lines above say why; start the server again.")

    return look
