"""The keys that SuperNodes sign with, as Flower knows them."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from common.errors import IdentityError


def flower_key(file: Path) -> bytes:
    """Return a SuperNode's public key in the encoding that Flower stores and lists nodes by.

    Raises:
        IdentityError: The file is no OpenSSH public key of an elliptic curve.
    """
    try:
        key = load_ssh_public_key(file.read_bytes())
    except (OSError, ValueError) as cause:
        raise IdentityError(
            "a SuperNode's public key cannot be read", got=file.name, expected="an OpenSSH public key"
        ) from cause
    if not isinstance(key, EllipticCurvePublicKey):
        raise IdentityError(
            "a SuperNode's public key is of another kind", got=type(key).__name__, expected="ECDSA P-384"
        )
    return bytes(public_key_to_bytes(key))
