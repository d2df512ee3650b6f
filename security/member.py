"""The keys that a newcomer makes, and what others come to know of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import IdentityError
from security.fingerprint import Fingerprint, fingerprint
from security.identity import SEALING_FILE, SIGNING_FILE, Identity, Peer
from security.keys import (
    SealingKey,
    SealingPublicKey,
    SigningKey,
    VerifyKey,
    load_supernode_key,
    load_tls_key,
    pkcs8_pem,
    save_supernode_key,
    save_supernode_public,
    supernode_line,
)
from security.names import Role, SpiffeId

if TYPE_CHECKING:
    from security.key_folder import KeyFolder

_TLS_FILE = "tls.key"
_SUPERNODE_FILE = "supernode"  # as common/paths.py has it; the one plain file among them (security/key_folder.py)
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
    def create(cls, folder: KeyFolder, spiffe_id: SpiffeId) -> MemberKeys:
        """Make the keys in a folder that exists, or go on where making them was interrupted.

        A key that is there is used, whatever made it, and never overwritten. So after a crash at any step this is
        simply called again, and when it has returned, calling it again changes nothing.

        Args:
            folder: Where they are kept, as :meth:`save` does.
            spiffe_id: Whose they are.

        Returns:
            The keys that the folder holds.

        Raises:
            VaultError: A key that is there is open to others or does not open, or a file cannot be written.
            IdentityError: A key that is there is of another kind.
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

    def save(self, folder: KeyFolder) -> None:
        """Keep ``tls.key``, ``signing.key``, ``sealing.key`` and, of a site, ``supernode``.

        Beside the last lies ``supernode.pub``, as Flower wants it.
        Each file appears whole or not at all. What an interrupted call has written stays, and the next goes on.

        Raises:
            IdentityError: Other keys are already there (nothing was written), or one is of another kind.
            VaultError: One that is there is open to others or does not open, or a file cannot be written.
        """
        if self._or_found_in(folder).public != self.public:
            raise IdentityError(
                f"other keys are already in {folder.path} and were left untouched",
                advice="Use the keys that are there, or move them away first if they are truly no longer needed.",
            )
        secrets = {
            _TLS_FILE: pkcs8_pem(self.tls),
            SIGNING_FILE: self.identity.signing.seed,
            SEALING_FILE: self.identity.sealing.seed,
        }
        for name, secret in secrets.items():
            if not folder.holds(name):
                folder.keep(name, secret)
        if self.supernode and not folder.holds(_SUPERNODE_FILE):
            save_supernode_key(folder.path / _SUPERNODE_FILE, self.supernode)
        elif self.supernode:  # whether the public file was written too is not known
            save_supernode_public(folder.path / _SUPERNODE_FILE, self.supernode.public_key())

    @classmethod
    def load(cls, folder: KeyFolder, spiffe_id: SpiffeId) -> MemberKeys:
        """Read the keys that :meth:`save` wrote.

        Args:
            folder: Where they are.
            spiffe_id: Whose they are.

        Raises:
            VaultError: A file is missing, open to others, or does not open.
            IdentityError: A key is of another kind.
        """
        return cls(
            Identity.load(folder, spiffe_id),
            load_tls_key(folder, _TLS_FILE),
            load_supernode_key(folder.path / _SUPERNODE_FILE) if spiffe_id.role is Role.SITE else None,
        )

    def _or_found_in(self, folder: KeyFolder) -> MemberKeys:
        """Return these keys, with those that are in a folder in their places."""
        signing, sealing = self.identity.signing, self.identity.sealing
        found = self.supernode is not None and folder.holds(_SUPERNODE_FILE)
        return MemberKeys(
            Identity(
                self.id,
                SigningKey(folder.read(SIGNING_FILE)) if folder.holds(SIGNING_FILE) else signing,
                SealingKey(folder.read(SEALING_FILE)) if folder.holds(SEALING_FILE) else sealing,
            ),
            load_tls_key(folder, _TLS_FILE) if folder.holds(_TLS_FILE) else self.tls,
            load_supernode_key(folder.path / _SUPERNODE_FILE) if found else self.supernode,
        )
