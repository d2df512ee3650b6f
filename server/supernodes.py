"""SuperNodes as Flower knows them: by the key that each signs with. Here one is let in, or let go."""

from __future__ import annotations

from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from common.errors import IdentityError
from security.keys import read_supernode_line
from server.control import control

_UNCHANGED = "the SuperLink did not take the change of its SuperNodes"


def flower_key(line: bytes) -> bytes:
    """Return a SuperNode's public key in the encoding that Flower stores and lists nodes by.

    Args:
        line: The key as OpenSSH writes it, without a comment; a line end is left out.

    Raises:
        IdentityError: It is no such key, or not ECDSA P-384.
    """
    return bytes(public_key_to_bytes(read_supernode_line(line.removesuffix(b"\n"))))


def register_supernode(control_address: str, name: str, public_key: bytes) -> int:
    """Let a SuperNode connect to a running SuperLink, and return Flower's number for it. Doing it twice does nothing.

    It stays known only while the roster has the key too: the next start goes by the roster.

    Args:
        control_address: Host and port of the Control API, on loopback.
        name: The site's.
        public_key: What it signs with: an OpenSSH public key, ECDSA P-384.

    Raises:
        IdentityError: It is no such key, or the key was let go before.
        ProcessError: The SuperLink cannot be reached, or refuses.
    """
    key = flower_key(public_key)
    with control(control_address, _UNCHANGED) as client:
        known = _nodes(client).get(key)
        if known is None:
            request = RegisterNodeRequest(public_key=key, name=name)
            return int(client.RegisterNode(request).node_id)
        number, status = known
    if status == NodeStatus.UNREGISTERED:
        raise spent(name)
    return number


def unregister_supernode(control_address: str, public_key: bytes) -> None:
    """Let a SuperNode go: its next request is refused, and Flower never takes its key again. Twice does nothing.

    Args:
        control_address: Host and port of the Control API, on loopback.
        public_key: What it signs with: an OpenSSH public key, ECDSA P-384.

    Raises:
        IdentityError: It is no such key.
        ProcessError: The SuperLink cannot be reached, or refuses.
    """
    key = flower_key(public_key)
    with control(control_address, _UNCHANGED) as client:
        number, status = _nodes(client).get(key, (0, NodeStatus.UNREGISTERED))
        if status != NodeStatus.UNREGISTERED:
            client.UnregisterNode(UnregisterNodeRequest(node_id=number))


def _nodes(client: ControlHttpClient) -> dict[bytes, tuple[int, str]]:
    """Return Flower's number and status of every node that it knows or knew, by public key."""
    return {n.public_key: (int(n.node_id), n.status) for n in client.ListNodes(ListNodesRequest()).nodes_info}


def spent(name: str) -> IdentityError:
    """Return the refusal of a key that was let go."""
    # Flower's table of nodes holds each public key once, for good, also those of nodes that were let go.
    return IdentityError(
        "a SuperNode's key was let go before, and Flower takes no such key again",
        got=name,
        advice="Make a new SuperNode key at the site and hand over its public half.",
    )
