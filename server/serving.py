"""A federation server at work: the SuperLink with its two listeners, the registry, and the door."""

from __future__ import annotations

import datetime as dt
import os
import resource
from contextlib import ExitStack

from common.paths import ServerHome
from security.grpc_tls import server_credentials
from server.app import HOME_VARIABLE, SERVER_VARIABLE
from server.doorkeeper import Doorkeeper
from server.founding import TLS_KEY
from server.house import House, active_sites, open_house
from server.opening import desk_of
from server.own_certificate import renew_own_certificate
from server.ports import free_port, tell_ports
from server.registry import serve_door, serve_registry
from server.run_desk import RunDesk
from server.superlink import Ports, SuperLinkSettings, run_superlink


def run_server(home: ServerHome) -> None:
    """Serve a federation until SIGTERM or SIGINT.

    Raises:
        HomeError: There is no federation in this folder.
        IdentityError: A key is missing or damaged, or the roster cannot be believed.
        ProcessError: A port is taken, or a part died.
    """
    house = open_house(home)
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
        certificate=home.certificate,
        key=home.keys / TLS_KEY,
        supernodes={site.id.name: site.keys.supernode for site in active_sites(house.roster)},
    )
    with ExitStack() as parts:
        parts.callback(home.ports.unlink, missing_ok=True)
        run_superlink(superlink, lambda ports: _open_registry(house, ports, parts))


def _allow_many_connections() -> None:
    """Raise the soft limit of open files, often 1024, as far as the system lets us: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_registry(house: House, ports: Ports, parts: ExitStack) -> None:
    """Open the registry and post the doorkeeper; both end with ``parts``."""
    home, settings = house.home, house.settings
    door_port = settings.door_port or free_port(settings.host)
    known = {"fleet": ports.fleet, "control": ports.control, "door": door_port}
    key, certificate = (home.keys / TLS_KEY).read_bytes(), home.certificate.read_bytes()
    authority = home.authority_certificate.read_bytes()
    desk = desk_of(house, known)
    registry, known["registry"] = serve_registry(
        desk, f"{settings.host}:{settings.registry_port}", server_credentials(key, certificate, authority)
    )
    parts.callback(lambda: registry.stop(1).wait())
    # A newcomer knows the authority by its fingerprint alone, so at the door it is shown with the chain.
    credentials = server_credentials(key, certificate + authority, None)
    newcomers = desk_of(house, known)
    door = f"{settings.host}:{door_port}"
    parts.enter_context(Doorkeeper(newcomers.expects_somebody, lambda: serve_door(newcomers, door, credentials)[0]))
    tell_ports(home, **known)
