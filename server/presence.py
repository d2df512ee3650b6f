"""Who belongs to the federation and how it stands with them, and whose SuperNode is connected at this moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from flwr.proto.control_pb2 import ListNodesRequest
from flwr.supercore.constant import NodeStatus

from security.identity import Peer
from security.names import Role
from security.roster import Roster
from server.applicants import Status
from server.control import control

Standing = tuple[str, str, str]
"""Role, name and status."""


class Sites(Protocol):
    """Knows the active sites by the key that their SuperNode signs with, in Flower's own encoding."""

    @property
    def sites(self) -> Mapping[bytes, Peer]:
        """The active sites."""
        ...


def online_sites(control_address: str, house: Sites) -> list[str]:
    """Return the names of the active sites that are connected.

    Args:
        control_address: Host and port of the Control API, on loopback.
        house: The federation's.

    Raises:
        ProcessError: The SuperLink cannot be asked.
        IdentityError: The roster cannot be believed.
    """
    with control(control_address, "the SuperLink did not say who is connected") as client:
        nodes = client.ListNodes(ListNodesRequest()).nodes_info
    online = {node.public_key for node in nodes if node.status == NodeStatus.ONLINE}
    return sorted(site.id.name for key, site in house.sites.items() if key in online)


def standings(roster: Roster, applicants: Iterable[Standing]) -> list[Standing]:
    """Return how it stands with each member, who is ``active`` or ``revoked``, and with those who are not yet one.

    Args:
        roster: Who belongs; its word holds. The server is left out.
        applicants: Who ever asked.
    """
    members = [(str(m.id.role), m.id.name, str(m.status)) for m in roster.members if m.id.role is not Role.SERVER]
    known = {(role, name) for role, name, _ in members}
    others = [one for one in applicants if one[:2] not in known and one[2] in (Status.WAITING, Status.DENIED)]
    return members + others
