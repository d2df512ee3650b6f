"""Keys: Ed25519 to sign, MLKEM768-X25519 to seal, P-256 for TLS, P-384 for Flower's SuperNode.

The wrappers are frozen, never print a secret, and turn every way a key can be unusable into an
:class:`~common.errors.IdentityError`. Files of keys are never overwritten.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from common.errors import IdentityError
from security.files import PUBLIC, read_private, replace, write_new

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.utils import Buffer

    from security.key_folder import KeyFolder

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_SEED_BYTES = 32
_MLKEM_PUBLIC_BYTES = 1184
_SEALING_PUBLIC_BYTES = _MLKEM_PUBLIC_BYTES + 32
_SUPERNODE_TYPE = b"ecdsa-sha2-nistp384 "


def _fingerprint(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()


def _exactly(size: int, raw: bytes, what: str) -> None:
    if len(raw) != size:
        raise IdentityError(f"this is no {what}", got=f"{len(raw)} bytes", expected=f"{size} bytes")


@dataclass(frozen=True)
class VerifyKey:
    """An Ed25519 public key (RFC 8032).

    Args:
        raw: Its 32 bytes.

    Raises:
        IdentityError: ``raw`` is not 32 bytes long.
    """

    raw: bytes

    def __post_init__(self) -> None:
        _exactly(32, self.raw, "Ed25519 public key")

    @property
    def fingerprint(self) -> str:
        """The sha256 of the raw key, 64 hex digits."""
        return _fingerprint(self.raw)

    def verifies(self, signature: bytes, message: Buffer) -> bool:
        """Tell whether the holder of the private key signed exactly this message.

        Args:
            signature: From anywhere, of any length.
            message: Any bytes.

        Returns:
            Whether it did; an unusable key or signature is a no.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 private key (RFC 8032).

    Args:
        seed: Its 32 secret bytes.

    Raises:
        IdentityError: ``seed`` is not 32 bytes long.
    """

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _exactly(_SEED_BYTES, self.seed, "Ed25519 private key")

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key from the system's randomness."""
        return cls(os.urandom(_SEED_BYTES))

    @property
    def public(self) -> VerifyKey:
        """The key that others verify with."""
        return VerifyKey(self._key().public_key().public_bytes_raw())

    def sign(self, message: Buffer) -> bytes:
        """Sign a message; 64 bytes, the same for the same message every time."""
        return self._key().sign(message)

    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


@dataclass(frozen=True)
class SealingPublicKey:
    """The public half of a :class:`SealingKey`: ML-KEM-768 (1184 bytes), then X25519 (32 bytes).

    Args:
        raw: Its 1216 bytes.

    Raises:
        IdentityError: ``raw`` has another length or is no such key.
    """

    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _exactly(_SEALING_PUBLIC_BYTES, self.raw, "MLKEM768-X25519 public key")
        try:
            self.hpke_key()
        except ValueError:
            raise IdentityError("these bytes are no MLKEM768-X25519 public key") from None

    @property
    def fingerprint(self) -> str:
        """The sha256 of the raw key, 64 hex digits."""
        return _fingerprint(self.raw)

    def seal(self, plaintext: bytes, info: bytes) -> bytes:
        """Seal to this key with HPKE (RFC 9180): MLKEM768_X25519, HKDF-SHA256, AES-256-GCM.

        Args:
            plaintext: For the holder of the private key alone.
            info: What the seal is bound to; it opens only under the same.

        Returns:
            The encapsulation, then the ciphertext.

        Raises:
            IdentityError: Nothing can be sealed to this key: its X25519 half is a point of small order.
        """
        try:
            return _SUITE.encrypt(plaintext, self.hpke_key(), info)
        except ValueError:
            raise IdentityError("nothing can be sealed to this key", got=self.fingerprint) from None

    def hpke_key(self) -> MLKEM768X25519PublicKey:
        """Return the key as ``cryptography``'s HPKE takes it."""
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.raw[:_MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(self.raw[_MLKEM_PUBLIC_BYTES:]),
        )


@dataclass(frozen=True)
class SealingKey:
    """A private key of the hybrid KEM MLKEM768-X25519, also called X-Wing, HPKE's KEM 0x647a.

    What is kept is what the specification calls the decapsulation key: a seed of 32 bytes, expanded with SHAKE256 to
    the ML-KEM seed (64 bytes) and the X25519 scalar (32 bytes) (draft-connolly-cfrg-xwing-kem, section 5.2).

    Args:
        seed: Its 32 secret bytes.

    Raises:
        IdentityError: ``seed`` is not 32 bytes long.
    """

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _exactly(_SEED_BYTES, self.seed, "MLKEM768-X25519 private key")

    @classmethod
    def generate(cls) -> SealingKey:
        """Make a new key from the system's randomness."""
        return cls(os.urandom(_SEED_BYTES))

    @property
    def public(self) -> SealingPublicKey:
        """The key that others seal to."""
        lattice, curve = self._parts()
        return SealingPublicKey(lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw())

    def unseal(self, sealed: bytes, info: bytes) -> bytes:
        """Open what :meth:`SealingPublicKey.seal` sealed to the public half.

        Args:
            sealed: From anywhere.
            info: What the seal must be bound to.

        Returns:
            The plaintext.

        Raises:
            IdentityError: It was changed, sealed to another key, or bound to something else.
        """
        try:
            return _SUITE.decrypt(sealed, self.hpke_key(), info)
        except (InvalidTag, ValueError):
            raise IdentityError("the seal does not open: it was changed, or sealed to another key") from None

    def hpke_key(self) -> MLKEM768X25519PrivateKey:
        """Return the key as ``cryptography``'s HPKE takes it."""
        return MLKEM768X25519PrivateKey(*self._parts())

    def _parts(self) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
        expanded = hashlib.shake_256(self.seed).digest(96)
        return MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), X25519PrivateKey.from_private_bytes(expanded[64:])


def create_tls_key(folder: KeyFolder, name: str) -> ec.EllipticCurvePrivateKey:
    """Make an ECDSA P-256 key for TLS and keep it.

    Args:
        folder: Where.
        name: Under which name.

    Returns:
        The key; its public half goes to :meth:`security.authority.Authority.issue`.

    Raises:
        VaultError: A key of this name is already there, or it cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    folder.keep(name, pkcs8_pem(key))
    return key


def load_tls_key(folder: KeyFolder, name: str) -> ec.EllipticCurvePrivateKey:
    """Read an ECDSA P-256 key from its file.

    Raises:
        VaultError: The file is missing, open to others, or does not open.
        IdentityError: It holds no such key.
    """
    try:
        key = serialization.load_pem_private_key(folder.read(name), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(f"{folder.path / name} holds another kind of key", expected="ECDSA P-256")
    return key


def pkcs8_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key as TLS libraries read it: PKCS#8, PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def create_supernode_key(path: Path) -> None:
    """Make the ECDSA P-384 key of a Flower SuperNode: ``path`` (0600) and ``path`` + ``.pub``, in OpenSSH format.

    ``flower-supernode --auth-supernode-private-key`` (flwr 1.41) reads only this format, and
    ``flwr supernode register`` takes the public file.

    Args:
        path: The new private key file.

    Raises:
        IdentityError: A key is already there, or a file cannot be written.
    """
    save_supernode_key(path, ec.generate_private_key(ec.SECP384R1()))


def save_supernode_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Keep a SuperNode's key in new files, as :func:`create_supernode_key` does.

    Raises:
        IdentityError: A key is already there, or a file cannot be written.
    """
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    write_new(path, private, error=IdentityError)
    # The private file above has decided whose key this is; a leftover public file without one is of no use.
    save_supernode_public(path, key.public_key())


def save_supernode_public(path: Path, key: ec.EllipticCurvePublicKey) -> None:
    """Write the public file of the SuperNode's key in ``path``, in place of an older one if there is one.

    Raises:
        IdentityError: It cannot be written.
    """
    public = path.with_name(f"{path.name}.pub")
    replace(public, [supernode_line(key), b"\n"], error=IdentityError, mode=PUBLIC)


def load_supernode_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a SuperNode's private key from its file.

    Raises:
        IdentityError: The file is missing, open to others, or holds no ECDSA P-384 key in OpenSSH format.
    """
    content = read_private(path, error=IdentityError)
    try:
        key = serialization.load_ssh_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError):
        raise IdentityError(f"{path} holds no usable private key", expected="unencrypted OpenSSH format") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise IdentityError(f"{path} holds another kind of key", expected="ECDSA P-384")
    return key


def supernode_line(key: ec.EllipticCurvePublicKey) -> bytes:
    """Write a SuperNode's public key as OpenSSH does: one line, without a comment or a line end."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def read_supernode_line(line: bytes) -> ec.EllipticCurvePublicKey:
    """Read what :func:`supernode_line` wrote, in that one spelling.

    Args:
        line: From anywhere.

    Returns:
        The key.

    Raises:
        IdentityError: It is no such key, or has a comment or a line end.
    """
    try:
        key = serialization.load_ssh_public_key(line) if line.startswith(_SUPERNODE_TYPE) else None
    except (ValueError, UnsupportedAlgorithm, NotImplementedError):  # the last, when its point is compressed
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or supernode_line(key) != line:
        raise IdentityError(
            "a SuperNode's public key cannot be used", expected="ECDSA P-384, one line in OpenSSH format, no comment"
        )
    return key
