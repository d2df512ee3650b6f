"""The public keys that a member of a federation is known by, all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import IdentityError
from common.proto import roster_pb2 as pb
from security.identity import Peer
from security.keys import SealingPublicKey, VerifyKey, read_supernode_line
from security.names import Role

if TYPE_CHECKING:
    from security.names import SpiffeId


@dataclass(frozen=True)
class Keys:
    """What a member signs, seals and connects with.

    The key of a site's SuperNode is one of them: by it the server tells which node of Flower gets which site's
    tasks, so a change of it must be as visible, and as much the site's own doing, as a change of the other two.
    The TLS certificate is not: it is renewed often, and the federation's authority vouches for it.

    Args:
        verify: Their signatures are checked with this.
        sealing: What is for them alone is sealed to this.
        supernode: A site's SuperNode signs with this: ECDSA P-384, one line in OpenSSH format without a comment.
            Empty for everybody else.

    Raises:
        IdentityError: ``supernode`` is no such line.
    """

    verify: VerifyKey
    sealing: SealingPublicKey
    supernode: bytes = b""

    def __post_init__(self) -> None:
        if self.supernode:
            read_supernode_line(self.supernode)

    @classmethod
    def of(cls, peer: Peer, supernode: bytes = b"") -> Keys:
        """Put the keys of a peer and of their SuperNode together.

        Args:
            peer: The member.
            supernode: A site's SuperNode public key as its ``.pub`` file has it; a line end is left out.

        Raises:
            IdentityError: ``supernode`` is no such key.
        """
        return cls(peer.verify, peer.sealing, supernode.removesuffix(b"\n"))

    @classmethod
    def from_wire(cls, wire: pb.RosterKeys) -> Keys:
        """Read keys from their record.

        Raises:
            IdentityError: One is no such key.
        """
        return cls(VerifyKey(wire.verify), SealingPublicKey(wire.sealing), wire.supernode)

    def to_wire(self) -> pb.RosterKeys:
        """Write keys as a record."""
        return pb.RosterKeys(verify=self.verify.raw, sealing=self.sealing.raw, supernode=self.supernode)

    @property
    def each(self) -> frozenset[bytes]:
        """Every key, as bytes: to see whether two members, or two generations of one, share any."""
        return frozenset(key for key in (self.verify.raw, self.sealing.raw, self.supernode) if key)

    def peer(self, spiffe_id: SpiffeId) -> Peer:
        """Return what others need to write to the member and to believe them."""
        return Peer(spiffe_id, self.verify, self.sealing)

    def check_fits(self, spiffe_id: SpiffeId) -> None:
        """Refuse keys that are not those of a member in this role.

        Raises:
            IdentityError: A site without the key of a SuperNode, or somebody else with one.
        """
        if bool(self.supernode) != (spiffe_id.role is Role.SITE):
            raise IdentityError("a site, and nobody else, has the key of a SuperNode", got=spiffe_id)
