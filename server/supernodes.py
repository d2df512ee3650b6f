"""The keys that SuperNodes sign with, as Flower knows them."""

from __future__ import annotations

from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from security.keys import read_supernode_line


def flower_key(line: bytes) -> bytes:
    """Return a SuperNode's public key in the encoding that Flower stores and lists nodes by.

    Args:
        line: The key as OpenSSH writes it, without a comment; a line end is left out.

    Raises:
        IdentityError: It is no such key, or not ECDSA P-384.
    """
    return bytes(public_key_to_bytes(read_supernode_line(line.removesuffix(b"\n"))))
