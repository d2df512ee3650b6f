"""Opening the desk of a home: by the running server itself, or by a command beside it."""

from __future__ import annotations

import contextlib

from common.errors import ProcessError
from common.paths import ServerHome
from security.roster import Member
from server.applicants import Applicants
from server.desk import Addresses, Desk
from server.house import House, open_house
from server.ports import read_ports
from server.supernodes import register_supernode, unregister_supernode


def open_desk(home: ServerHome) -> Desk:
    """Open the desk of a home from a process beside the server, whether the server runs or not.

    Raises:
        HomeError: There is no federation in this folder.
        IdentityError: A key is missing or damaged.
        RunError: The store cannot be opened.
    """
    house = open_house(home)
    try:
        ports = read_ports(home)
    except ProcessError:
        ports = {}
    return desk_of(house, ports)


def desk_of(house: House, ports: dict[str, int]) -> Desk:
    """Return the desk of an opened home.

    Args:
        house: The home.
        ports: The open ports by name; empty when the server does not run. Then the settings' ports are told to
            newcomers, and SuperNodes are let in by the roster at the next start.
    """
    settings = house.settings
    control = f"127.0.0.1:{ports['control']}" if "control" in ports else None

    def connect(site: Member) -> None:
        if control is not None:
            register_supernode(control, site.id.name, site.keys.supernode)

    def disconnect(supernode: bytes) -> None:
        if control is not None:
            with contextlib.suppress(ProcessError):  # it is in the roster: no task is sealed to it from now on
                unregister_supernode(control, supernode)

    addresses = Addresses(
        fleet=f"{settings.reached_by}:{ports.get('fleet', settings.fleet_port)}",
        registry=f"{settings.reached_by}:{ports.get('registry', settings.registry_port)}",
        door=f"{settings.reached_by}:{ports.get('door', settings.door_port)}",
    )
    return Desk(house, Applicants(house.home.database), addresses, connect, disconnect)
