"""The authority's statement: which keys a federation's server signs and opens with.

The root is X.509 and the server's Ed25519 and MLKEM768-X25519 keys are not, so no certificate can bind them. Instead
the root's own key signs a record that names the server and both keys, with an end. Whoever pins the root's certificate
then knows the server's keys, and through the server's signature all that the server says.

The key that signs certificates signs this too. The two cannot be taken for one another: what is signed of a certificate
is DER and begins with the byte 0x30, and what is signed here begins with a domain in letters.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import IdentityError
from common.proto import enrolment_pb2 as pb
from security.authority import LEAF_LIFETIME, Authority, federation_of
from security.identity import Peer
from security.keys import SealingPublicKey, VerifyKey
from security.names import Role, SpiffeId
from security.records import VERSION, joined, read_record, refused, require

if TYPE_CHECKING:
    from cryptography import x509

MAX_STATEMENT_BYTES = 2**12
"""The longest statement: 4 KiB, twice what one needs."""

_DOMAIN = b"bottega/v1/authority-statement\x00"


def vouch(authority: Authority, server: Peer, *, now_ms: int, lifetime: dt.timedelta = LEAF_LIFETIME) -> bytes:
    """State, as the authority, which keys the federation's server holds.

    Args:
        authority: The federation's.
        server: The server's name and public keys.
        now_ms: Unix time, milliseconds.
        lifetime: From now.

    Returns:
        A serialised ``AuthorityStatement``. It holds no secret.

    Raises:
        IdentityError: It is not the server of this federation, or the lifetime is not positive.
    """
    require("the stated server's federation", server.id.federation, authority.federation)
    require("the stated server's role", server.id.role, Role.SERVER)
    if lifetime <= dt.timedelta(0):
        raise IdentityError("a statement cannot have this lifetime", got=lifetime, expected="a positive one")
    body = pb.ServerKeys(
        version=VERSION,
        spiffe_id=str(server.id),
        verify=server.verify.raw,
        sealing=server.sealing.raw,
        expires_at_ms=now_ms + lifetime // dt.timedelta(milliseconds=1),
    ).SerializeToString()
    signature = authority.key.sign(joined(_DOMAIN, body), ec.ECDSA(hashes.SHA256()))
    return pb.AuthorityStatement(body=body, signature=signature).SerializeToString()


def vouched_server(statement: bytes, authority: x509.Certificate, *, now_ms: int) -> Peer:
    """Read from a statement who the federation's server is, or refuse it.

    Args:
        statement: A serialised ``AuthorityStatement``, from anywhere.
        authority: The root's certificate, which the caller pins.
        now_ms: Unix time, milliseconds.

    Returns:
        The server's name and public keys.

    Raises:
        IdentityError: It is no statement of this version, not by this authority, not about the server of its
            federation, or over.
    """
    wire = read_record(pb.AuthorityStatement, statement, "authority's statement", most=MAX_STATEMENT_BYTES)
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise refused("the authority's key is of another kind", got=type(key).__name__, expected="ECDSA P-256")
    try:
        key.verify(wire.signature, joined(_DOMAIN, wire.body), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise refused("the statement is not by this authority") from None
    body = read_record(pb.ServerKeys, wire.body, "statement's body", most=MAX_STATEMENT_BYTES)
    require("the statement's version", body.version, VERSION)
    server = SpiffeId.parse(body.spiffe_id)
    require("the stated server's federation", server.federation, federation_of(authority))
    require("the stated server's role", server.role, Role.SERVER)
    if now_ms >= body.expires_at_ms:
        raise refused("the authority's statement is over", got=now_ms, expected=f"before {body.expires_at_ms}")
    return Peer(server, VerifyKey(body.verify), SealingPublicKey(body.sealing))
