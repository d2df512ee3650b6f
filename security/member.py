"""The keys that a newcomer makes, and what others come to know of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import IdentityError
from security.fingerprint import Fingerprint, fingerprint
from security.identity import Identity, Peer
from security.keys import (
    SealingKey,
    SealingPublicKey,
    SigningKey,
    VerifyKey,
    load_supernode_key,
    load_tls_key,
    save_supernode_key,
    save_supernode_public,
    save_tls_key,
    supernode_line,
)
from security.names import Role, SpiffeId

if TYPE_CHECKING:
    from pathlib import Path

# Where a site's home and a server's home keep them (common/paths.py, security/identity.py).
_TLS_FILE = "tls.key"
_SIGNING_FILE = "signing.key"
_SEALING_FILE = "sealing.key"
_SUPERNODE_FILE = "supernode"
_FINGERPRINT_DOMAIN = b"bottega/v1/member-fingerprint\x00"


@dataclass(frozen=True)
class Newcomer:
    """What others know of somebody who joins: a name and the public halves of their keys.

    Args:
        id: Their name.
        tls: ECDSA P-256; their certificate is for it.
        verify: Their signatures are checked with this.
        sealing: What is for them alone is sealed to this.
        supernode: What a site's SuperNode signs with: ECDSA P-384, one line in OpenSSH format, without a comment.
            Empty for everybody else.
    """

    id: SpiffeId
    tls: ec.EllipticCurvePublicKey
    verify: VerifyKey
    sealing: SealingPublicKey
    supernode: bytes

    @property
    def peer(self) -> Peer:
        """What goes into a roster."""
        return Peer(self.id, self.verify, self.sealing)

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the name and all keys, for two people to compare.

        Each part has one spelling (the TLS key is its uncompressed point) and counts with its length.
        """
        point = self.tls.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        return fingerprint(
            _FINGERPRINT_DOMAIN, str(self.id).encode(), point, self.verify.raw, self.sealing.raw, self.supernode
        )


@dataclass(frozen=True, eq=False)
class MemberKeys:
    """What a newcomer holds: a name and private keys, none of which ever leaves the house.

    Two of these are compared by their :attr:`public` halves.

    Args:
        identity: Their name, signing key and sealing key.
        tls: ECDSA P-256.
        supernode: ECDSA P-384, for Flower's SuperNode; None unless it is a site.
    """

    identity: Identity
    tls: ec.EllipticCurvePrivateKey = field(repr=False)
    supernode: ec.EllipticCurvePrivateKey | None = field(repr=False)

    @classmethod
    def generate(cls, spiffe_id: SpiffeId) -> MemberKeys:
        """Make new keys for a name, in memory."""
        return cls(
            Identity.generate(spiffe_id),
            ec.generate_private_key(ec.SECP256R1()),
            ec.generate_private_key(ec.SECP384R1()) if spiffe_id.role is Role.SITE else None,
        )

    @classmethod
    def create(cls, folder: Path, spiffe_id: SpiffeId) -> MemberKeys:
        """Make the keys in a folder that exists, or go on where making them was interrupted.

        A key that is there is used, whatever made it, and never overwritten. So after a crash at any step this is
        simply called again, and when it has returned, calling it again changes nothing.

        Args:
            folder: Where they are kept, as :meth:`save` does.
            spiffe_id: Whose they are.

        Returns:
            The keys that the folder holds.

        Raises:
            IdentityError: A key that is there is open to others or damaged, or a file cannot be written.
        """
        keys = cls.generate(spiffe_id)._or_found_in(folder)
        keys.save(folder)
        return keys

    @property
    def id(self) -> SpiffeId:
        """Their name."""
        return self.identity.id

    @property
    def public(self) -> Newcomer:
        """The public halves."""
        peer = self.identity.peer
        supernode = supernode_line(self.supernode.public_key()) if self.supernode else b""
        return Newcomer(peer.id, self.tls.public_key(), peer.verify, peer.sealing, supernode)

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the public halves."""
        return self.public.fingerprint

    def save(self, folder: Path) -> None:
        """Keep ``tls.key``, ``signing.key``, ``sealing.key`` and, of a site, ``supernode``, all 0600.

        Beside the last lies ``supernode.pub``, as Flower wants it.
        Each file appears whole or not at all. What an interrupted call has written stays, and the next goes on.

        Args:
            folder: It exists.

        Raises:
            IdentityError: Another key is already there (nothing was written), one that is there is damaged or open
                to others, or a file cannot be written.
        """
        if self._or_found_in(folder).public != self.public:
            raise IdentityError(
                f"other keys are already in {folder} and were left untouched",
                advice="Use the keys that are there, or move them away first if they are truly no longer needed.",
            )
        if not (folder / _TLS_FILE).exists():
            save_tls_key(folder / _TLS_FILE, self.tls)
        if not (folder / _SIGNING_FILE).exists():
            self.identity.signing.save(folder / _SIGNING_FILE)
        if not (folder / _SEALING_FILE).exists():
            self.identity.sealing.save(folder / _SEALING_FILE)
        if self.supernode and not (folder / _SUPERNODE_FILE).exists():
            save_supernode_key(folder / _SUPERNODE_FILE, self.supernode)
        elif self.supernode:  # whether the public file was written too is not known
            save_supernode_public(folder / _SUPERNODE_FILE, self.supernode.public_key())

    @classmethod
    def load(cls, folder: Path, spiffe_id: SpiffeId) -> MemberKeys:
        """Read the keys that :meth:`save` wrote.

        Args:
            folder: Where they are.
            spiffe_id: Whose they are.

        Raises:
            IdentityError: A file is missing, open to others, or damaged.
        """
        return cls(
            Identity.load(folder, spiffe_id),
            load_tls_key(folder / _TLS_FILE),
            load_supernode_key(folder / _SUPERNODE_FILE) if spiffe_id.role is Role.SITE else None,
        )

    def _or_found_in(self, folder: Path) -> MemberKeys:
        """Return these keys, with those that are in a folder in their places."""
        tls, supernode = folder / _TLS_FILE, folder / _SUPERNODE_FILE
        signing, sealing = folder / _SIGNING_FILE, folder / _SEALING_FILE
        return MemberKeys(
            Identity(
                self.id,
                SigningKey.load(signing) if signing.exists() else self.identity.signing,
                SealingKey.load(sealing) if sealing.exists() else self.identity.sealing,
            ),
            load_tls_key(tls) if tls.exists() else self.tls,
            load_supernode_key(supernode) if self.supernode and supernode.exists() else self.supernode,
        )
